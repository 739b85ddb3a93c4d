"""One worker process: how it starts, what it holds, its heartbeat."""
