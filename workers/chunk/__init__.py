"""What becomes of a chunk of pictures."""
