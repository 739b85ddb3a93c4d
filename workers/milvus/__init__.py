"""Vectors, as Milvus keeps them."""
