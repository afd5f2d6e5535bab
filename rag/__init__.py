"""Retrieval over documents. A leaf: no Ray, no FastAPI."""
