"""Inspect a model without training it: cost, memory, activation statistics at step 0, and diagrams."""
