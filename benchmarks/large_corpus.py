"""Prepare and train on a generated corpus that is larger than the memory that the process may allocate.

python -m benchmarks.large_corpus [--gigabytes 5] [--limit 2] [--tokenizer bpe] [--folder DIR]
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from blockformer.data.module import TextData
from blockformer.training.objectives import CausalLM

WORDS = 50_000
STEPS = 20


def main() -> None:
    """Make the corpus, train on it under the limit, and print the rates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=5.0, help="size of the corpus")
    parser.add_argument("--limit", type=float, default=2.0, help="gigabytes of memory that the process may allocate")
    parser.add_argument("--tokenizer", default="bpe", choices=("bpe", "bytes"))
    parser.add_argument("--folder", type=Path, help="folder of the corpus and its tokens; default: a temporary one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        os.environ["BLOCKFORMER_CACHE"] = str(folder / "cache")
        corpus = folder / f"{options.gigabytes:g}.jsonl"
        if not corpus.exists():
            make(corpus, int(options.gigabytes * 1e9))
        data = ["--data.dataset", "table", f"--data.files={corpus}", "--data.tokenizer", options.tokenizer]
        recipe = ["--recipe", "tiny_decoder", "--recipe.vocab_size", "8192"]
        steps = ["--trainer.max_steps", str(STEPS), "--trainer.limit_val_batches", "5", "--trainer.accelerator", "cpu"]
        where = ["--run.root", str(folder / "runs"), "--run.wandb", "disabled"]
        bound = int(options.limit * 1e9)
        for what in ("prepared and trained", "trained again, from the prepared tokens"):
            begun = time.monotonic()
            subprocess.run(
                [sys.executable, "-m", "blockformer.cli.main", "fit", *recipe, *data, *steps, *where],
                check=True,
                preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (bound, bound)),
            )
            seconds = time.monotonic() - begun
            size = corpus.stat().st_size
            print(
                f"{what}: {seconds:.0f} s ({size / 1e6 / seconds:.1f} MB/s), at most {options.limit:g} GB", flush=True
            )
        measure(corpus, options.tokenizer)


def make(path: Path, size: int) -> None:
    """Write JSON lines of random words, whose frequencies are those of Zipf's law."""
    draw, letters = np.random.default_rng(0), np.array(list("etaoinshrdlucmfwypvbgkjqxz"))
    words = np.array(["".join(draw.choice(letters[: 4 + n % 23], 1 + n % 9)) for n in range(WORDS)])
    odds = 1 / np.arange(1, WORDS + 1)
    odds /= odds.sum()
    draft, written = path.with_suffix(".tmp"), 0
    with draft.open("w", encoding="utf-8") as file:
        while written < size:
            text = " ".join(words[draw.choice(WORDS, 200_000, p=odds)].tolist())
            ends = np.cumsum(draw.integers(200, 4000, 500))
            for start, end in zip([0, *ends[:-1]], ends, strict=True):
                if start < len(text):
                    written += file.write(json.dumps({"text": text[start:end]}) + "\n")
    draft.replace(path)


def measure(corpus: Path, tokenizer: str) -> None:
    """Print how fast the loader gives batches of the prepared tokens."""
    size = {"vocab_size": 8192} if tokenizer == "bpe" else {}
    settings: dict[str, Any] = {"files": str(corpus), "tokenizer": tokenizer, **size}
    data = TextData("table", **settings, length=1024, batch_size=32, objective=CausalLM())
    loader = data.loader("train")
    begun, steps = time.monotonic(), 200
    for step in range(steps):
        loader.batch(step * 7919 % len(loader))
    seconds = time.monotonic() - begun
    print(f"loader: {steps * 32 * 1024 / seconds:,.0f} tokens/s, of {data.facts()['train']['tokens']:,}")


if __name__ == "__main__":
    main()
