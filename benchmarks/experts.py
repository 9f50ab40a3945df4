"""A train step of a mixture of experts against the class of transformers for it, with the same weights.

python -m benchmarks.experts [--dim 256] [--experts 8] [--tokens 1024] [--turns 15]
"""

import argparse
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.interleaved import Step, machine, ratio
from blocks.base import Component, Site
from registry import parse

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def theirs(dim: int, hidden: int, experts: int, top_k: int, implementation: str) -> nn.Module:
    """Mixtral's block, with random weights."""
    from transformers import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

    config = MixtralConfig(
        hidden_size=dim,
        intermediate_size=hidden,
        num_local_experts=experts,
        num_experts_per_tok=top_k,
        experts_implementation=implementation,
    )
    block = MixtralSparseMoeBlock(config)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.05)
    return block


def ours(source: nn.Module, dim: int, hidden: int, experts: int, top_k: int) -> Component:
    """The same from a recipe, with its weights."""
    weights = source.state_dict()
    gate, up = weights["experts.gate_up_proj"].chunk(2, dim=1)
    expert, router = {"type": "glu", "hidden": hidden}, {"top_k": top_k}
    block: Component = parse("feedforward", {"type": "moe", "experts": experts, "expert": expert, "router": router})(
        Site(dim=dim)
    )
    names = {"gate": gate, "up": up, "down": weights["experts.down_proj"]}
    linear = {"router.linear.weight": weights["gate.weight"]}
    block.load_state_dict({f"experts.{name}.weight": value for name, value in names.items()} | linear)
    return block


def step(block: nn.Module, call: Callable[[Tensor], Tensor], x: Tensor) -> Step:
    """Forward and backward, down to the gradient of the input."""

    def run() -> None:
        block.zero_grad(set_to_none=True)
        given = x.detach().requires_grad_()
        call(given).square().mean().backward()
        if x.is_cuda:
            torch.cuda.synchronize()

    return run


def main() -> None:
    """Print, for each way in which transformers computes it, the largest difference and the ratio of times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    defaults = {"dim": 256, "hidden": 512, "experts": 8, "top_k": 2, "tokens": 1024, "turns": 15}
    for name, default in defaults.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    options = parser.parse_args()
    device, dtype = "cuda" if torch.cuda.is_available() else "cpu", DTYPES[options.dtype]
    sizes = (options.dim, options.hidden, options.experts, options.top_k)
    print(f"{machine()}; {options.dtype}, {vars(options)}")
    x = torch.randn(4, options.tokens // 4, options.dim, device=device, dtype=dtype)
    for implementation in ("eager", "grouped_mm"):
        other = theirs(*sizes, implementation)
        own = ours(other, *sizes).to(device, dtype)
        other.to(device, dtype)
        expected = other(x)
        difference = float(((own(x) - expected).abs().max() / expected.abs().max()).detach())
        a, b, both = ratio(step(own, own, x), step(other, other, x), turns=options.turns)
        print(
            f"against {implementation}: {1e3 * a:.1f} ms to {1e3 * b:.1f} ms, ratio {both:.3f}; "
            f"largest difference {difference:.1e} of the largest value"
        )


if __name__ == "__main__":
    main()
