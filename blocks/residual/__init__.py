"""How a sublayer is wired into the residual stream."""
