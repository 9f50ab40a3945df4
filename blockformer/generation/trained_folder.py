"""Where a trained model is found: a checkpoint, a run's folder or an imported one; and the tokenizer in it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blockformer.assembly.checkpoint import checkpoint_in
from blockformer.assembly.imported_folder import RECIPE, WEIGHTS
from blockformer.data.tokenizer import Tokenizer
from blockformer.data.tokenizers import stored
from blockformer.data.tokenizers.file import TOKENS, File, has_tokenizer
from blockformer.errors import DataError, UserError


def stored_tokenizer(path: Path, metadata: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer in a checkpoint's metadata.

    Raises:
        UserError: there is none, or it is not one of ours.
    """
    if metadata.get("tokenizer") is None:
        trained = (metadata.get("data") or {}).get("dataset")
        on = f" (it was trained on {trained!r}, whose token ids are not text)" if trained else ""
        raise UserError(f"{path}: the checkpoint has no tokenizer, which generating text needs{on}")
    try:
        return stored.from_dump(metadata["tokenizer"])
    except DataError as error:
        raise UserError(f"{path}: tokenizer: {error}") from None


def imported_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of an imported folder.

    Raises:
        UserError: there is none, or it cannot be used.
    """
    if not has_tokenizer(path):
        raise UserError(f"{path}: the folder has no {TOKENS}, which text needs: import it with its tokenizer")
    return File(tokenizer_path=str(path)).read()


def is_imported(path: Path) -> bool:
    """Whether a folder is one that `blockformer import` wrote."""
    return path.is_dir() and (path / RECIPE).is_file() and (path / WEIGHTS).is_file() and checkpoint_in(path) is None


def find_checkpoint(path: Path) -> Path:
    """A checkpoint's file: the path itself, or the best or else the last checkpoint of a run's folder.

    Raises:
        UserError: the folder has neither.
    """
    if not path.is_dir():
        return path
    if (file := checkpoint_in(path)) is not None:
        return file
    raise UserError(f"{path}: not a run's folder: neither checkpoints/best.ckpt nor checkpoints/last.ckpt is there")
