"""One Transformer layer: its sublayers and their order."""
