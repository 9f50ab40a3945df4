"""Translate dates, amounts and names from English to German."""

from collections.abc import Sequence

from rich.table import Table
from torchmetrics.text import CHRFScore

from blockformer.demo.runs import Run, console, fit, prepare, say_where
from blockformer.generation.text_model import TextModel

SCORED, SHOWN = 400, 12
Pair = tuple[str, str]


def main(further: Sequence[str]) -> None:
    """Train the article's model, and let it translate combinations that it has not seen."""
    prepare("translation.yaml")
    run = fit("demo_translation", "translation.yaml", further)
    pairs = test_pairs(run, SCORED)
    model = TextModel.load(run.folder)
    found = model.search([""] * len(pairs), sources=[source for source, _ in pairs], max_new_tokens=64)
    translations = [row[0][0] for row in found]
    console.print()
    console.print(examples(pairs[:SHOWN], translations[:SHOWN]))
    exact, chrf = scores(translations, [target for _, target in pairs])
    console.print(f"{len(pairs)} unseen test pairs, beam search: exact match {exact:.1%}, chrF {chrf:.1f}")
    say_where(run)


def test_pairs(run: Run, count: int) -> list[Pair]:
    """The first pairs of the test split, as text."""
    prepared = run.data().prepared
    sources, targets = prepared.pairs("test")
    decode = prepared.tokenizer.decode
    return [(decode(sources[index]), decode(targets[index])) for index in range(min(count, len(sources)))]


def scores(translations: Sequence[str], targets: Sequence[str]) -> tuple[float, float]:
    """The share that is right to the letter, and chrF (Popovic 2015) in percent."""
    exact = sum(map(str.__eq__, translations, targets)) / len(targets)
    chrf = CHRFScore(n_word_order=0)(list(translations), [[target] for target in targets])
    return exact, 100 * float(chrf)


def examples(pairs: Sequence[Pair], translations: Sequence[str]) -> Table:
    """Sources and their translations, and what they should have been where they are not."""
    table = Table(title="Unseen English, translated", title_justify="left")
    for name in ("English", "translation", "expected, if different"):
        table.add_column(name)
    for (source, target), translation in zip(pairs, translations, strict=True):
        table.add_row(source, translation, "" if translation == target else target)
    return table
