"""Datasets of labelled texts: the user's own tables with a column of classes or of scores."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from blockformer.data.corpora import tables
from blockformer.data.corpora.corpus import Source
from blockformer.data.corpora.labels import ClassNames, Labels, Scores
from blockformer.data.datasets.base import Form
from blockformer.data.datasets.text import Names, OwnFiles, name_of
from blockformer.errors import DataError
from registry import register


class _LabelledTable(OwnFiles):
    """Tables with one or two columns of texts, and a column of labels."""

    def __init__(
        self,
        files: Names,
        validation_files: Names,
        test_files: Names,
        columns: tuple[str, str | None],
        label: tuple[str, str],
    ) -> None:
        super().__init__(files, validation_files, test_files)
        self.columns = tuple(column for column in columns if column is not None)
        option, name = label
        if len({*self.columns, name}) <= len(self.columns):
            raise DataError(
                f"data.{option} {name!r} is a column of texts too, or these are one: name different columns"
            )

    @abstractmethod
    def labels(self) -> Labels:
        """What reads the column of labels."""

    def source(self, shares: Mapping[str, float]) -> Source:
        return tables.source(name_of(self), self.own(shares), self.columns, labels=self.labels())


@register("table_classes")
class TableClasses(_LabelledTable):
    """Texts with classes: a column of texts and one of labels of your own tables. Tables are those of `table`.

    A label is text, a number or a boolean. Classes are sorted by name, and a checkpoint keeps their order.

    Args:
        files: Files or glob patterns.
        column: The name of the column of texts.
        second_column: The name of the column of second texts, for a class of a pair of texts; null: there is none.
        label_column: The name of the column of labels.
        classes: The names of all classes, sorted; null: the labels of `files`.
        validation_files: Files to validate on; without any, a share of the rows of `files` is held out.
        test_files: Files to test on; without any, a share of the rows of `files` is held out.
    """

    form: ClassVar[Form] = "classes"

    def __init__(
        self,
        *,
        files: Names = None,
        column: str = "text",
        second_column: str | None = None,
        label_column: str = "label",
        classes: list[str] | None = None,
        validation_files: Names = None,
        test_files: Names = None,
    ) -> None:
        texts, label = (column, second_column), ("label_column", label_column)
        super().__init__(files, validation_files, test_files, texts, label)
        self.label_column, self.classes = label_column, classes
        self.labels()  # refuses classes that are not sorted

    def labels(self) -> Labels:
        return ClassNames(self.label_column, self.classes)


@register("table_scores")
class TableScores(_LabelledTable):
    """Texts with numbers: a column of texts and one of scores of your own tables. Tables are those of `table`.

    Args:
        files: Files or glob patterns.
        column: The name of the column of texts.
        second_column: The name of the column of second texts, for a score of a pair of texts; null: there is none.
        score_column: The name of the column of scores.
        validation_files: Files to validate on; without any, a share of the rows of `files` is held out.
        test_files: Files to test on; without any, a share of the rows of `files` is held out.
    """

    form: ClassVar[Form] = "scores"

    def __init__(
        self,
        *,
        files: Names = None,
        column: str = "text",
        second_column: str | None = None,
        score_column: str = "score",
        validation_files: Names = None,
        test_files: Names = None,
    ) -> None:
        texts, label = (column, second_column), ("score_column", score_column)
        super().__init__(files, validation_files, test_files, texts, label)
        self.score_column = score_column

    def labels(self) -> Labels:
        return Scores(self.score_column)
