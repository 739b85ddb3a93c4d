"""Request bodies as streams of entries."""
