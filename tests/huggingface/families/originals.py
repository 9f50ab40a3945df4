"""Models of transformers with random weights that all affect the logits, saved as Hugging Face folders."""

import re
import zlib
from collections.abc import Mapping
from copy import deepcopy
from functools import cache
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from tests.huggingface.families.cases import CASES, Case

LEARNED_BUFFERS = r"e_score_correction_bias|final_logits_bias|layer_scalar"


def without_parts(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of which some are stored in several parts, one below the other, as wholes.

    Into how many parts is in no recipe, so that an export can have another number of them.
    """
    whole: dict[str, list[tuple[int, Tensor]]] = {}
    for name, tensor in tensors.items():
        number = re.search(r"\.shard_(\d+)\.", name)
        whole.setdefault(re.sub(r"\.shard_\d+\.", ".", name), []).append((int(number[1]) if number else 0, tensor))
    return {
        name: parts[0][1] if len(parts) == 1 else torch.cat([part for _, part in sorted(parts, key=itemgetter(0))])
        for name, parts in whole.items()
    }


def original(case: Case) -> Any:
    """The model of a case; no parameter has the value (such as 0 or 1) at which ignoring it would go unnoticed."""
    return _known_original(case.name)


@cache
def _known_original(name: str) -> Any:
    return new_original(next(case for case in CASES if case.name == name))


def new_original(case: Case) -> Any:
    """:func:`original` of a case that may be none of the list."""
    config = transformers.AutoConfig.for_model(case.model_type, **deepcopy(case.config))  # which it may change
    config.architectures = [case.model]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(transformers, case.model)._from_config(config, attn_implementation="eager", dtype=torch.float32)
    tensors = dict(model.named_parameters())
    tensors |= {name: buffer for name, buffer in model.named_buffers() if re.search(LEARNED_BUFFERS, name)}
    computed = tuple(name for name, module in model.named_modules() if "sinusoidal" in type(module).__name__.lower())
    norms = tuple(name for name, module in model.named_modules() if _is_norm(module))
    for name, tensor in tensors.items():
        if computed and name.startswith(computed):
            continue
        if tensor.requires_grad or re.search(LEARNED_BUFFERS, name):
            _draw(f"{case.name} {name}", tensor, name.startswith(norms) if norms else False)
    model.tie_weights()
    return model.eval()


def saved(case: Case, folder: Path) -> Path:
    """The folder of a case; it is written on the first call."""
    place = folder / re.sub(r"\W+", "_", case.name)
    if not place.exists():
        original(case).save_pretrained(place)
    return place


def _is_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower() and next(module.children(), None) is None


@torch.no_grad()
def _draw(name: str, tensor: Tensor, norm: bool) -> None:
    """Matrices preserve the scale of their input; norms and biases are not 1 and 0; T5 needs small queries and keys."""
    noise = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
    if tensor.ndim < 2 or norm:
        tensor.add_(noise.clamp(-2, 2) * 0.25)
    elif re.search(r"embed|wte|wpe|shared|relative", name):
        tensor.copy_(noise * 0.5)
    else:
        gain = 0.7 if re.search(r"[._](q|k|query|key|q_proj|k_proj)\.weight", name) else 1.0
        tensor.copy_(noise * gain * tensor.shape[-1] ** -0.5)
