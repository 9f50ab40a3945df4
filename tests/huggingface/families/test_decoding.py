"""An imported model generates the same tokens as the original, with and without a cache."""

from pathlib import Path
from typing import Any

import pytest
import torch

from blockformer import load
from blockformer.generation import generate
from blockformer.huggingface import read_folder, write_folder
from tests.huggingface.families.cases import CASES, Case, by_cost
from tests.huggingface.families.originals import original, saved

UNLIKE = (
    "mamba2 with limits",  # transformers limits the steps of prompts, but not those of later tokens
    "xlnet",  # reads text from both sides
)
GENERATIVE = [
    case
    for case in CASES
    if not case.model.endswith(("MaskedLM", "SequenceClassification")) and case.name not in UNLIKE
]
PROMPT, NEW = 9, 6


def generated(model: Any, inputs: torch.Tensor) -> torch.Tensor:
    """The tokens that transformers generates greedily, without the prompt."""
    settings = model.generation_config
    settings.eos_token_id = settings.forced_eos_token_id = settings.forced_bos_token_id = None
    settings.num_beams, settings.length_penalty, settings.early_stopping = 1, 1.0, False
    settings.max_length = None
    # transformers sizes T5's cache by the depth of the encoder, and does not hand that of RWKV on
    cached = not any(name in model.config.model_type for name in ("t5", "rwkv"))
    tokens = model.generate(inputs, do_sample=False, max_new_tokens=NEW, pad_token_id=0, use_cache=cached)
    return tokens[:, -NEW:]


@pytest.mark.parametrize("case", by_cost(GENERATIVE))
def test_greedy_decoding_gives_the_tokens_of_the_original(case: Case, originals: Path, tmp_path: Path) -> None:
    source = saved(case, originals)
    model = load(write_folder(read_folder(source), tmp_path / "imported"))
    inputs = torch.randint(8, 70, (2, PROMPT), generator=torch.Generator().manual_seed(1))
    theirs = generated(original(case), inputs).tolist()
    if model.kind == "encoder_decoder":
        start = [case.config["decoder_start_token_id"]]
        prompts: dict[str, Any] = {"prompts": [start, start], "sources": inputs.tolist()}
    else:
        prompts = {"prompts": inputs.tolist()}
    assert generate(model, **prompts, max_new_tokens=NEW) == theirs
    assert generate(model, **prompts, max_new_tokens=NEW, use_cache=False) == theirs
