"""One token for each byte of UTF-8."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import models

from blockformer.data.tokenizers.base import GivenTokenizer
from blockformer.data.tokenizers.byte_level import SPECIAL, ByteLevelTokenizer, byte_characters, byte_level
from registry import register


class ByteTokenizer(ByteLevelTokenizer):
    """One token for each byte of UTF-8: a BPE without merges."""

    kind = "bytes"

    def __init__(self) -> None:
        tokens = (*SPECIAL, *(character for _, character in sorted(byte_characters().items())))
        library = byte_level(models.BPE({token: number for number, token in enumerate(tokens)}, []))
        library.add_special_tokens(list(SPECIAL))
        super().__init__(library)

    @classmethod
    def rebuild(cls, dumped: Mapping[str, Any]) -> "ByteTokenizer":
        return cls()

    def _encode(self, texts: list[str]) -> Iterable[NDArray[Any]]:
        """Token ids of each text; a table look-up, several hundred times faster than the library."""
        ids = self.ordinary.astype(np.uint16)  # in the order of the byte values
        return (ids[np.frombuffer(text.encode(), dtype=np.uint8)] for text in texts)


@register("bytes")
class Bytes(GivenTokenizer):
    """One token for each byte of UTF-8, 260 ids with the special tokens; recommended for small masked models."""

    def __init__(self) -> None: ...

    def read(self) -> ByteTokenizer:
        return ByteTokenizer()
