"""Who may ask what: keys, where their records are, and what each request is checked against."""
