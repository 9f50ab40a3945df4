"""The tensors of a folder, read one at a time."""

import json
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast
from zipfile import is_zipfile

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from blockformer.huggingface.errors import InterchangeError

WHOLE, INDEX, PICKLED = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"


class TensorFiles(Mapping[str, Tensor]):
    """Names to tensors; a tensor is read when it is asked for.

    Args:
        folder: with model.safetensors, whole or in parts with an index, or a pytorch_model.bin (only tensors are read)

    Raises:
        InterchangeError: there is none of them, a part is missing, or a file is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._pickled: Mapping[str, Tensor] = {}
        self._files: dict[str, Any] = {}
        self._place: dict[str, str] = {}
        if (folder / INDEX).is_file():
            self._place = _read_index(folder / INDEX)
        elif (folder / WHOLE).is_file():
            self._place = dict.fromkeys(self._opened(WHOLE).keys(), WHOLE)
        elif (folder / PICKLED).is_file():
            self._pickled = _read_pickled(folder / PICKLED)
        else:
            raise InterchangeError.at(folder, f"has neither {WHOLE} nor {INDEX} (nor {PICKLED})")
        missing = sorted({name for name in self._place.values() if not (folder / name).is_file()})
        if missing:
            raise InterchangeError.among(folder / INDEX, (f"there is no file {name!r}" for name in missing))

    def __getitem__(self, name: str) -> Tensor:
        if name in self._pickled:
            return self._pickled[name]
        file = self._place[name]
        try:
            return cast("Tensor", self._opened(file).get_tensor(name))
        except SafetensorError as error:
            raise InterchangeError.at(self.folder / file, f"{name}: {error}") from None

    def __iter__(self) -> Iterator[str]:
        yield from self._place
        yield from self._pickled

    def __len__(self) -> int:
        return len(self._place) + len(self._pickled)

    def _opened(self, name: str) -> Any:
        if name not in self._files:
            try:
                self._files[name] = safe_open(str(self.folder / name), framework="pt")
            except (OSError, SafetensorError) as error:
                raise InterchangeError.at(self.folder / name, f"cannot be read: {error}") from None
        return self._files[name]


def _read_index(path: Path) -> dict[str, str]:
    try:
        places = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        return {str(name): str(file) for name, file in places.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InterchangeError.at(path, f"is not an index of tensors: {error}") from None


def _read_pickled(path: Path) -> Mapping[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0]
        raise InterchangeError.at(path, f"cannot be read as plain tensors: {reason}") from None
    if not isinstance(content, dict):
        raise InterchangeError.at(path, "does not hold tensors by name")
    return {str(k): v for k, v in cast("dict[Any, Any]", content).items() if isinstance(v, Tensor)}
