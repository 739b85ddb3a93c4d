"""Measures other servers with the same model and the same decoding. `make bench-peers` runs it."""
