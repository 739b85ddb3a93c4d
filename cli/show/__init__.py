"""Commands that ask a service, and show what it answers."""
