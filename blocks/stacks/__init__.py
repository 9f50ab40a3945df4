"""Layers in order, and the norm after them."""
