"""Taking work in: what is answered is never lost."""
