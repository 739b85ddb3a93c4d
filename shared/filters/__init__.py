"""How a search is narrowed: the language, and what its filters are true of."""
