"""Twinlens: image search that combines several ONNX models with Milvus."""

__version__ = "0.1.0"
