"""Predictions of tokens beyond the next one, which serve training only."""
