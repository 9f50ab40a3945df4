"""Datasets of text: installed documentation, locale data, and the user's own files."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from annotated_types import Le

from blockformer.data.corpora import docstrings, files, tables
from blockformer.data.corpora.corpus import Source
from blockformer.data.datasets.base import Form, TextDataset
from blockformer.errors import DataError
from registry import Positive, entry_of, register

Names = list[str] | str | None
"""Files or glob patterns."""
_MOST_PAIRS = 1_000_000


@register("docstrings")
class Docstrings(TextDataset):
    """English about programming: the documentation of Python and of installed packages.

    A document is the documentation of one module.

    Args:
        packages: Import names of packages, and "python" for the standard library; null: a list of well-documented ones.
        max_bytes: Stop reading after this many bytes of text; null: read everything.
    """

    reads = ("packages",)

    def __init__(self, *, packages: list[str] | None = None, max_bytes: Positive | None = 2_000_000) -> None:
        self.packages, self.max_bytes = packages, max_bytes

    def source(self, shares: Mapping[str, float]) -> Source:
        return docstrings.source(self.packages, self.max_bytes, shares)


@register("cldr")
class Cldr(TextDataset):
    """English to another language: dates, amounts, lists and names, written by Babel from Unicode's locale data.

    All single names are in the training split; combinations are split, so that validation and test hold only
    combinations that are not trained on, though their parts are.

    Args:
        locale: The language to translate to, for example "de", "fr" or "zh_Hans".
        pairs: Number of different pairs.
    """

    form: ClassVar[Form] = "pairs"

    def __init__(self, *, locale: str = "de", pairs: Annotated[Positive, Le(_MOST_PAIRS)] = 40_000) -> None:
        self.locale, self.pairs = locale, pairs

    def source(self, shares: Mapping[str, float]) -> Source:
        from blockformer.data.corpora import cldr  # babel loads only where it is used

        return cldr.source(self.locale, self.pairs, shares)


class OwnFiles(TextDataset):
    """The user's own files."""

    reads = ("files", "validation_files", "test_files")

    def __init__(self, files: Names, validation_files: Names, test_files: Names) -> None:
        if not files:
            raise DataError(f"dataset {name_of(self)} needs files: set its option files")
        self.files = tuple(map(_listed, (files, validation_files, test_files)))

    @classmethod
    def idle(cls, options: Mapping[str, Any]) -> Mapping[str, str]:
        return {split: f"{split}_files" for split in ("validation", "test") if options.get(f"{split}_files")}

    def own(self, shares: Mapping[str, float]) -> files.Files:
        """The files, of which shares may be held out."""
        train, validation, test = self.files
        return files.Files(train, validation, test, shares)

    def source(self, shares: Mapping[str, float]) -> Source:
        return files.source(name_of(self), self.own(shares))


@register("text")
class OwnText(OwnFiles):
    """Your own plain text in UTF-8; each file is a document.

    Args:
        files: Files or glob patterns.
        validation_files: Files to validate on; without any, a share of `files` is held out.
        test_files: Files to test on; without any, a share of `files` is held out.
    """

    def __init__(self, *, files: Names = None, validation_files: Names = None, test_files: Names = None) -> None:
        super().__init__(files, validation_files, test_files)


@register("pairs")
class OwnPairs(OwnFiles):
    """Your own pairs in UTF-8, one a line: source, tab, target.

    Args:
        files: Files or glob patterns.
        validation_files: Files to validate on; without any, a share of `files` is held out.
        test_files: Files to test on; without any, a share of `files` is held out.
    """

    form: ClassVar[Form] = "pairs"

    def __init__(self, *, files: Names = None, validation_files: Names = None, test_files: Names = None) -> None:
        super().__init__(files, validation_files, test_files)


@register("table")
class Table(OwnFiles):
    """A column of your own tables: each row is a document.

    Tables are JSON lines (`.jsonl`), CSV or TSV with a header, Parquet, or Arrow (as datasets of Hugging Face are on
    disk); JSON lines, CSV and TSV may be compressed (`.gz`, `.bz2`, `.zst`, `.lz4`). They are read row by row, so they
    may be larger than the memory. Rows without text are left out.

    Args:
        files: Files or glob patterns.
        column: The name of the column.
        validation_files: Files to validate on; without any, a share of the rows of `files` is held out.
        test_files: Files to test on; without any, a share of the rows of `files` is held out.
    """

    def __init__(
        self,
        *,
        files: Names = None,
        column: str = "text",
        validation_files: Names = None,
        test_files: Names = None,
    ) -> None:
        super().__init__(files, validation_files, test_files)
        self.columns = (column,)

    def source(self, shares: Mapping[str, float]) -> Source:
        return tables.source(name_of(self), self.own(shares), self.columns)


@register("table_pairs")
class TablePairs(OwnFiles):
    """Two columns of your own tables: each row is a source and a target. Tables are those of `table`.

    Args:
        files: Files or glob patterns.
        source_column: The name of the column of sources.
        target_column: The name of the column of targets.
        validation_files: Files to validate on; without any, a share of the rows of `files` is held out.
        test_files: Files to test on; without any, a share of the rows of `files` is held out.
    """

    form: ClassVar[Form] = "pairs"

    def __init__(
        self,
        *,
        files: Names = None,
        source_column: str = "source",
        target_column: str = "target",
        validation_files: Names = None,
        test_files: Names = None,
    ) -> None:
        super().__init__(files, validation_files, test_files)
        self.columns = source_column, target_column

    def source(self, shares: Mapping[str, float]) -> Source:
        return tables.source(name_of(self), self.own(shares), self.columns)


def name_of(dataset: TextDataset) -> str:
    """The name under which a dataset is registered."""
    return entry_of(type(dataset)).name


def _listed(names: Names) -> list[str]:
    return [names] if isinstance(names, str) else names or []
