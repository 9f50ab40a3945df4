"""Routers: they choose the experts of each token."""
