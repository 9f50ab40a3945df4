"""What becomes of several residual streams after the last layer."""
