"""Routers, which choose the experts of each token."""
