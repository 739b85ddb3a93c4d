"""Models: cards, ONNX graphs, pictures to pixels, pixels to embeddings, and fusion.

Stands alone: no queue, no vector store and no web framework is imported here.
"""
