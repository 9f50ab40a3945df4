"""Models: token ids to logits."""
