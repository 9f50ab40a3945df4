"""Pointwise non-linearities."""
