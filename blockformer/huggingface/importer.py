"""Import a Hugging Face folder: its config becomes a recipe, its tensors become parameters."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from blockformer.assembly.builder import check
from blockformer.assembly.imported_folder import RECIPE, write_imported
from blockformer.files import write_text
from blockformer.huggingface.config import Config, config_of_its_own, values_at
from blockformer.huggingface.config_source import named_in_config
from blockformer.huggingface.errors import HuggingFaceError
from blockformer.huggingface.family import Family, as_list, family_of, load_family
from blockformer.huggingface.family_file import ANY
from blockformer.huggingface.folder import (
    TOKENIZER_FILES,
    UNUSED,
    TensorFiles,
    copy_tokenizer,
    output_folder,
    read_config,
    write_tensors,
)
from blockformer.huggingface.template import TemplateContext
from blockformer.huggingface.tensor_conversion import parameters_from_tensors
from blockformer.huggingface.tensor_names import tensor_names
from blockformer.huggingface.tensor_rules import tensor_rules
from registry import Mark, Problem, Recipe, RecipeError, load_recipe
from registry.errors import quoted
from registry.merge import split_path
from registry.strict_yaml import Map, mark_of
from registry.text import as_yaml, shortened


@dataclass(frozen=True)
class ImportedModel:
    """A model in a Hugging Face folder.

    Attributes:
        folder: the folder.
        family: the family that was used.
        recipe: the model.
        parameters: of the model, by name, with the dtypes of the stored tensors.
        tokens: what an export writes into its config again: ids of special tokens, and sizes of unused tensors.
        unused: tensors of the folder that the model does not use, for an export.
    """

    folder: Path
    family: Family
    recipe: Recipe
    parameters: Mapping[str, Tensor]
    tokens: Mapping[str, Any]
    unused: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])


def read_folder(folder: str | Path, family: str | Path | None = None) -> ImportedModel:
    """Read a Hugging Face folder.

    Args:
        folder: contains config.json and safetensors, as one file or as shards with an index.
        family: a family file, or the name of a built-in family; None: the one for the config's ``model_type``.

    Raises:
        HuggingFaceError: no family supports the folder, or some config keys or tensors are not supported; the error
            lists all of them.
    """
    folder = Path(folder)
    file = folder / "config.json"
    values = read_config(file)
    chosen = family_of(values, file, None if family is None else [load_family(family)])
    stored = TensorFiles(folder)
    context = TemplateContext(chosen, Config(values), {"tensors": frozenset(stored)})
    problems = list(_unsupported_values(context, file))
    if problems:
        raise HuggingFaceError(problems)
    recipe = recipe_from_config(context, file)
    problems += unread_keys(context, file)
    shapes = {name: tuple(tensor.shape) for name, tensor in check(recipe).state_dict().items()}
    conversion = parameters_from_tensors(tensor_rules(context), tensor_names(context), stored, shapes)
    problems += [Problem(Mark(str(folder)), "", message) for message in conversion.problems]
    if problems:
        raise HuggingFaceError(problems)
    unused = {name: stored[name] for name in conversion.unused}
    sizes = {key: value for key, value in values.items() if unused and chosen.ignores(key) and type(value) is int}
    return ImportedModel(folder, chosen, recipe, conversion.parameters, sizes | _tokens(values, file), unused)


def write_folder(imported: ImportedModel, out: str | Path) -> Path:
    """Write ``recipe.yaml`` and ``model.safetensors``, the tensors without a use if there are any, and the tokenizer.

    Args:
        imported: the model.
        out: a folder that does not exist yet.

    Raises:
        HuggingFaceError: ``out`` exists, or cannot be written.
    """
    family, recipe = imported.family.name, imported.recipe
    tensors = {name: tensor.contiguous() for name, tensor in imported.parameters.items()}
    metadata = {
        "format": "pt",
        "recipe_hash": recipe.hash,
        "family": family,
        "tokens": json.dumps(imported.tokens),
    }
    with output_folder(out) as draft:
        header = f"# Imported from a Hugging Face folder with the family {family}.\n"
        write_text(draft / RECIPE, header + recipe.to_yaml())
        copy_tokenizer(imported.folder, draft)
        if imported.unused:
            write_tensors(draft / UNUSED, imported.unused)
        write_imported(draft, tensors, metadata, (RECIPE, UNUSED, *TOKENIZER_FILES))
    return Path(out)


def _tokens(config: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """The ids of special tokens in a config; some have several ids."""
    found = {key: value for key, value in config.items() if key.endswith("_token_id") and value is not None}
    for key, value in found.items():
        if not all(type(one) is int for one in as_list(value)):
            raise HuggingFaceError.at(file, f"must be a token id or a list of them, not {quoted(value)}", key)
    return found


def recipe_from_config(context: TemplateContext, file: Path | None = None) -> Recipe:
    """The recipe that a family makes of a config.

    Args:
        context: the family and the config.
        file: the config's file, whose keys are named where they have a wrong value; None: they are not searched.

    Raises:
        HuggingFaceError: the recipe is not valid; each problem has the line of the family file.
    """
    section = context.family.section("recipe")
    rendered = context.render(section, "recipe", section.mark or Mark(str(context.family.path)))
    values = cast("dict[str, Any]", _plain(rendered))
    try:
        recipe = load_recipe(values)
        # The family file as the source makes unused keys acceptable: only some models of a family need all of its keys.
        recipe = replace(recipe, name=context.family.name, source=str(context.family.path))
        check(recipe)
    except RecipeError as error:
        problems = [_family_problem(section, problem) for problem in error.problems]
        if file is not None:
            problems = [named_in_config(problem, values, context.config, file) for problem in problems]
        raise HuggingFaceError(problems) from None
    return recipe


def unread_keys(context: TemplateContext, file: Path) -> Iterator[Problem]:
    """A problem for every config key that the family does not mention."""
    family, config = context.family, context.config
    config.read.update(key for key in family.keys if not isinstance(config.get(key), Mapping))
    config.read.update(("model_type", "architectures"))
    for key in config.unread():
        own = config_of_its_own(config, key)  # nested configs repeat the keys that `common` ignores or fixes
        names = [key, key.partition(".")[0], *([own] if own is not None else [])]
        if any(map(family.ignores, names)) or own == "model_type":
            continue
        if own is not None and own in family.section("fixed"):
            yield from _unsupported(context, own, key, Mark(str(file)))
        elif key in family.section("defaults") and "." not in key:
            if config.get(key) == family.default(key):
                continue  # says what would hold without it
            message = f"family {family.name!r} has a default for this key, but nothing in it reads the key"
            yield Problem(Mark(str(file)), key, message)
        elif "." in key and key.rpartition(".")[2] in family.inner_keys:
            reason = "reads this key for other configs, but not for this one; it may change the model"
            message = f"family {family.name!r} {reason}"
            yield Problem(Mark(str(file)), key, message)
        else:
            message = f"family {family.name!r} does not read this key, which may change the model"
            yield Problem(Mark(str(file)), key, message)


def _unsupported_values(context: TemplateContext, file: Path) -> Iterator[Problem]:
    """A problem for every config value that the family does not support."""
    mark = Mark(str(file))
    for key in context.family.section("fixed"):
        yield from _unsupported(context, key, key, mark)
    require = context.family.section("require")
    for text, message in require.items():
        if message is not None and not context.evaluate(text, "require", require.marks[text]):
            yield Problem(mark, "", f"{message} ({text} does not hold)")


def _unsupported(context: TemplateContext, name: str, path: str, mark: Mark) -> Iterator[Problem]:
    """A problem for every value at a path of the config that ``fixed`` does not allow under a name."""
    family, section = context.family, context.family.section("fixed")
    if section[name] == ANY:
        return
    known = as_list(context.render(section[name], f"fixed.{name}", section.marks[name])) or [None]
    for place, value in values_at(context.config, path):
        if value not in known:
            supported = " or ".join(map(as_yaml, known))
            plain = _plain(value)
            written = as_yaml(plain) if isinstance(plain, dict | list) else str(plain)
            message = f"is {shortened(written, 100)}; family {family.name!r} supports only {supported}"
            yield Problem(mark, place, message)


def _family_problem(section: Map, problem: Problem) -> Problem:
    """A problem of a recipe, with the line of the family file that the key comes from."""
    path, parts = list[str | int](), iter(split_path(problem.path))
    for part in parts:
        if part == "layers":  # a family file has one template for all layers, without names
            next(parts, None)
            part = "layer"
        path.append(int(part) if part.isdigit() else part)
    return Problem(mark_of(section, path), f"recipe.{problem.path}", problem.message)


def _plain(value: Any) -> Any:
    """Mappings of the config that became part of the recipe, as plain dicts."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in cast("Mapping[str, Any]", value).items()}
    return [_plain(item) for item in cast("list[Any]", value)] if isinstance(value, list) else value
