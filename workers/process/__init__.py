"""What one worker process is: its start, what it holds, its signs of life."""
