"""Mixers made of other mixers, or of experts."""
