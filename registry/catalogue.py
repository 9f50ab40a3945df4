"""What is registered, in words: for the command line, the block reference and editors."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from docstring_parser import parse as parse_docstring
from docstring_parser.common import DocstringStyle

from registry.core import Block, Entry, Parameter, entries, slots


def summary(block: type[Block]) -> str:
    """The first sentence or line of a block's docstring."""
    found = parse_docstring(block.__doc__ or "", DocstringStyle.GOOGLE)
    return " ".join((found.short_description or "").split())
