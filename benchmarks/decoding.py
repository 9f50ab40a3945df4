"""Tokens per second of greedy decoding against transformers' `generate`, with the same weights, turn by turn.

    python -m benchmarks.decoding [--shapes gpt2 llama] [--batches 1 16] [--prompt 32] [--new 128] [--turns 5]
        [--compiled] [--limit 600] [--out benchmarks/results/decoding.json]

Needs the extra `hf`. Both models are 256 wide, with six layers, 8 heads, 8,192 ids and random weights in float32, on a
CPU with one thread; ours is the imported one. Each contestant decodes as it does by default, with a cache; with
`--compiled` ours does so with a compiled step too, whose compilation does not count. Seconds are of processor time, so
that other programs disturb little. The tokens are compared. Results are written after every case, and cases that an
earlier measurement has written stay, so that a measurement can be made in parts.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.interleaved import in_turns, machine
from blockformer.assembly.builder import check
from blockformer.files import as_json, write_text
from blockformer.generation import generate
from blockformer.huggingface import read_folder
from blocks.models.base import Model

VOCAB, LENGTH = 8192, 1024
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2LMHeadModel", {"n_embd": 256, "n_layer": 6, "n_head": 8, "n_positions": LENGTH}),
    "llama": (
        "LlamaForCausalLM",
        {
            "hidden_size": 256,
            "intermediate_size": 704,
            "num_hidden_layers": 6,
            "num_attention_heads": 8,
            "max_position_embeddings": LENGTH,
        },
    ),
}
Result = dict[str, Any]
Decode = Callable[[], list[list[int]]]


def pair(name: str) -> tuple[Model, Any]:
    """Our model and transformers', with the same weights, in evaluation mode."""
    import transformers

    kind, settings = SHAPES[name]
    original: Any = getattr(transformers, kind)
    torch.manual_seed(0)
    special = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    theirs = original(original.config_class(vocab_size=VOCAB, **special, **settings)).eval()
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        imported = read_folder(folder)
        ours = check(imported.recipe)
        ours.load_state_dict({key: value.clone() for key, value in imported.parameters.items()}, assign=True)
    return ours.eval(), theirs


def contestants(name: str, prompts: torch.Tensor, new: int, *, compiled: bool) -> dict[str, Decode]:
    """By name, what decodes ``new`` tokens after each prompt (B, T)."""
    ours, theirs = pair(name)
    rows = prompts.tolist()
    settings = {"max_new_tokens": new, "do_sample": False, "pad_token_id": 0}
    found: dict[str, Decode] = {
        "ours": lambda: generate(ours, rows, max_new_tokens=new),
        "transformers": lambda: theirs.generate(prompts, attention_mask=torch.ones_like(prompts), **settings)[
            :, prompts.shape[1] :
        ].tolist(),
    }
    if compiled:
        found["compiled"] = lambda: generate(ours, rows, max_new_tokens=new, compiled=True)
    return found


def measure(name: str, batch: int, prompt: int, new: int, turns: int, *, compiled: bool) -> Result:
    """Tokens per second of each contestant, and the median over the turns of the ratios to transformers."""
    prompts = torch.randint(1, VOCAB, (batch, prompt), generator=torch.Generator().manual_seed(0))
    decoders = contestants(name, prompts, new, compiled=compiled)
    written: dict[str, list[list[int]]] = {}

    def step(who: str) -> None:
        written[who] = decoders[who]()

    times = in_turns(
        {who: lambda who=who: step(who) for who in decoders}, turns=turns, warm_up=1, clock=time.process_time
    )
    theirs = times["transformers"]
    return {
        "shape": name,
        "batch": batch,
        "prompt": prompt,
        "new": new,
        "turns": turns,
        "same_tokens": all(tokens == written["transformers"] for tokens in written.values()),
        "tokens_per_second": {who: batch * new / median(seconds) for who, seconds in times.items()},
        "ratio": {
            who: median(b / a for a, b in zip(seconds, theirs, strict=True))
            for who, seconds in times.items()
            if who != "transformers"
        },
    }


def line(one: Result) -> str:
    """One row of the table."""
    rates = ", ".join(f"{who} {rate:,.0f}" for who, rate in one["tokens_per_second"].items())
    ratios = ", ".join(f"{who} {ratio:.2f}" for who, ratio in one["ratio"].items())
    same = "same tokens" if one["same_tokens"] else "OTHER TOKENS"
    return f"{one['shape']:6} batch {one['batch']:3}: {rates} tokens/s; ratio: {ratios}; {same}"


def main() -> None:
    """Measure all cases that the time allows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--prompt", type=int, default=32, help="tokens of each prompt")
    parser.add_argument("--new", type=int, default=128, help="tokens to decode")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--compiled", action="store_true", help="measure our compiled step too")
    parser.add_argument("--limit", type=float, default=600, help="seconds after which no further case begins")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/decoding.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    known = json.loads(options.out.read_text(encoding="utf-8"))["measured"] if options.out.is_file() else []
    begun = time.perf_counter()
    for name, batch in ((name, batch) for name in options.shapes for batch in options.batches):
        if time.perf_counter() - begun > options.limit:
            print(f"{name} batch {batch} is left out: no time left")
            continue
        one = measure(name, batch, options.prompt, options.new, options.turns, compiled=options.compiled)
        known = [other for other in known if (other["shape"], other["batch"]) != (name, batch)] + [one]
        write_text(options.out, as_json({"machine": machine(), "measured": known}, indent=1) + "\n")
        print(line(one), flush=True)


if __name__ == "__main__":
    main()
