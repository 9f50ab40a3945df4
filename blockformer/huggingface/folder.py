"""The files of a Hugging Face folder: config.json, tensors and tokenizer."""

import json
import shutil
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from zipfile import is_zipfile

import torch
from huggingface_hub import save_torch_state_dict
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from blockformer.data.chat_template import TEMPLATE
from blockformer.files import new_folder, parse_json, write_text
from blockformer.huggingface.errors import HuggingFaceError
from registry import files
from registry.errors import quoted
from registry.files import is_file, read_bytes

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", TEMPLATE)
UNUSED = "unused.safetensors"  # of an imported folder: tensors of the original that the model does not use
SHARD_SIZE = "5GB"
MAX_CONFIG, MAX_INDEX, MAX_TOKENIZER = 10_000_000, 100_000_000, 200_000_000  # bytes
MAX_TOKENS = 10_000_000  # ids of a tokenizer
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


def file_in(folder: Path, name: str, most: int | None = None) -> Path:
    """A file of a folder that may come from a stranger.

    Args:
        folder: the folder.
        name: of the file in it.
        most: the largest size of such a file, in bytes; None: any.

    Raises:
        HuggingFaceError: the name points outside the folder, also by a link, or it is no regular file or too large.
            Links into the ``blobs`` of the Hugging Face cache are followed.
    """
    try:
        return files.file_in(folder, name, most)
    except OSError as error:
        raise HuggingFaceError.at(folder / name, f"cannot be read: {error.strerror or error}") from None


def has_file(folder: Path, name: str) -> bool:
    """Whether a folder has an entry of this name that is no folder."""
    return is_file(folder / name)


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Copy the tokenizer's files from one folder to another, if there are any.

    Raises:
        HuggingFaceError: one points outside the folder, is no JSON, or has ids that no vocabulary reaches.
    """
    for name in TOKENIZER_FILES:
        if has_file(source, name):
            path = file_in(source, name, MAX_TOKENIZER)
            content = read_json(path, MAX_TOKENIZER) if name != TEMPLATE else {}
            if name == TOKENIZER_FILES[0]:
                _check_ids(source / name, content)
            shutil.copyfile(source / name, folder / name)


def _check_ids(path: Path, tokenizer: Mapping[str, Any]) -> None:
    """Libraries allocate memory for every number up to the largest id."""
    model, added = tokenizer.get("model"), tokenizer.get("added_tokens")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    ids = list(vocabulary.values()) if isinstance(vocabulary, dict) else []
    ids += [
        token.get("id") if isinstance(token, dict) else None for token in (added if isinstance(added, list) else [])
    ]
    for wrong in (number for number in ids if type(number) is not int or not 0 <= number < MAX_TOKENS):
        raise HuggingFaceError.at(path, f"has the token id {quoted(wrong)}; ids are whole numbers below {MAX_TOKENS:,}")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file with the indentation that transformers uses."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path, most: int, constant: Callable[[str], Any] | None = None) -> dict[str, Any]:
    """Read a JSON object from a file of at most ``most`` bytes; its numbers are finite and fit into 64 bits.

    Args:
        path: the file.
        most: the size up to which it is read.
        constant: see :func:`blockformer.files.parse_json`.

    Raises:
        HuggingFaceError: the file cannot be read or does not contain a JSON object.
    """
    try:
        values = parse_json(read_bytes(path, most).decode("utf-8"), constant)
    except OSError as error:
        raise HuggingFaceError.at(path, f"cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise HuggingFaceError.at(path, f"is not valid JSON: {error}") from None
    if not isinstance(values, dict):
        raise HuggingFaceError.at(path, "must contain a JSON object")
    return cast("dict[str, Any]", values)


def read_config(path: Path) -> dict[str, Any]:
    """Read a config.json; infinite numbers are ``{"__float__": "Infinity"}``, as transformers 5 writes them.

    Raises:
        HuggingFaceError: the file cannot be read or does not contain a JSON object.
    """
    return read_json(file_in(path.parent, path.name, MAX_CONFIG), MAX_CONFIG, lambda name: {"__float__": name})


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
        if has_file(folder, _INDEX):
            self._file_of = _read_index(file_in(folder, _INDEX, MAX_INDEX))
            self._check_shards()
        elif has_file(folder, _WHOLE):
            self._file_of = dict.fromkeys(self._open(_WHOLE).keys(), _WHOLE)
        elif has_file(folder, _PICKLED):
            self._pickled = _read_pickled(file_in(folder, _PICKLED))
        else:
            raise HuggingFaceError.at(folder, f"contains no weights: expected {_WHOLE}, {_INDEX} or {_PICKLED}")

    def _check_shards(self) -> None:
        """Open every file that the index names, and look for its tensors there."""
        tensors_of: dict[str, list[str]] = {}
        for tensor, name in self._file_of.items():
            tensors_of.setdefault(name, []).append(tensor)
        problems: list[str] = []
        for name, tensors in sorted(tensors_of.items()):
            if Path(name).is_absolute() or ".." in Path(name).parts:
                problems.append(f"the file {name!r} is not inside the folder")
            elif not has_file(self.folder, name):
                problems.append(f"the file {name!r} is missing")
            else:
                known = set(self._open(name).keys())
                problems += (f"the file {name!r} has no tensor {one!r}" for one in tensors if one not in known)
        if problems:
            raise HuggingFaceError.in_file(self.folder / _INDEX, problems)

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
            path = file_in(self.folder, name)
            try:
                self._files[name] = safe_open(str(path), framework="pt")
            except (OSError, SafetensorError, ValueError) as error:
                raise HuggingFaceError.at(self.folder / name, f"cannot be read: {error}") from None
        return self._files[name]


def _read_index(path: Path) -> dict[str, str]:
    weight_map = read_json(path, MAX_INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise HuggingFaceError.at(path, "is not an index of tensors: 'weight_map' must map each name to a file")
    return cast("dict[str, str]", weight_map)


def _read_pickled(path: Path) -> Mapping[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))
    except Exception as error:  # the unpickler raises errors of many classes for damaged bytes
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


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write one safetensors file."""
    save_file({name: tensor.contiguous() for name, tensor in _without_shared_memory(tensors)}, path)


def read_unused(folder: Path, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """The tensors that the model of an imported folder does not use; empty if there are none.

    Args:
        folder: written by :func:`blockformer.huggingface.write_folder`.
        dtype: of the floating-point tensors; None: as they are stored.

    Raises:
        HuggingFaceError: the file is damaged.
    """
    if not has_file(folder, UNUSED):
        return {}
    try:
        tensors = load_file(file_in(folder, UNUSED))
    except (OSError, SafetensorError, ValueError) as error:
        raise HuggingFaceError.at(folder / UNUSED, f"cannot be read: {' '.join(str(error).split())}") from None
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


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
