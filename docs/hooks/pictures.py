"""Pictures of recipes in files of the site, and the Markdown that shows them."""

import hashlib
import posixpath
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import figures
from mkdocs.structure.files import File

from blockformer.reference.pictures import picture_of_block, picture_of_model
from registry import load_recipe
from registry.strict_yaml import parse_text


class Pictures:
    """Adds pictures to the files of the site, and gives what shows them on one page."""

    def __init__(self, uri: str, config: Any, files: Any) -> None:
        self._folder, self._config, self._files = posixpath.dirname(uri), config, files

    def add(self, name: str, svg: str) -> str:
        """The address, from the page, of a picture of this name."""
        uri = f"pictures/{name}.svg"
        if self._files.get_file_from_path(uri) is None:
            self._files.append(File.generated(self._config, uri, content=svg))
        return posixpath.relpath(uri, self._folder or ".")

    def block(self, slot: str, name: str, recipe: str) -> str:
        """A picture of a block in its small model."""
        address = self.add(f"{slot}-{name}", picture_of_block(load_recipe(parse_text(recipe, name)), slot, name))
        return _image(f"A layer with the {slot} {name}", address)

    def model(self, recipe: str, changes: tuple[str, ...] = ()) -> str:
        """The address of a picture of a whole model."""
        made_of = hashlib.sha256(" ".join(changes).encode()).hexdigest()[:8] if changes else ""
        return self.add("-".join(filter(None, [recipe, made_of])), _model(recipe, changes))

    def layer(self, recipe: str) -> str:
        """The address of a picture of the first kind of layer of a model."""
        return self.add(f"{recipe}-layer", _layer(recipe))

    def figure(self, name: str, caption: str) -> str:
        """A figure of :mod:`figures`, with a caption."""
        language = "zh" if self._folder == "zh" else "en"
        return _figure(self.add(f"figure-{name}-{language}", figures.figure(name, language)), name, caption)

    def figure_of_text(self, recipe: str, caption: str) -> str:
        """A picture of the model of a recipe in YAML, with a caption."""
        name = f"recipe-{hashlib.sha256(recipe.encode()).hexdigest()[:8]}"
        with TemporaryDirectory() as folder:
            path = Path(folder) / "recipe.yaml"
            path.write_text(recipe)
            return _figure(self.add(name, picture_of_model(load_recipe(path))), "the model", caption)

    def figure_of_model(self, recipe: str, changes: list[str], caption: str) -> str:
        """A picture of a whole model, with a caption."""
        return _figure(self.model(recipe, tuple(changes)), recipe, caption)


def _figure(address: str, what: str, caption: str) -> str:
    below = f"<figcaption>{caption}</figcaption>" if caption else ""
    return f'<figure class="picture" markdown="span">{_image(f"Figure: {what}", address)}{below}</figure>'


def _image(what: str, address: str) -> str:
    """A picture that fits the page; a click opens it at its own size."""
    return f"[![{what}]({address}){{ loading=lazy }}]({address})"


@cache
def _model(recipe: str, changes: tuple[str, ...]) -> str:
    return picture_of_model(load_recipe(recipe, list(changes)))


@cache
def _layer(recipe: str) -> str:
    found = load_recipe(recipe)
    first = next(spec.entry for _, spec in found.spec.walk() if spec.entry.slot == "layer")
    return picture_of_block(found, "layer", first.name)
