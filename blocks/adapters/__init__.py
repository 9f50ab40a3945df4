"""Adapters: trained changes to projections."""
