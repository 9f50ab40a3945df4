"""What is measured of a model while it trains: norms by layer, activations, expert load, attention maps, spikes."""

BY_LAYER = (
    "gradient_norm",
    "weight_norm",
    "update_ratio",
    "activation_rms",
    "expert_load_max",
    "expert_load_min",
)
"""Groups of figures with one figure for each layer, such as `gradient_norm/decoder.layers.3`."""
