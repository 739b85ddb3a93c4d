"""What concerns a whole library, and its single images."""
