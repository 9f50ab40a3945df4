"""What can be learned about a model without training it: its cost, memory, activations at step 0, and a drawing."""
