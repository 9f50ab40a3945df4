"""The constructor contract, enforced when a block is registered."""

import pytest

from blocks.base import FeedForward, Site
from registry import RegistrationError, entries, register
from registry.registration import _entry


def refused(name: str, block: type) -> str:
    with pytest.raises(RegistrationError) as caught:
        register(name)(block)
    assert name not in entries("feedforward") or name == "mlp"
    return str(caught.value)


def test_what_stands_before_the_star_is_what_the_parent_gives() -> None:
    class Wrong(FeedForward):
        def __init__(self, width: int, *, hidden: int = 4) -> None: ...

    assert "must begin (self, site, *, ...)" in refused("wrong", Wrong)


def test_a_parameter_must_be_keyword_only() -> None:
    class Wrong(FeedForward):
        def __init__(self, site: Site, hidden: int = 4) -> None: ...

    assert "'hidden' must be keyword-only" in refused("wrong", Wrong)


def test_a_parameter_must_have_a_default() -> None:
    class Wrong(FeedForward):
        def __init__(self, site: Site, *, hidden: int) -> None: ...

    assert "'hidden' must have a default" in refused("wrong", Wrong)


def test_a_parameter_must_be_annotated() -> None:
    class Wrong(FeedForward):
        def __init__(self, site: Site, *, hidden=4) -> None: ...

    assert "'hidden' must have a type annotation" in refused("wrong", Wrong)


@pytest.mark.parametrize("name", ["type", "like", "extends", "copy", "json", "model_fields"])
def test_a_parameter_must_not_have_a_reserved_name(name: str) -> None:
    namespace: dict = {"Site": Site}
    exec(f"def __init__(self, site: Site, *, {name}: int = 1) -> None: ...", namespace)  # noqa: S102
    wrong = type("Wrong", (FeedForward,), {"__init__": namespace["__init__"], "forward": lambda self, x: x})
    assert f"{name!r} has a reserved name" in refused("wrong", wrong)


def test_a_name_is_taken_once() -> None:
    class Again(FeedForward):
        def __init__(self, site: Site) -> None: ...

    assert "feedforward 'mlp' is already registered by blocks.feedforward.mlp.MLP" in refused("mlp", Again)


def test_a_default_block_must_be_registered() -> None:
    class Unregistered(FeedForward):
        def __init__(self, site: Site) -> None: ...

    class Wrong(FeedForward):
        def __init__(self, site: Site, *, inner: type = Unregistered) -> None: ...

    assert "Unregistered is used as a default but is not registered" in refused("wrong", Wrong)


def test_an_annotation_may_be_text_of_names_that_exist() -> None:
    class Fine(FeedForward):
        def __init__(self, site: "Site", *, hidden: "int" = 4) -> None: ...

    class Wrong(FeedForward):
        def __init__(self, site: Site, *, hidden: "Unknown" = 4) -> None: ...  # noqa: F821

    assert _entry(Fine, "fine").parameters["hidden"].annotation is int
    assert "an annotation cannot be read: name 'Unknown' is not defined; define it in" in refused("wrong", Wrong)


def test_the_message_names_file_and_line() -> None:
    class Wrong(FeedForward):
        def __init__(self, site: Site, *, hidden: int) -> None: ...

    line = Wrong.__init__.__code__.co_firstlineno - 1
    assert refused("wrong", Wrong).startswith(f"{__file__}:{line}: ")
