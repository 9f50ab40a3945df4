"""Token ids that were made elsewhere."""

from collections.abc import Mapping
from typing import Any, Literal

from blockformer.data.corpora.files import Files
from blockformer.data.datasets.base import Dataset
from blockformer.errors import DataError
from registry import NonNegative, Positive, register

Names = list[str] | str | None


@register("token_files")
class TokenFiles(Dataset):
    """Token ids that were made elsewhere, in files of any number and size, which are read where they lie.

    A file is a NumPy array (`.npy`), a file of llm.c (`.bin` with its header), or raw (`.bin`, as of nanoGPT). An id
    outside of the vocabulary is refused with its place. There is no tokenizer, so bits per byte are not known, and the
    trained model gives no text.

    Args:
        files: Files or glob patterns, read in this order.
        validation_files: Files to validate on; without any, a share at the end of `files` is held out.
        test_files: Files to test on; without any, a share at the end of `files` is held out.
        vocab_size: How many different ids there are.
        dtype: The type of the ids in files without a header.
        separator: The id before or after each document, such as 50256 of GPT-2; null: the ids are one document.
    """

    form = "ids"
    reads = ("files", "validation_files", "test_files")
    unused = frozenset({"tokenizer"})
    own_ids = True

    def __init__(
        self,
        *,
        files: Names = None,
        validation_files: Names = None,
        test_files: Names = None,
        vocab_size: Positive | None = None,
        dtype: Literal["uint16", "uint32"] | None = None,
        separator: NonNegative | None = None,
    ) -> None:
        if not files:
            raise DataError("dataset token_files needs files: set its option files")
        self._names = [
            [names] if isinstance(names, str) else names or [] for names in (files, validation_files, test_files)
        ]
        if vocab_size is None:
            raise DataError("dataset token_files needs vocab_size: how many different ids the tokenizer had")
        if separator is not None and separator >= vocab_size:
            raise DataError(f"data.separator {separator} must be less than data.vocab_size {vocab_size}")
        self.vocab_size, self.dtype, self.separator = vocab_size, dtype, separator

    @classmethod
    def idle(cls, options: Mapping[str, Any]) -> Mapping[str, str]:
        return {split: f"{split}_files" for split in ("validation", "test") if options.get(f"{split}_files")}

    def own(self, shares: Mapping[str, float]) -> Files:
        """The files, of which shares may be held out."""
        train, validation, test = self._names
        return Files(train, validation, test, shares)
