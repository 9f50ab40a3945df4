"""Softmax attention and the ways to compute it."""
