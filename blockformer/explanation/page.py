"""An explanation as one HTML file that needs no network."""

import base64
from html import escape
from pathlib import Path
from typing import Any

from blockformer.explanation.comparison import Comparison, compared
from blockformer.explanation.explanation import Explanation
from blockformer.explanation.steps import Step
from blockformer.explanation.words import Words
from blockformer.files import as_json, write_text
from blocks.base.intermediates import OUTPUT
from registry import entries
from registry.formula import FormulaError, mathml

FOLDER = Path(__file__).parent
SCRIPTS = ("heatmap.js", "page.js", "start.js")
MOST_NUMBERS = 1_500_000
"""On a page: each takes 5.4 bytes, and the page is to stay below 10 MB."""
LONGEST_HEADING = 60


def write_page(path: Path, explanation: Explanation, other: Explanation | None = None, *, language: str = "en") -> None:
    """Write an explanation, or two side by side, to a file, in one step.

    Raises:
        OSError: it cannot be written.
    """
    write_text(path, as_html(explanation, other, language=language))


def as_html(explanation: Explanation, other: Explanation | None = None, *, language: str = "en") -> str:
    """The page of an explanation, or of two side by side.

    Args:
        explanation: whose steps are shown.
        other: of another model; None: none.
        language: ``en`` or ``zh``.
    """
    words = Words(language)
    room = MOST_NUMBERS // (1 if other is None else 2)
    first, second = fitted(explanation, room), None if other is None else fitted(other, room)
    pairs = None if second is None else compared(first, second)
    heading = words("heading", model=first.name, text=shortened(first.text))
    kind = words(f"kind {first.kind}") if f"kind {first.kind}" in words.page else first.kind
    parts = {
        "language": language,
        "title": escape(heading),
        "heading": escape(heading),
        "facts": escape(words("facts", kind=kind, parameters=f"{first.parameters:,}", steps=len(first.steps))),
        "notes": _notes(first, second, words),
        "legend": escape(words("legend")),
        "controls": escape(words("controls")),
        "inspector": escape(words("inspector")),
        "alone": "" if first.drawing else ' class="alone"',
        "drawing": f'<div id="drawing" tabindex="0">{first.drawing}</div>' if first.drawing else "",
        "style": (FOLDER / "page.css").read_text(encoding="utf-8"),
        "data": _data(first, second, pairs, words),
        "script": "\n".join((FOLDER / name).read_text(encoding="utf-8") for name in SCRIPTS),
    }
    page = (FOLDER / "page.html").read_text(encoding="utf-8")
    before, *rest = page.split("{{")
    return before + "".join(parts[name] + after for name, _, after in (part.partition("}}") for part in rest))


def in_a_notebook(explanation: Explanation) -> str:
    """The page in a frame, for Jupyter."""
    page = escape(as_html(explanation))
    style = "width: 100%; height: 800px; border: 0"
    return f'<iframe srcdoc="{page}" style="{style}" title="{escape(explanation.name)}"></iframe>'


def fitted(explanation: Explanation, most: int = MOST_NUMBERS) -> Explanation:
    """The explanation with at most this many numbers, by the smallest change of its limits."""
    limits = explanation.limits
    while explanation.numbers > most and (tighter := limits.tighter()) is not None:
        limits = tighter
        explanation = explanation.within(limits)
    return explanation


def shortened(text: str) -> str:
    """A text in one line, cut."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_HEADING else f"{line[: LONGEST_HEADING - 1]}…"


def _notes(first: Explanation, second: Explanation | None, words: Words) -> str:
    found = [] if second is None else [words("compared", model=second.name)]
    found += [words("untrained", model=one.name) for one in (first, second) if one is not None and not one.trained]
    if not first.own_tokenizer:
        found.append(words("bytes"))
    if any(not step.value.whole for step in first.steps if "vocabulary" not in step.value.axes):
        limits = first.limits
        found.append(words("sampled", tokens=limits.tokens, heads=limits.heads, channels=limits.channels))
    for stack, layers in first.left_out.items():
        found.append(words("layers left out", stack=stack, layers=", ".join(map(str, layers))))
    items = "".join(f"<li>{escape(note)}</li>" for note in found)
    return f'<ul class="notes">{items}</ul>' if items else ""


def _data(first: Explanation, second: Explanation | None, pairs: Comparison | None, words: Words) -> str:
    """What the script shows, as JSON inside a script element."""
    heads = [len(step.value.index[step.value.axes.index("head")]) for step in first.steps if "head" in step.value.axes]
    content = {
        "words": words.page,
        "names": words.names,
        "heads": max(heads, default=0),
        "explanations": [_explained(one, words) for one in (first, second) if one is not None],
        "pairs": [] if pairs is None else pairs.partners,
        "differences": [] if pairs is None else pairs.differences,
    }
    return as_json(content, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def _explained(explanation: Explanation, words: Words) -> dict[str, Any]:
    numbers = {id(step): number for number, step in enumerate(explanation.steps)}
    return {
        "name": explanation.name,
        "kind": explanation.kind,
        "texts": [[{"id": token.id, "text": token.text} for token in text] for text in explanation.texts],
        "vocabulary": explanation.vocabulary,
        "steps": [_step(step, numbers, words) for step in explanation.steps],
        "predictions": [
            {"at": one.at, "best": [[token.text, token.id, share] for token, share in one.best]}
            for one in explanation.predictions
        ],
        "cache": [vars(entry) for entry in explanation.cache],
        "written": None if explanation.written is None else vars(explanation.written),
    }


def _step(step: Step, numbers: dict[int, int], words: Words) -> dict[str, Any]:
    value = step.value
    return {
        "number": numbers[id(step)],
        "path": step.path,
        "block": step.block,
        "name": step.name,
        "caption": _caption(step, words),
        "formula": _typeset(step.formula),
        "paper": step.paper,
        "declared": step.declared,
        "sequence": step.sequence,
        "keys": step.keys,
        "stack": step.stack,
        "layer": step.layer,
        "of": [numbers[id(one)] for one in step.of],
        "axes": value.axes,
        "shape": value.shape,
        "index": value.index,
        "rows": step.rows,
        "data": base64.b64encode(value.data.numpy().astype("<f4").tobytes()).decode("ascii"),
    }


def _caption(step: Step, words: Words) -> str:
    """What a step is; the Chinese page does not show the docstrings of this project's blocks, which are English."""
    if not step.declared and step.name == OUTPUT and words.language != "en":
        slot, _, name = step.block.partition("/")
        if entries(slot)[name].block.__module__.startswith("blocks."):
            return words("block output")
    return words.caption(step.caption)


def _typeset(formula: str) -> str:
    """The formula as MathML; one that cannot be read, of a block that was not tested, as it was written."""
    formula = formula.removesuffix(" * 1")
    try:
        return mathml(formula) if formula else ""
    except FormulaError:
        return f"<code>{escape(formula)}</code>"
