"""Transformer layers: sublayers and their order."""
