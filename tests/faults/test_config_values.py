"""Configs of Hugging Face with other values: transformers' logits, or a refusal; never other logits without a word."""

import shutil
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
import transformers

from blockformer.huggingface import HuggingFaceError, read_folder, verify
from tests.huggingface.families.cases import CASES, Case
from tests.huggingface.families.originals import new_original

ONE_EACH = list({case.model_type: case for case in reversed(CASES)}.values())
BARE = set(transformers.PretrainedConfig().to_dict()) | {
    *("vocab_size", "is_encoder_decoder"),
    "rescale_prenorm_residual",  # transformers 5 scales weights that it loads once more, so its own copy differs
    "rescale_every",  # transformers halves the stream every few layers in inference: eps of norms counts for more
}
ACTIVATIONS = ("gelu", "relu", "silu", "gelu_new", "gelu_pytorch_tanh")
FOREIGN: dict[str, Any] = {  # keys that some families read and others do not
    "attention_bias": True,
    "mlp_bias": True,
    "partial_rotary_factor": 0.5,
    "rope_theta": 5000.0,
    "head_dim": 16,
    "sliding_window": 3,
    "use_sliding_window": True,
    "final_logit_softcapping": 5.0,
    "logit_scale": 0.3,
    "attn_logit_softcapping": 5.0,
    "embedding_multiplier": 2.0,
    "residual_multiplier": 0.5,
    "clip_qkv": 0.5,
    "hidden_act": "relu",
    "activation_function": "relu",
    "num_key_value_heads": 1,
    "qk_layernorm": True,
    "scale_embedding": True,
    "scale_attn_weights": False,
    "norm_topk_prob": True,
    "tie_word_embeddings": False,
}


def other_values(value: Any) -> Iterator[Any]:
    """Values that a config could have in place of this one."""
    match value:
        case bool():
            yield not value
        case int():
            yield from (value * 2, max(1, value // 2), 1)
        case float():
            yield from (value * 1.7, 0.0) if value else (0.3,)
        case str() if value in ACTIVATIONS:
            yield from (name for name in ACTIVATIONS if name != value)
        case [str(), *_]:
            yield from (value[::-1], [value[0]] * len(value))
        case None:
            yield from (2, True, 0.5)
        case {"rope_type": _}:
            scaled = {"factor": 2.0, "original_max_position_embeddings": 20}
            yield from (value | {"rope_theta": 3000.0}, value | {"partial_rotary_factor": 0.5})
            yield from (value | scaled | {"rope_type": kind} for kind in ("linear", "dynamic", "yarn"))
        case _:
            pass


@pytest.mark.slow
@pytest.mark.parametrize("case", ONE_EACH, ids=str)
def test_a_changed_config_gives_the_logits_of_transformers_or_is_refused(
    case: Case, faults: int, tmp_path: Path, tally: Callable[[str, str], None]
) -> None:
    known = transformers.AutoConfig.for_model(case.model_type, **deepcopy(case.config)).to_dict()
    changes = [(key, other) for key, value in known.items() if key not in BARE for other in other_values(value)]
    changes += [(key, value) for key, value in FOREIGN.items() if key not in known]
    for key, value in Random(faults).sample(changes, min(max(5, faults // 4), len(changes))):
        shutil.rmtree(tmp_path / "changed", ignore_errors=True)
        outcome = outcome_of(replace(case, config=case.config | {key: value}), tmp_path / "changed")
        assert outcome != "differs", f"{key}: {known.get(key)} -> {value}"
        tally("value in a config", outcome)


def outcome_of(case: Case, folder: Path) -> str:
    """What we answer to a config that transformers can run."""
    try:
        model = new_original(case)
        model.save_pretrained(folder)
        target = {"decoder_input_ids": torch.arange(2, 10)[None]} if model.config.is_encoder_decoder else {}
        with torch.no_grad():
            model(torch.arange(2, 14)[None], **target)
    except Exception:  # of any class: transformers refuses or crashes on some of these configs
        return "no model of transformers"
    try:
        return "the same logits" if verify(read_folder(folder), length=24).agrees else "differs"
    except HuggingFaceError:
        return "refused"
