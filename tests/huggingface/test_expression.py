from collections.abc import Sequence
from typing import Any

import pytest

from blockformer.huggingface.config import Config
from blockformer.huggingface.expression import ExpressionError, evaluate, names, parse

CONFIG = {"heads": 4, "dim": 64, "kinds": ["local", "global"], "scaling": {"factor": 2.0}, "nothing": None, "yes": True}


class Scope:
    def value(self, name: str) -> Any:
        if name not in CONFIG:
            raise ExpressionError(f"there is no {name}")
        return CONFIG[name]

    def call(self, name: str, arguments: Sequence[Any]) -> Any:
        return [name, *arguments]


def value(text: str) -> Any:
    return evaluate(parse(text), Scope())


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("=heads", 4),
        ("dim // heads", 16),
        ("nothing or 4 * dim", 256),
        ("heads ** -0.5", 0.5),
        ("'tied' if yes else 'own'", "tied"),
        ("kinds[1] == 'local'", False),
        ("1 < heads <= 4", True),
        ("heads in [1, 4] and not nothing", True),
        ("nothing is None", True),
        ("scaling['factor']", 2.0),
        ("get(scaling, 'other', 7)", 7),
        ("get(nothing, 'factor')", None),
        ("{**scaling, 'theta': 1}", {"factor": 2.0, "theta": 1}),
        ("[kind for i in range(2) for kind in kinds if kind != 'local']", ["global", "global"]),
        ("max([len(kinds), heads])", 4),
        ("kinds[:1]", ["local"]),
        ("kinds[0] + '_' + kinds[1]", "local_global"),
        ("at(kinds, 1)", "global"),
        ("at(heads, 1)", 4),
        ("at(kinds[0], 1)", "local"),
        ("str(heads) + kinds[0]", "4local"),
        ("part(heads, 2)", ["part", 4, 2]),
    ],
)
def test_an_expression_has_the_value_that_python_gives(text: str, result: Any) -> None:
    assert value(text) == result


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("().__class__", "Attribute"),
        ("lambda: 1", "Lambda"),
        ("(lambda: 1)()", "only functions called by name"),
        ("__import__('os')['system']('x')", "only functions called by name"),
        ("f'{heads}'", "JoinedStr"),
        ("max(*kinds)", "Starred"),
        ("max(kinds, key=len)", "positional arguments"),
        ("(x := 1)", "NamedExpr"),
        ("[a for a, b in kinds]", "exactly one name"),
        ("(1, 2)", "Tuple"),
        ("heads +", "is not a valid expression"),
        ("", "is not a valid expression"),
    ],
)
def test_syntax_that_is_not_allowed_is_rejected_when_parsed(text: str, reason: str) -> None:
    with pytest.raises(ExpressionError, match=reason):
        parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "9 ** 9 ** 9",
        "[0] * 1000000000",
        "range(1000000000)",
        "[1 for a in range(99999) for b in range(99999)]",
        "'%1000000000d' % heads",
        "'a' * 1000000000",
    ],
)
def test_the_work_of_an_expression_is_bounded(text: str) -> None:
    with pytest.raises(ExpressionError):
        value(text)


@pytest.mark.parametrize(
    "text", ["{**heads}", "{**rope, **kinds}", "{**heads, **rope}", "rope | heads", "heads | rope"]
)
def test_what_is_no_mapping_is_merged_with_none(text: str) -> None:
    class Given(Scope):
        def value(self, name: str) -> Any:
            return Config({"a": 1}) if name == "rope" else super().value(name)

    assert evaluate(parse("{**rope, **scaling}"), Given()).plain == {"a": 1, "factor": 2.0}
    with pytest.raises(ExpressionError):
        evaluate(parse(text), Given())


@pytest.mark.parametrize(
    "text", ["kinds[9]", "heads / 0", "scaling['none']", "kinds + heads", "int('x')", "heads['x']"]
)
def test_an_expression_that_fails_raises_an_error(text: str) -> None:
    with pytest.raises(ExpressionError, match="cannot be evaluated"):
        value(text)


def test_a_root_of_a_negative_number_has_no_value() -> None:
    with pytest.raises(ExpressionError, match="has no real value"):
        value("(0 - heads) ** 0.5")


def test_names_are_those_that_the_scope_must_have() -> None:
    assert names(parse("max(a, [b for b in c if d])")) == {"a", "c", "d"}
    assert names(parse("activation(activation)")) == {"activation"}
