"""The files of a Hugging Face folder: config.json, tensors and tokenizer."""

import json
import pickle
import shutil
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from zipfile import is_zipfile

import torch
from huggingface_hub import save_torch_state_dict
from safetensors import SafetensorError, safe_open
from torch import Tensor

from blockformer.files import new_folder, write_text
from blockformer.huggingface.errors import HuggingFaceError

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
SHARD_SIZE = "5GB"
_WHOLE, _INDEX, _PICKLED = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"


@contextmanager
def output_folder(out: str | Path) -> Generator[Path]:
    """A temporary folder to write into, renamed to ``out`` at the end; after an exception nothing is left.

    Args:
        out: a path that does not exist yet.

    Raises:
        HuggingFaceError: it exists, or cannot be written.
    """
    try:
        with new_folder(Path(out)) as draft:
            yield draft
    except FileExistsError:
        raise HuggingFaceError.at(out, "already exists; remove it, or choose another folder with --out") from None
    except OSError as error:
        raise HuggingFaceError.at(out, f"cannot be written: {error.strerror or error}") from None


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Copy the tokenizer's files from one folder to another, if there are any."""
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file with the indentation that transformers uses."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_config(path: Path) -> dict[str, Any]:
    """Read a config.json.

    Raises:
        HuggingFaceError: the file cannot be read or does not contain a JSON object.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise HuggingFaceError.at(path, f"cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise HuggingFaceError.at(path, f"is not valid JSON: {error}") from None
    if not isinstance(values, dict):
        raise HuggingFaceError.at(path, "must contain a JSON object")
    return cast("dict[str, Any]", values)


class TensorFiles(Mapping[str, Tensor]):
    """The tensors of a folder by name; each is read from its file on access.

    Args:
        folder: contains model.safetensors, or its shards and an index, or pytorch_model.bin (read with
            ``weights_only=True``).

    Raises:
        HuggingFaceError: none of these exists, a shard is missing, or a file is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._pickled: Mapping[str, Tensor] = {}
        self._files: dict[str, Any] = {}
        self._file_of: dict[str, str] = {}
        if (folder / _INDEX).is_file():
            self._file_of = _read_index(folder / _INDEX)
        elif (folder / _WHOLE).is_file():
            self._file_of = dict.fromkeys(self._open(_WHOLE).keys(), _WHOLE)
        elif (folder / _PICKLED).is_file():
            self._pickled = _read_pickled(folder / _PICKLED)
        else:
            raise HuggingFaceError.at(folder, f"contains no weights: expected {_WHOLE}, {_INDEX} or {_PICKLED}")
        missing = sorted({name for name in self._file_of.values() if not (folder / name).is_file()})
        if missing:
            raise HuggingFaceError.in_file(folder / _INDEX, (f"the file {name!r} is missing" for name in missing))

    def __getitem__(self, name: str) -> Tensor:
        if name in self._pickled:
            return self._pickled[name]
        file = self._file_of[name]
        try:
            return cast("Tensor", self._open(file).get_tensor(name))
        except SafetensorError as error:
            raise HuggingFaceError.at(self.folder / file, f"{name}: {error}") from None

    def __iter__(self) -> Iterator[str]:
        yield from self._file_of
        yield from self._pickled

    def __len__(self) -> int:
        return len(self._file_of) + len(self._pickled)

    def _open(self, name: str) -> Any:
        if name not in self._files:
            try:
                self._files[name] = safe_open(str(self.folder / name), framework="pt")
            except (OSError, SafetensorError) as error:
                raise HuggingFaceError.at(self.folder / name, f"cannot be read: {error}") from None
        return self._files[name]


def _read_index(path: Path) -> dict[str, str]:
    try:
        weight_map = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        return {str(name): str(file) for name, file in weight_map.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise HuggingFaceError.at(path, f"is not an index of tensors: {error}") from None


def _read_pickled(path: Path) -> Mapping[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0]
        raise HuggingFaceError.at(path, f"cannot be read as plain tensors: {reason}") from None
    if not isinstance(content, dict):
        raise HuggingFaceError.at(path, "does not contain a mapping of names to tensors")
    return {str(k): v for k, v in cast("dict[Any, Any]", content).items() if isinstance(v, Tensor)}


def write_tensor_files(folder: Path, tensors: Mapping[str, Tensor], shard_size: str = SHARD_SIZE) -> None:
    """Write model.safetensors, or its shards and an index.

    Args:
        folder: an existing folder.
        tensors: what to write, by name.
        shard_size: the largest size of one file, such as ``5GB``.

    Raises:
        HuggingFaceError: ``shard_size`` is not a size.
    """
    try:
        save_torch_state_dict(dict(_without_shared_memory(tensors)), folder, max_shard_size=shard_size)
    except ValueError as error:
        raise HuggingFaceError.at(
            "--shard-size", f"{shard_size!r} is not a size such as {SHARD_SIZE}: {error}"
        ) from None


def _without_shared_memory(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The tensors, cloned where they share memory or are slices, such as one of many experts: those cannot be saved."""
    seen: set[int] = set()
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage()
        alone = storage.data_ptr() not in seen and storage.nbytes() == tensor.nbytes
        yield name, tensor if alone else tensor.clone()
        seen.add(storage.data_ptr())


def main_dtype(tensors: Mapping[str, Tensor]) -> str:
    """The dtype of most elements, as ``torch_dtype`` in a config names it."""
    sizes: dict[str, int] = {}
    for tensor in tensors.values():
        name = str(tensor.dtype).removeprefix("torch.")
        sizes[name] = sizes.get(name, 0) + tensor.numel()
    return max(sizes, key=lambda name: sizes[name])
