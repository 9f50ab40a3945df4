"""The models of :mod:`benchmarks.gpu`: a recipe, and the same shape by hand and in transformers."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.handwritten import HandwrittenDecoder
from blockformer.assembly import check
from blockformer.assembly.builder import materialise
from blocks.models.base import Model
from registry import load_recipe

Logits = Callable[[Tensor], Tensor]
STD = 0.02


@dataclass(frozen=True)
class Shape:
    """The sizes of a model.

    Attributes:
        kind: gpt2, llama or mixtral.
        key_heads: number of key and value heads.
        hidden: width of the feed-forward, or of each expert.
        experts: number of experts, two of which each token goes to; 0: no mixture.
    """

    kind: str
    dim: int
    depth: int
    heads: int
    key_heads: int
    hidden: int
    vocab_size: int
    experts: int = 0

    def recipe(self, length: int, backend: str) -> dict[str, Any]:
        """Our recipe for texts of this length."""
        mixer: dict[str, Any] = {"type": "attention", "heads": self.heads, "backend": backend}
        if self.kind == "gpt2":
            feedforward: dict[str, Any] = {"type": "mlp", "hidden": self.hidden, "activation": "gelu_tanh"}
            mixer, norm = mixer | {"bias": True}, "layer"
        else:
            feedforward, norm = {"type": "glu", "hidden": self.hidden}, "rms"
            mixer |= {"kv_heads": self.key_heads, "positions": "rotary"}
        if self.experts:
            router = {"type": "top_k", "top_k": 2, "balance_loss": 0.0}
            feedforward = {"type": "moe", "experts": self.experts, "expert": feedforward, "router": router}
        layer = {"mixer": mixer, "feedforward": feedforward, "residual": {"type": "pre", "norm": norm}}
        positions = "learned" if self.kind == "gpt2" else "none"
        return {
            "type": "decoder_only",
            "dim": self.dim,
            "vocab_size": self.vocab_size,
            "max_length": length,
            "embedding": {"positions": positions},
            "decoder": {"depth": self.depth, "layer": layer, "norm": norm},
            "head": "tied",
        }

    def ours(self, length: int, device: torch.device, backend: str = "auto") -> Model:
        """The model of the recipe; its values are drawn on the device, because that is faster."""
        model = check(load_recipe(self.recipe(length, backend)))
        materialise(model, device)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(1.0) if parameter.ndim == 1 else parameter.normal_(std=STD)
        return model.train()

    def by_hand(self, device: torch.device) -> nn.Module:
        """The decoder of :mod:`benchmarks.handwritten`; for the shape of Llama only."""
        with device:
            model = HandwrittenDecoder(self.vocab_size, self.dim, self.depth, self.heads, self.key_heads, self.hidden)
        nn.init.normal_(model.tokens.weight, std=STD)
        return model.train()

    def of_transformers(self, length: int, device: torch.device) -> tuple[nn.Module, Logits]:
        """The class of transformers, with its own choice of attention, and its logits."""
        import transformers

        sizes = {"vocab_size": self.vocab_size, "tie_word_embeddings": True, "use_cache": False}
        if self.kind == "gpt2":
            off = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
            names = {"n_embd": self.dim, "n_layer": self.depth, "n_head": self.heads, "n_positions": length}
            config: Any = transformers.GPT2Config(n_inner=self.hidden, **names, **off, **sizes)
            kind: Any = transformers.GPT2LMHeadModel
        else:
            sizes |= {"hidden_size": self.dim, "num_hidden_layers": self.depth, "max_position_embeddings": length}
            sizes |= {"num_attention_heads": self.heads, "num_key_value_heads": self.key_heads}
            sizes |= {"intermediate_size": self.hidden}
            if self.experts:
                config = transformers.MixtralConfig(
                    num_local_experts=self.experts, sliding_window=None, experts_implementation="grouped_mm", **sizes
                )
                kind = transformers.MixtralForCausalLM
            else:
                config, kind = transformers.LlamaConfig(**sizes), transformers.LlamaForCausalLM
        with device:
            model = kind(config)
        return model.train(), lambda tokens: model(tokens, use_cache=False).logits


GPT2 = Shape("gpt2", dim=768, depth=12, heads=12, key_heads=12, hidden=3072, vocab_size=50304)
LLAMA = Shape("llama", dim=2048, depth=28, heads=32, key_heads=8, hidden=5632, vocab_size=32768)
MIXTURE = Shape("mixtral", dim=1024, depth=12, heads=16, key_heads=8, hidden=1792, vocab_size=32768, experts=8)
TOY = {
    "gpt2": Shape("gpt2", dim=64, depth=2, heads=4, key_heads=4, hidden=128, vocab_size=512),
    "llama": Shape("llama", dim=64, depth=2, heads=4, key_heads=2, hidden=128, vocab_size=512),
    "mixtral": Shape("mixtral", dim=64, depth=2, heads=4, key_heads=2, hidden=64, vocab_size=512, experts=8),
}
FULL = {"gpt2": GPT2, "llama": LLAMA, "mixtral": MIXTURE}


@dataclass(frozen=True)
class Case:
    """One comparison of training steps.

    Attributes:
        model: a key of :data:`FULL`.
        length: tokens of a row.
        documents: whether rows hold several documents, between which there is no attention.
        compiled: whether all contestants are compiled.
        backends: of our attention; each is a contestant.
        others: ``by hand``, ``transformers``.
    """

    model: str
    length: int
    documents: bool = False
    compiled: bool = False
    backends: tuple[str, ...] = ("auto",)
    others: tuple[str, ...] = field(default=("transformers",))

    @property
    def name(self) -> str:
        """``llama 2048 documents compiled``."""
        return " ".join([self.model, str(self.length), *["documents"] * self.documents, *["compiled"] * self.compiled])


BOTH = ("by hand", "transformers")
THREE = ("auto", "flex", "sdpa")
CASES = (
    Case("gpt2", 2048),
    Case("gpt2", 2048, documents=True, backends=THREE, others=()),
    Case("llama", 2048, others=BOTH),
    Case("mixtral", 2048),
    Case("gpt2", 8192),
    Case("llama", 8192, others=BOTH),
    Case("mixtral", 8192),
    Case("llama", 8192, documents=True, backends=THREE, others=()),
    Case("gpt2", 2048, compiled=True),
    Case("gpt2", 2048, documents=True, compiled=True, backends=THREE, others=()),
    Case("llama", 2048, compiled=True, others=("by hand",)),
    Case("mixtral", 2048, compiled=True, others=()),  # transformers' one breaks into many graphs, which takes minutes
    Case("llama", 8192, compiled=True, others=("by hand",)),
)
"""Cheap ones first: where time runs out, the last ones are left out."""
