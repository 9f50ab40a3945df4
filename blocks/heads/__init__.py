"""From vectors to logits."""
