"""Mixers that carry a state of fixed size along the text, and what they share."""
