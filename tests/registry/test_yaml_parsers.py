"""A recipe is read alike by libyaml's parser and by PyYAML's own, which installations without libyaml have."""

import random

import pytest

from registry import builtin_recipes, strict_yaml
from registry.errors import RecipeError

SIGNS = [
    *"\t :-#{}[],&*!|>'\"%@`?\n\\~=<",
    "\u2028",
    "\x85",
    "\ufeff",
    "\x7f",
    "é",
    "- ",
    "? ",
    "...",
    "<<: ",
    "!!str ",
]


def outcome(text: str) -> str:
    try:
        return repr(strict_yaml.parse_text(text, "x"))
    except RecipeError as error:
        return str(error)


def test_both_parsers_give_the_same_value_or_error(monkeypatch: pytest.MonkeyPatch) -> None:
    draw, texts = random.Random(0), [path.read_text() for path in builtin_recipes().values()]
    damaged = list[str]()
    for _ in range(600):
        text = draw.choice(texts)[: draw.randint(20, 400)]
        place = draw.randrange(len(text) + 1)
        damaged.append(text[:place] + draw.choice(SIGNS) + text[place + draw.randint(0, 1) :])
    damaged += ["a: {b?c: 1}", "{a: {\tb: 1}}", "|# x", "># x\ny"]
    quick = [outcome(text) for text in damaged]
    monkeypatch.setattr(strict_yaml, "_QuickLoader", strict_yaml._Loader)
    assert quick == [outcome(text) for text in damaged]
