"""What the stores say of a library is compared, and what one has lost comes back."""
