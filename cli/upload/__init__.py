"""`twinlens index`: pictures of folders, archives and listings, sent in batches."""
