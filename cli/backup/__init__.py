"""`twinlens backup` and `twinlens restore`."""
