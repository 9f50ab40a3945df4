"""Measure the overhead of blocks: a recipe against the same model written by hand, eager and compiled.

python -m benchmarks.handwritten [--dim 256] [--depth 4] [--turns 15]
"""

import argparse

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import blockformer as bf
from benchmarks.interleaved import kept_for_backward, machine, ratio, train_step


class HandwrittenDecoder(nn.Module):
    """A Llama-like decoder as one would write it for one purpose: rotary, RMS norms, grouped queries, SwiGLU."""

    def __init__(self, vocab_size: int, dim: int, depth: int, heads: int, kv_heads: int, hidden: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, dim)
        self.layers = nn.ModuleList(HandwrittenLayer(dim, heads, kv_heads, hidden) for _ in range(depth))
        self.norm = nn.RMSNorm(dim, eps=1e-6)
        self.width = dim // heads

    def forward(self, tokens: Tensor) -> Tensor:
        exponents = torch.arange(0, self.width, 2, device=tokens.device) / self.width
        angles = torch.arange(tokens.shape[1], device=tokens.device)[:, None] * 10000.0**-exponents
        cos, sin = angles.cos(), angles.sin()
        x = self.tokens(tokens)
        for layer in self.layers:
            x = layer(x, cos, sin)
        return F.linear(self.norm(x), self.tokens.weight)


class HandwrittenLayer(nn.Module):
    """Attention and feed-forward, each behind its norm."""

    def __init__(self, dim: int, heads: int, kv_heads: int, hidden: int) -> None:
        super().__init__()
        self.width = dim // heads
        self.q, self.out = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.k = nn.Linear(dim, kv_heads * self.width, bias=False)
        self.v = nn.Linear(dim, kv_heads * self.width, bias=False)
        self.gate, self.up = nn.Linear(dim, hidden, bias=False), nn.Linear(dim, hidden, bias=False)
        self.down = nn.Linear(hidden, dim, bias=False)
        self.norm1, self.norm2 = nn.RMSNorm(dim, eps=1e-6), nn.RMSNorm(dim, eps=1e-6)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        y = self.norm1(x)
        q, k, v = (p(y).view(*y.shape[:2], -1, self.width).transpose(1, 2) for p in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(rotate(q, cos, sin), rotate(k, cos, sin), v, is_causal=True, enable_gqa=True)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions on the two halves of each head."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).to(x.dtype)


def main() -> None:
    """Print the ratio of train-step times, the bytes kept for backward, and the largest difference of the logits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("dim", 256), ("depth", 4), ("length", 256), ("batch", 4), ("turns", 15)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    vocab, heads, hidden = 1024, options.dim // 32, 3 * options.dim
    layer = {
        "mixer": {"type": "attention", "heads": heads, "kv_heads": heads // 2, "positions": "rotary"},
        "feedforward": {"type": "glu", "hidden": hidden},
        "residual": {"type": "pre", "norm": "rms"},
    }
    recipe = {
        "type": "decoder_only",
        "dim": options.dim,
        "vocab_size": vocab,
        "embedding": {"positions": "none"},
        "decoder": {"depth": options.depth, "layer": layer, "norm": "rms"},
    }
    composed = bf.build(recipe, device=device)
    by_hand = HandwrittenDecoder(vocab, options.dim, options.depth, heads, heads // 2, hidden).to(device)
    with torch.no_grad():
        for mine, other in zip(by_hand.parameters(), _in_handwritten_order(composed), strict=True):
            mine.copy_(other)
    tokens = torch.randint(vocab, (options.batch, options.length + 1), device=device)
    difference = (composed(tokens[:, :-1]) - by_hand(tokens[:, :-1])).abs().max().item()
    print(f"{machine()}; {composed.size:,} parameters; largest difference of logits {difference:.1e}")
    kept = [kept_for_backward(model, model, tokens) for model in (composed, by_hand)]
    print(f"kept for backward: recipe {kept[0]:,} bytes, by hand {kept[1]:,} bytes, ratio {kept[0] / kept[1]:.3f}")
    for mode, prepare in (("eager", lambda model: model), ("compiled", torch.compile)):
        steps = [train_step(model, prepare(model), tokens) for model in (composed, by_hand)]
        own, other, relative = ratio(*steps, turns=options.turns)
        print(f"{mode:9} recipe {own * 1e3:.1f} ms, by hand {other * 1e3:.1f} ms, recipe / by hand {relative:.3f}")


def _in_handwritten_order(model: nn.Module) -> list[Tensor]:
    """Our parameters in the order in which the hand-written model registers its own."""
    values = dict(model.named_parameters())
    names = ["embedding.tokens"]
    for index in range(len(model.decoder.layers)):
        layer = f"decoder.layers.{index}"
        names += [f"{layer}.{name}" for name in ("mixer.q", "mixer.out", "mixer.k", "mixer.v")]
        names += [f"{layer}.feedforward.{name}" for name in ("gate", "up", "down")]
        names += [f"{layer}.{name}_residual.norm" for name in ("mixer", "feedforward")]
    return [values[f"{name}.weight"] for name in (*names, "decoder.norm")]


if __name__ == "__main__":
    main()
