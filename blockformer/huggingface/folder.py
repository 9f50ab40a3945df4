"""Folders that are there whole or not at all, and the one that an import writes."""

import json
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex

from safetensors.torch import save_file

from blockformer.assembly.loading import RECIPE, WEIGHTS
from blockformer.huggingface.errors import InterchangeError
from blockformer.huggingface.importing import Imported

COPIED = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def write_folder(imported: Imported, out: str | Path) -> Path:
    """Write ``recipe.yaml`` and ``model.safetensors``, and copy the tokenizer if there is one.

    Args:
        imported: what to write.
        out: a folder that does not exist yet.

    Raises:
        InterchangeError: it exists, or cannot be written.
    """
    with drafted(out) as draft:
        _write(imported, draft)
    return Path(out)


@contextmanager
def drafted(out: str | Path) -> Generator[Path]:
    """A folder beside ``out`` to write into, which takes its place at the end; after an exception nothing is left.

    Args:
        out: a folder that does not exist yet.

    Raises:
        InterchangeError: it exists, or cannot be written.
    """
    out = Path(out)
    if out.exists() or out.is_symlink():
        raise InterchangeError.at(out, "exists already; remove it, or choose another place with --out")
    draft = out.parent / f".{out.name}.{token_hex(4)}"
    try:
        draft.mkdir(parents=True)
        yield draft
        draft.replace(out)
    except OSError as error:
        raise InterchangeError.at(out, f"cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _write(imported: Imported, folder: Path) -> None:
    header = f"# Imported from a Hugging Face folder by the family {imported.family.name}.\n"
    (folder / RECIPE).write_text(header + imported.recipe.to_yaml(), encoding="utf-8")
    tensors = {name: tensor.contiguous() for name, tensor in imported.parameters.items()}
    about = {"family": imported.family.name, "tokens": json.dumps(imported.tokens)}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt", "recipe_hash": imported.recipe.hash, **about})
    for name in COPIED:
        if (imported.folder / name).is_file():
            shutil.copyfile(imported.folder / name, folder / name)
