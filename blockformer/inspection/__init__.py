"""What is known of a model before it is trained: how it differs from another, what it needs, what it looks like."""
