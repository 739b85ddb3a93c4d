"""Commands that work on models, without a service."""
