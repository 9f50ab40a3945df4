"""What is looked up by token ids and added to the residual stream."""
