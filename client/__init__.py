"""A Python client of the HTTP interface."""
