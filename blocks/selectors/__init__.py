"""Key selectors, which choose the keys that each query attends to."""
