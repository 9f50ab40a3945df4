"""Several datasets, mixed by weight."""

import math
import re
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any

from blockformer.data.corpora.corpus import SPLITS, Corpus, Source, StreamedCorpus
from blockformer.data.datasets.base import COMMON, Dataset, TextDataset
from blockformer.errors import DataError
from blockformer.option_groups import OptionGroup, in_words
from registry import entries, register

_NAME = re.compile(r"[A-Za-z0-9_-]{1,40}")
_OWN = ("dataset", "weight")
_WORDS = {"pairs": "pairs", "chats": "conversations", "documents": "documents"}


@register("mixture")
class Mixture(TextDataset):
    """Several sources, each a dataset of text or of conversations with its options, mixed by weight.

    After any number of training rows, each source has had its share of them to within one row; one that ends is
    repeated in a new order. Each source has a validation and a test split of its own, and figures of its own beside
    those over all. One tokenizer is learned from the training splits of all sources, and conversations have one chat
    template.

    Args:
        sources: By name, the `dataset` of a source, its options, and its `weight` (1 if not given), in proportion to
            which it is read: `{code: {dataset: table, files: code.jsonl, weight: 3}, prose: {dataset: docstrings}}`.
    """

    formula = "share_i = weight_i / sum_j weight_j"

    forms = ("documents", "pairs", "chats")
    reads = ("sources",)

    def __init__(self, *, sources: dict[str, Any] | None = None) -> None:
        if not sources:
            raise DataError(
                "dataset mixture needs sources: name them in data.sources, such as "
                "{code: {dataset: table, files: code.jsonl, weight: 3}, prose: {dataset: docstrings}}"
            )
        self.parts: dict[str, TextDataset] = {}
        self.weights: dict[str, float] = {}
        problems: list[str] = []
        for name, given in sources.items():
            try:
                self.weights[name], self.parts[name] = _source(name, given)
            except DataError as error:
                problems.append(str(error))
        if problems:
            raise DataError("; ".join(problems))
        self.form = next(iter(self.parts.values())).form  # pyright: ignore[reportAttributeAccessIssue]
        by_form: dict[str, list[str]] = {}
        for name, part in self.parts.items():
            by_form.setdefault(_WORDS[part.form], []).append(name)
        if len(by_form) > 1:
            found = in_words([f"{in_words(names)} {_has(names)} {what}" for what, names in by_form.items()])
            raise DataError(f"data.sources: {found}; a mixture has either {in_words([*_WORDS.values()], 'or')}")

    @classmethod
    def idle(cls, options: Mapping[str, Any]) -> Mapping[str, str]:
        """A share that no source needs, because each has files of its own."""
        sources = options.get("sources")
        if not isinstance(sources, Mapping) or not all(isinstance(one, Mapping) for one in sources.values()):
            return {}
        known = _known()
        named = [(one.get("dataset"), one) for one in sources.values()]
        found = [dict(known[name].idle(one)) for name, one in named if isinstance(name, str) and name in known]
        if not found or len(found) < len(sources):
            return {}
        shared = [name for name in found[0] if all(name in one for one in found)]
        causes = {name: in_words(list(dict.fromkeys(one[name] for one in found))) for name in shared}
        return {name: f"{cause} in each of data.sources" for name, cause in causes.items()}

    def source(self, shares: Mapping[str, float]) -> Source:
        """The text of all sources, one after another."""
        found: dict[str, Source] = {}
        for name, part in self.parts.items():
            with naming(name):
                found[name] = part.source(shares)
        template = _one_template(found)

        def read() -> Corpus:
            corpora: list[Corpus] = []
            for name, one in found.items():
                with naming(name):
                    corpora.append(one.read())

            def stream() -> Iterator[tuple[str, Any]]:
                return chain.from_iterable(corpus.stream() for corpus in corpora)

            size = sum(corpus.size() for corpus in corpora)
            splits: dict[str, tuple[()]] = dict.fromkeys(SPLITS, ())
            first = corpora[0]
            return StreamedCorpus(splits, first.paired, {}, chats=first.chats, read=stream, bytes=size)

        key = {"sources": {name: dict(one.key) for name, one in found.items()}}
        return Source(key, read, chats=self.chats, template=template)


def _one_template(sources: Mapping[str, Source]) -> tuple[str, str] | None:
    """The chat template that all sources name, as a tokenizer has one; None: they name none.

    Raises:
        DataError: their templates differ.
    """
    by_text: dict[str | None, list[str]] = {}
    for name, one in sources.items():
        by_text.setdefault(None if one.template is None else one.template[0], []).append(name)
    if len(by_text) > 1:
        apart = " and ".join(in_words(names) for names in by_text.values())
        raise DataError(
            f"data.sources: {apart} do not name the same chat template, and a tokenizer has one: name one file in the "
            "chat_template of each, or none in any"
        )
    return next(iter(sources.values())).template


@contextmanager
def naming(source: str) -> Generator[None]:
    """Begin the message of an error of the data inside with the option of a source.

    Raises:
        DataError: there is one.
    """
    try:
        yield
    except DataError as error:
        raise DataError(f"data.sources.{source}: {error}") from None


def _known() -> dict[str, type[TextDataset]]:
    """The datasets that can be sources, by name."""
    blocks = {name: entry.block for name, entry in entries(Dataset.slot.name).items() if name != "mixture"}
    return {
        name: block
        for name, block in blocks.items()
        if issubclass(block, TextDataset) and {*(block.forms or (block.form,))} & {*(Mixture.forms or ())}
    }


def _source(name: Any, given: Any) -> tuple[float, TextDataset]:
    """Weight and dataset of a source.

    Raises:
        DataError: something is wrong with it; all of it is named.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise DataError(f"data.sources: {name!r} cannot name a source: use at most 40 letters, digits, - and _")
    where = f"data.sources.{name}"
    if not isinstance(given, Mapping):
        raise DataError(f"{where} must be a dataset with its options, such as {{dataset: table, files: a.csv}}")
    options = OptionGroup(where, {"dataset": Dataset.slot.name}, _OWN, DataError)
    dataset = given.get("dataset")
    if dataset is None:
        raise DataError(f"{where} needs a dataset: {in_words(list(_known()), 'or')}")
    options.entry("dataset", dataset)
    if dataset not in _known():
        raise DataError(f"{where}.dataset: {dataset!r} cannot be mixed; use {in_words(list(_known()), 'or')}")
    common = [key for key in given if key in COMMON and key not in _OWN]
    problems = [f"{where}.{key} is a setting of all sources: use data.{key}" for key in common]
    weight = given.get("weight", 1)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
        problems.append(f"{where}.weight must be a number above 0, not {weight!r}")
    if problems:
        raise DataError("; ".join(problems))
    own = {key: value for key, value in given.items() if key not in _OWN}
    try:
        return weight, options.make({"dataset": dataset}, own)["dataset"]
    except DataError as error:  # of an option, which names the source, or of the dataset, which does not know it
        raise error if str(error).startswith(where) else DataError(f"{where}: {error}") from None


def _has(names: list[str]) -> str:
    return "has" if len(names) == 1 else "have"
