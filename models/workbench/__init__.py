"""What is measured and made of models before a worker has them."""
