"""What is asked of a library."""
