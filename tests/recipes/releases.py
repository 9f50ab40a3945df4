"""Published models: what the config.json of each release says, and how many parameters the release holds."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry import builtin_recipes
from registry.recipe import recipes_folder
from registry.strict_yaml import as_plain, read_yaml

FOLDER = Path(__file__).parent / "released"


@dataclass(frozen=True, eq=False)
class Release:
    """One published model.

    Attributes:
        name: of our recipe.
        id: where it lies, below https://huggingface.co/.
        config: what its config.json says of the model.
        parameters: numbers that were trained, tied ones counted once.
        shown: how many its page or index counts, if that is something else.
        besides: what else that counts.
    """

    name: str
    id: str
    config: Mapping[str, Any]
    parameters: int
    shown: int | None = None
    besides: Mapping[str, int] | None = None

    def __str__(self) -> str:
        return self.name


def _releases() -> Iterator[Release]:
    for path in sorted(FOLDER.glob("*.yaml")):
        for group in json.loads(json.dumps(as_plain(read_yaml(path))))["groups"]:
            common = {**group.get("like", {}), **group["config"]}
            for name, model in group["models"].items():
                yield Release(name, **{**model, "config": {**common, **model.get("config", {})}})


RELEASES = list(_releases())
FOLDERS = {name: path for name, path in builtin_recipes().items() if path.parent != recipes_folder()}
# Sizes that say only how they differ from another of their family: they hold no idea that others lack.
SIZES = {name for name, path in FOLDERS.items() if "\nextends: " in path.read_text()}
DISTINCT = [name for name in builtin_recipes() if name not in SIZES]
# The recipes of every day: examples, and one release of each kind of model.
EVERYDAY = [name for name in DISTINCT if name in ("gpt2", "llama3_8b", "bert_base") or name.startswith("tiny_")]
