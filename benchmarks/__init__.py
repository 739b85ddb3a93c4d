"""Measures Twinlens against the least that the same work takes. `make bench` runs it."""
