"""Servers that the model server is measured beside: all of them around the same `encode` and `score`."""
