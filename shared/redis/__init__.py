"""What Redis keeps: jobs, the feed, the catalogue; its keys and its scripts."""
