"""Train a model of each architecture on a few sentences, and explain what it does with one of them."""

import json
from collections.abc import Sequence
from pathlib import Path

from blockformer.demo.runs import Run, console, fit, say_where
from blockformer.demo.sentences import pairs
from blockformer.explanation import explain
from blockformer.explanation.page import write_page
from blockformer.files import write_text

FOLDER = Path("runs") / "explain"
CONFIG = "explain.yaml"
TEXT, BLANK = "cat sees dog and eats fish", "cat sees dog and eats_"


def main(further: Sequence[str]) -> None:
    """Train three models, of a few thousand parameters each, and write a page for each."""
    sentences, translations = FOLDER / "sentences.jsonl", FOLDER / "sentences.tsv"
    write_text(sentences, "".join(json.dumps({"text": english}) + "\n" for english, _ in pairs()))
    write_text(translations, "".join(f"{english}\t{german}\n" for english, german in pairs()))
    size = ["--recipe.vocab_size", "424"]  # what the tokenizer learns of both languages
    text = [*size, "--data.dataset", "table", "--data.files", str(sentences), "--data.column", "text"]
    pair = [*size, "--data.dataset", "pairs", "--data.files", str(translations)]
    longer = [] if any(one.startswith("--trainer.max_steps") for one in further) else ["--trainer.max_steps", "900"]
    explained = (
        (fit("tiny_decoder", CONFIG, [*text, *further]), TEXT),
        (fit("tiny_encoder", CONFIG, [*text, *longer, *further]), BLANK),
        (fit("tiny_encoder_decoder", CONFIG, [*pair, *further]), TEXT),
    )
    pages = [_page(run, text) for run, text in explained]
    say_where(*(run for run, _ in explained))
    console.print("\n[bold]The pages[/bold], each one file that needs no network:")
    for page in pages:
        console.print(f"  {page}")


def _page(run: Run, text: str) -> Path:
    explanation = explain(run.folder, text)
    path = FOLDER / f"{explanation.kind}.html"
    write_page(path, explanation)
    return path
