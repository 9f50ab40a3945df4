"""Small models that propose tokens in place of masked ones, in training only."""
