"""Backups: all that libraries are, as plain files, and back."""
