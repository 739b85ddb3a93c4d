"""Taking work in: what was accepted is never lost."""
