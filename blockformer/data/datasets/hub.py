"""Datasets of Hugging Face."""

from collections.abc import Mapping
from typing import Any

from blockformer.data.corpora import hub, tables
from blockformer.data.corpora.corpus import Source
from blockformer.data.corpora.files import Files
from blockformer.data.datasets.base import TextDataset
from blockformer.errors import DataError
from registry import register


@register("hub")
class Hub(TextDataset):
    """A dataset of Hugging Face: a column as documents, or two columns as pairs.

    A folder that `save_to_disk` has written is read where it lies. Anything else is read once with the package
    `datasets` (`pip install 'blockformer[datasets]'`), and its columns are kept in the cache.

    Args:
        path: The folder, or the name of a dataset, such as `roneneldan/TinyStories`.
        subset: The configuration of a dataset that has several; only of those by name.
        revision: Branch, tag or commit; only of datasets by name. A copy is not read anew when a branch moves on.
        split: The split to train on.
        validation_split: The split to validate on; null: a share of the rows of `split` is held out.
        test_split: The split to test on; null: a share of the rows of `split` is held out.
        column: The column of documents, or of the sources of pairs.
        target_column: The column of the targets of pairs; null: rows are documents.
    """

    forms = ("documents", "pairs")
    reads = ("path",)

    def __init__(
        self,
        *,
        path: str | None = None,
        subset: str | None = None,
        revision: str | None = None,
        split: str = "train",
        validation_split: str | None = None,
        test_split: str | None = None,
        column: str = "text",
        target_column: str | None = None,
    ) -> None:
        if not path:
            raise DataError("dataset hub needs path: a folder of save_to_disk, or the name of a dataset")
        if hub.is_saved(path) and (given := [n for n, v in (("subset", subset), ("revision", revision)) if v]):
            raise DataError(f"data.{given[0]} has no effect with a folder of save_to_disk; remove it")
        self.path, self.subset, self.revision = path, subset, revision
        self.splits = {"train": split, "validation": validation_split, "test": test_split}
        self.columns = (column,) if target_column is None else (column, target_column)
        self.form = "documents" if target_column is None else "pairs"  # pyright: ignore[reportAttributeAccessIssue]

    @classmethod
    def idle(cls, options: Mapping[str, Any]) -> Mapping[str, str]:
        return {split: f"{split}_split" for split in ("validation", "test") if options.get(f"{split}_split")}

    def source(self, shares: Mapping[str, float]) -> Source:
        train, validation, test = (self._files(split) for split in self.splits.values())
        names = {split: f"data.path {self.path}, {of}" for split, of in self.splits.items()}
        about = {"path": self.path, "subset": self.subset, "revision": self.revision, "splits": self.splits}
        return tables.source("hub", Files(train, validation, test, shares), self.columns, names, about)

    def _files(self, split: str | None) -> list[str]:
        if split is None:
            return []
        if hub.is_saved(self.path):
            return hub.saved_files(self.path, split)
        return hub.copied_files(self.path, self.subset, split, self.revision, self.columns)
