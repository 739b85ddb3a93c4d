"""How a chunk of pictures is processed."""
