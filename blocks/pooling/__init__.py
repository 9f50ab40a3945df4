"""From the vectors of tokens to one vector of the text."""
