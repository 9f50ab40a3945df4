"""Whole models: ids to logits."""
