"""How far xz compresses a text, to compare a model with."""

import lzma

_XZ_AT_MOST = 2**24  # bytes of validation text; xz takes about a second for 2 MB


class Compression:
    """Compression of texts by xz, in bits per byte, to compare a model with.

    Ends of texts are compressed and not counted as bytes, as in the bits per byte of a model.
    """

    def __init__(self) -> None:
        self._compressor, self._size, self._compressed = lzma.LZMACompressor(), 0, 0

    def add(self, text: str) -> None:
        """Compress a text, until there are enough."""
        if self._size < _XZ_AT_MOST:
            part = text[: _XZ_AT_MOST - self._size].encode()
            self._compressed += len(self._compressor.compress(part + b"\n"))
            self._size += len(part)

    def facts(self) -> dict[str, float]:
        """The figure, if there was any text; afterwards nothing can be added."""
        if not self._size:
            return {}
        return {"xz_bits_per_byte": 8 * (self._compressed + len(self._compressor.flush())) / self._size}
