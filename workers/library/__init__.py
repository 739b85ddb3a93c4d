"""Work on a whole library, and on its single images."""
