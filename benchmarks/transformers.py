"""A train step of imported models against transformers' own classes, with the same weights, turn by turn.

    python -m benchmarks.transformers [FAMILY ...] [--turns 9] [--threads 1]

Needs the extra `hf`. Every model has a width of 256, four layers and random weights; a step is forward, loss and
backward on four texts of 128 tokens, in float32, each side computing attention as it does by default.
"""

import argparse
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.interleaved import Step, machine, ratio
from blockformer.assembly.builder import check
from blockformer.huggingface import HuggingFaceNames, read_folder

VOCAB, BATCH, LENGTH = 2048, 4, 128
COMMON = {"vocab_size": VOCAB, "hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 8, "pad_token_id": 0}
LLAMA = {**COMMON, "intermediate_size": 704, "num_key_value_heads": 4, "max_position_embeddings": 256}
T5 = {
    "vocab_size": VOCAB,
    "d_model": 256,
    "d_ff": 1024,
    "d_kv": 32,
    "num_layers": 2,
    "num_heads": 8,
    "dropout_rate": 0.0,
}
LATENT = {"q_lora_rank": 96, "kv_lora_rank": 64, "qk_rope_head_dim": 16, "qk_nope_head_dim": 32, "v_head_dim": 32}
GROUPS = {"n_routed_experts": 8, "num_experts_per_tok": 2, "n_shared_experts": 1, "n_group": 2, "topk_group": 1}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": (
        "GPT2LMHeadModel",
        {"vocab_size": VOCAB, "n_embd": 256, "n_layer": 4, "n_head": 8, "n_positions": 256, "resid_pdrop": 0.0}
        | {"embd_pdrop": 0.0, "attn_pdrop": 0.0},
    ),
    "gpt_neox": ("GPTNeoXForCausalLM", {**COMMON, "intermediate_size": 1024, "hidden_dropout": 0.0}),
    "llama": ("LlamaForCausalLM", LLAMA),
    "mistral": ("MistralForCausalLM", {**LLAMA, "sliding_window": 48}),
    "qwen3": ("Qwen3ForCausalLM", {**LLAMA, "head_dim": 32}),
    "gemma2": (
        "Gemma2ForCausalLM",
        {**LLAMA, "head_dim": 32, "sliding_window": 48, "query_pre_attn_scalar": 32, "attention_dropout": 0.0},
    ),
    "mixtral": ("MixtralForCausalLM", {**LLAMA, "num_local_experts": 8, "num_experts_per_tok": 2}),
    "deepseek_v3": (
        "DeepseekV3ForCausalLM",
        {
            **LLAMA,
            **LATENT,
            **GROUPS,
            "num_key_value_heads": 8,
            "moe_intermediate_size": 256,
            "first_k_dense_replace": 1,
        },
    ),
    "bert": (
        "BertForMaskedLM",
        {**COMMON, "intermediate_size": 1024, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    ),
    "t5": ("T5ForConditionalGeneration", T5),
}


def pair(name: str) -> tuple[nn.Module, nn.Module]:
    """Our model and transformers', with the same weights, both training."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    kind, settings = MODELS[name]
    original: Any = getattr(transformers, kind)
    torch.manual_seed(0)
    theirs = original(original.config_class(**settings))
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        imported = read_folder(folder)
        ours = check(imported.recipe)
        ours.load_state_dict({key: value.clone() for key, value in imported.parameters.items()}, assign=True)
    for parameter in ours.parameters():
        parameter.requires_grad_()
    return HuggingFaceNames(ours).train(), theirs.train()


def step(model: nn.Module, logits: Callable[..., Tensor], inputs: Mapping[str, Tensor], targets: Tensor) -> Step:
    """Forward, cross-entropy and backward."""

    def run() -> None:
        model.zero_grad(set_to_none=True)
        F.cross_entropy(logits(**inputs).flatten(0, 1), targets.flatten()).backward()

    return run


def main() -> None:
    """Print, for every family, both times and the median of their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", choices=[*MODELS, []], default=[])
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(machine())
    for name in options.families or MODELS:
        ours, theirs = pair(name)
        ids, targets = torch.randint(1, VOCAB, (2, BATCH, LENGTH))
        inputs = {"input_ids": ids} | ({"decoder_input_ids": targets} if name == "t5" else {})
        plainly = {} if name == "bert" else {"use_cache": False}
        steps = (
            step(ours, ours, inputs, targets),
            step(
                theirs,
                lambda theirs=theirs, plainly=plainly, **given: theirs(**given, **plainly).logits,
                inputs,
                targets,
            ),
        )
        own, other, relative = ratio(*steps, turns=options.turns, warm_up=1)
        print(
            f"{name:12} ours {own * 1e3:7.1f} ms, transformers {other * 1e3:7.1f} ms, ratio {relative:.3f}", flush=True
        )


if __name__ == "__main__":
    main()
