"""Decode bytes to text and split it into lines, for training files and prompts alike."""

import stat
from pathlib import Path

from blockformer.data.formats import HEAD, name_format
from blockformer.errors import DataError


def read(path: Path) -> str:
    """The text of a file, without a byte-order mark.

    Raises:
        DataError: It cannot be read, is empty, or is not UTF-8 text; formats that are known are named.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise DataError(f"{path}: is not a regular file; write the text to a file first")
        with path.open("rb") as stream:
            head = stream.read(HEAD)
            refuse_formats(head, str(path))  # before the rest is read, which may be large
            data = head + stream.read()
    except (OSError, MemoryError) as error:
        raise DataError(f"{path}: {getattr(error, 'strerror', None) or 'is larger than the free memory'}") from None
    text = decode(data, str(path))
    if not text.strip():
        raise DataError(f"{path}: is empty")
    return text


def decode(data: bytes, where: str) -> str:
    """The text of UTF-8 bytes, without a byte-order mark.

    Args:
        data: The bytes.
        where: What to call them in an error.

    Raises:
        DataError: They are not text, or not UTF-8.
    """
    refuse_formats(data[:HEAD], where)
    if (nul := data.find(b"\0")) >= 0:
        raise DataError(f"{where}: is not text: byte 0x00 {_place(data, nul)}")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        wrong = error.start + (len(data) - len(error.object))
        raise DataError(
            f"{where}: not UTF-8 (byte {data[wrong]:#04x} at offset {wrong}), {_line(data, wrong)}; "
            "find out its encoding, and convert it: iconv -f ENCODING -t UTF-8"
        ) from None


def refuse_formats(head: bytes, where: str) -> None:
    """Refuse bytes that begin as a file that is not UTF-8 text.

    Raises:
        DataError: They do; the message names the format and what to do.
    """
    if (found := name_format(head)) is not None:
        raise DataError(f"{where}: {found}")


def lines(text: str) -> list[str]:
    r"""The lines of a text without their ends, which are \n or \r\n.

    Other characters that some programs take for line ends (form feed, U+0085, U+2028) are part of a line.
    """
    found = text.split("\n")
    if not found[-1]:
        found.pop()
    return [line.removesuffix("\r") for line in found]


def stripped(text: str) -> str:
    """One side of a pair as the model reads it: without white space at its ends."""
    return text.strip()


def _place(data: bytes, offset: int) -> str:
    return f"at offset {offset}, {_line(data, offset)}"


def _line(data: bytes, offset: int) -> str:
    return f"on line {data.count(bytes([10]), 0, offset) + 1}"
