"""Initial values of parameters, keyed by name."""
