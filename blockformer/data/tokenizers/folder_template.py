"""The chat template in a folder of Hugging Face, and the names of the special tokens that it knows."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blockformer.data.chat_template import MAX_BYTES, TEMPLATE, read_template
from blockformer.errors import DataError
from registry.files import file_in, is_file

_ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")


def template_in(folder: Path, settings: Mapping[str, Any]) -> tuple[str, str] | None:
    """The chat template beside a tokenizer, and its name: that of a file, else of its settings; None: there is none.

    Args:
        folder: the folder.
        settings: the content of its tokenizer_config.json. Of several templates there, the one called `default` is it.

    Raises:
        DataError: it is too large, or cannot be read.
        OSError: its name points outside of the folder.
    """
    if is_file(folder / TEMPLATE):
        path = file_in(folder, TEMPLATE, MAX_BYTES)
        return read_template(path), str(path)
    found = settings.get("chat_template")
    if isinstance(found, list):
        named = {one.get("name"): one.get("template") for one in found if isinstance(one, dict)}
        found = named.get("default")
    if not isinstance(found, str):
        return None
    if len(found) > MAX_BYTES:
        raise DataError(f"the chat template in its settings has {len(found):,} characters; at most {MAX_BYTES:,}")
    return found, f"the chat template of {folder / 'tokenizer_config.json'}"


def token_names(*settings: Mapping[str, Any]) -> dict[str, str]:
    """The names of special tokens by their keys, such as `eos_token`, each by the first of the settings that has it."""
    names: dict[str, str] = {}
    for key in (f"{role}_token" for role in _ROLES):
        given = next((values[key] for values in settings if values.get(key) is not None), None)
        name = given.get("content") if isinstance(given, dict) else given
        if isinstance(name, str):
            names[key] = name
    return names
