"""Only regular files of a bounded size are read."""

import os
import socket
from pathlib import Path

import pytest

from registry.files import open_file, read_bytes, require_file


def test_reads_a_file(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"abc")
    assert read_bytes(file, most=3) == b"abc"
    require_file(file)


def test_refuses_a_file_that_is_too_large_before_reading_it(tmp_path: Path) -> None:
    file = tmp_path / "sparse"
    with file.open("wb") as stream:
        stream.truncate(20 * 2**30)
    with pytest.raises(OSError, match=r"has 21,474,836,480 bytes; such a file has at most 100"):
        read_bytes(file, most=100)


def test_refuses_a_pipe_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="is a pipe, not a regular file"):
        open_file(tmp_path / "pipe")


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null"])
def test_refuses_a_device(device: str) -> None:
    with pytest.raises(OSError, match="is a device, not a regular file"):
        read_bytes(device, most=100)


def test_refuses_a_folder_and_a_socket(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match="is a folder, not a file"):
        open_file(tmp_path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        with pytest.raises(OSError):  # noqa: PT011  (the system refuses to open it, with its own words)
            open_file(tmp_path / "socket")


@pytest.mark.parametrize("path", ["a\0b", "\ud800", "x" * 5000])
def test_a_text_that_is_no_path_is_an_error_of_the_system(path: str) -> None:
    with pytest.raises(OSError, match=r"No such file|too long"):
        open_file(path)
