from typing import Union

import pytest
from jsonargparse import ArgumentParser

from blockformer.training.number_types import prefer_integers


def limited(
    count: Union[float, int, None] = None,  # noqa: UP007 (the order of this one is what is tested)
    other: str | int | float = 1,
) -> None:
    """Take a number of batches or a share of them.

    Args:
        count: a number or a share.
        other: of other types as well.
    """


@pytest.mark.parametrize(("text", "value"), [("1", 1), ("1.0", 1.0), ("0.5", 0.5), ("null", None), ("-3", -3)])
def test_a_whole_number_is_an_integer(text: str, value: float | None) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_function_arguments(limited, "on")
    prefer_integers(parser)
    found = parser.parse_args([f"--on.count={text}"]).on.count
    assert (type(found), found) == (type(value), value)
