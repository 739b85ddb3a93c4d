"""Measures models, and makes others from them, before a worker gets them."""
