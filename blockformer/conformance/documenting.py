"""A block says what it is."""

import inspect
import re

from blockformer.conformance.subject import Subject
from registry import entries


def check_says_what_it_computes(subject: Subject) -> None:
    """The class has a docstring of its own."""
    block = entries(subject.slot)[subject.name].block
    assert inspect.cleandoc(vars(block).get("__doc__") or ""), f"{block.__qualname__} has no docstring"


def check_documents_its_parameters(subject: Subject) -> None:
    """Each recipe parameter, and no other, is described under ``Args:``."""
    entry = entries(subject.slot)[subject.name]
    silent = [parameter.name for parameter in entry.parameters.values() if not parameter.description]
    assert not silent, f"nothing under 'Args:' about {', '.join(silent)}"
    _, _, told = inspect.cleandoc(entry.block.__doc__ or "").partition("\nArgs:\n")
    invented = set(re.findall(r"^    (\w+):", told, flags=re.MULTILINE)) - set(entry.parameters)
    assert not invented, f"'Args:' describes {sorted(invented)}, which a recipe cannot say"


def check_names_its_paper_with_a_year(subject: Subject) -> None:
    """If a paper is named, it can be found: authors and year."""
    paper = entries(subject.slot)[subject.name].block.paper
    assert not paper or re.search(r"\w.*, (19|20)\d\d", paper), f"{paper!r} names no year"
