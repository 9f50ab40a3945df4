import bz2
import gzip
import io
import lzma
import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from blockformer.data import plain_text
from blockformer.data.formats import name_format
from blockformer.errors import DataError

TEXT = "Two lines of text,\nand a number: 42.\n"


def _archive(kind: str) -> bytes:
    stream = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(stream, "w") as archive:
            archive.writestr("a.txt", TEXT)
    else:
        with tarfile.open(fileobj=stream, mode="w") as archive:
            archive.addfile(tarfile.TarInfo("a.txt"))
    return stream.getvalue()


def _array() -> bytes:
    np.save(stream := io.BytesIO(), np.arange(9))
    return stream.getvalue()


FORMATS = {
    "gzip": gzip.compress(TEXT.encode(), mtime=0),
    "bzip2": bz2.compress(TEXT.encode()),
    "xz": lzma.compress(TEXT.encode()),
    "zstd": b"\x28\xb5\x2f\xfd\x04\x00",
    "zip archive": _archive("zip"),
    "tar archive": _archive("tar"),
    "PDF": b"%PDF-1.7\n%\xe2\xe3",
    "Parquet": b"PAR1\x15\x04\x15",
    "NumPy array": _array(),
    "git-lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
    "in UTF-16;": TEXT.encode("utf-16"),
    "in UTF-32;": TEXT.encode("utf-32"),
    "UTF-16LE without a byte-order mark": TEXT.encode("utf-16-le"),
    "UTF-16BE without a byte-order mark": TEXT.encode("utf-16-be"),
    "UTF-32LE without a byte-order mark": TEXT.encode("utf-32-le"),
    "UTF-32BE without a byte-order mark": TEXT.encode("utf-32-be"),
    "iconv -f UTF-16LE": "Съешь же ещё этих мягких французских булок.\n".encode("utf-16-le"),
    "byte 0x00 at offset 0, on line 1": bytes(100),
    "byte 0x00 at offset 6, on line 4": b"a\nbc\n\n\0d",
    "byte 0x00": bytes(range(256)),
}


@pytest.mark.parametrize(("said", "content"), FORMATS.items(), ids=list(FORMATS))
def test_what_is_no_plain_text_is_called_by_its_name_with_a_remedy(tmp_path: Path, said: str, content: bytes) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(DataError) as caught:
        plain_text.read(tmp_path / "a.txt")
    assert said in str(caught.value)
    assert ";" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", [TEXT, "BZhang was here", "GIF89a is a format", "ORC\n", "é" * 40_000, "日本", "\x0c\x1b[0m"]
)
def test_plain_text_is_none_of_them(text: str) -> None:
    assert name_format(text.encode()[: 2**16]) is None


def test_a_late_nul_is_found_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"line\n" * 20_000 + b"\0")
    with pytest.raises(DataError, match=r"a\.txt: is not text: byte 0x00 at offset 100000, on line 20001"):
        plain_text.read(tmp_path / "a.txt")


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_the_first_wrong_byte_is_found_with_its_line(tmp_path: Path, mark: bytes) -> None:
    (tmp_path / "a.txt").write_bytes(mark + b"ok\nGr\xfc\xdfe\n")
    where = rf"a\.txt: not UTF-8 \(byte 0xfc at offset {len(mark) + 5}\), on line 2; .*iconv"
    with pytest.raises(DataError, match=where):
        plain_text.read(tmp_path / "a.txt")


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="pipe: is not a regular file"):
        plain_text.read(tmp_path / "pipe")


def test_a_large_file_without_text_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as stream:
        stream.truncate(10**12)
    with pytest.raises(DataError, match="sparse: is not text"):
        plain_text.read(tmp_path / "sparse")


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", []),
        ("\n", [""]),
        ("a", ["a"]),
        ("a\n", ["a"]),
        ("a\r\nb\n\nc", ["a", "b", "", "c"]),
        ("a\u2028b\x85c\x0cd\x0be\x1cf\rg\nh", ["a\u2028b\x85c\x0cd\x0be\x1cf\rg", "h"]),
    ],
)
def test_lines_end_with_newlines_and_nothing_else(text: str, lines: list[str]) -> None:
    assert plain_text.lines(text) == lines
