"""Feed-forward blocks: (B, T, D) -> (B, T, D), each token independently."""
