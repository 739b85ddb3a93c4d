"""Bodies of requests, as streams of entries."""
