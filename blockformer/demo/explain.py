"""Train a model of each architecture on a few sentences, and explain what it does with one of them."""

import json
from collections.abc import Sequence
from pathlib import Path

from blockformer.demo.runs import Run, console, fit_together, say_where
from blockformer.demo.sentences import pairs
from blockformer.files import write_text

FOLDER = Path("runs") / "explain"
CONFIG = "explain.yaml"
TEXT, BLANK = "cat sees dog and eats fish", "cat sees dog and eats_"
# Initial values with a standard deviation of 0.02 suit wide models; vectors of 32 numbers begin to attend much later.
NARROW = ("--recipe.init", "xavier")
WORDS, WORDS_OF_BOTH = "343", "424"  # what the tokenizer learns of English, and of both languages


def main(further: Sequence[str]) -> None:
    """Train three models, of a few thousand parameters each, and write a page for each."""
    sentences, translations = FOLDER / "sentences.jsonl", FOLDER / "sentences.tsv"
    write_text(sentences, "".join(json.dumps({"text": english}) + "\n" for english, _ in pairs()))
    write_text(translations, "".join(f"{english}\t{german}\n" for english, german in pairs()))
    text = [*NARROW, *_vocabulary(WORDS), "--data.dataset", "table", "--data.files", str(sentences)]
    text += ["--data.column", "text", "--data.length", "8"]
    pair = [*_vocabulary(WORDS_OF_BOTH), "--data.dataset", "pairs", "--data.files", str(translations)]
    longer = [] if any(one.startswith("--trainer.max_steps") for one in further) else ["--trainer.max_steps", "400"]
    wanted = (
        ("tiny_encoder_decoder", [*pair, *further], TEXT),
        ("tiny_encoder", [*text, *longer, *further], BLANK),
        ("tiny_decoder", [*text, "--objective.packing", "best_fit", *further], TEXT),
    )
    explained: dict[int, tuple[Run, Path]] = {}
    for place, run in fit_together(CONFIG, [(recipe, arguments) for recipe, arguments, _ in wanted]):
        explained[place] = run, _page(run, wanted[place][2])
    runs, pages = zip(*(explained[place] for place in sorted(explained)), strict=True)
    say_where(*runs)
    console.print("\n[bold]The pages[/bold], each one file that needs no network:")
    for page in pages:
        console.print(f"  {page}")


def _vocabulary(size: str) -> list[str]:
    return ["--recipe.vocab_size", size, "--data.vocab_size", size]


def _page(run: Run, text: str) -> Path:
    from blockformer.explanation import explain  # loads torch, while other runs go on
    from blockformer.explanation.page import write_page

    explanation = explain(run.folder, text)
    path = FOLDER / f"{explanation.kind}.html"
    write_page(path, explanation)
    return path
