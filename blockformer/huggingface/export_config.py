"""Find the family and the config with which a recipe is exported."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, cast

from blockformer.assembly.builder import check
from blockformer.huggingface.config import EACH, Config, merged, set_at, values_at
from blockformer.huggingface.config_solver import ConfigSolver
from blockformer.huggingface.errors import ExportError, HuggingFaceError
from blockformer.huggingface.export_errors import Mismatch, NearestConfigSolver, compare_recipes, unsolved_keys
from blockformer.huggingface.expression import is_expression
from blockformer.huggingface.family import Family, as_list, families
from blockformer.huggingface.family_file import ANY
from blockformer.huggingface.importer import recipe_from_config
from blockformer.huggingface.partial_config import ConflictError, NoInverseError, PartialConfig
from blockformer.huggingface.template import TemplateContext, expand_layers
from registry import Mark, Problem, Recipe, RecipeError, Spec, load_recipe, spec_of

_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")  # always written: transformers would assume its own defaults


def config_of(recipe: Recipe, family: Family) -> dict[str, Any]:
    """The config that a family turns into a recipe.

    Args:
        recipe: the model; settings that matter only in training (dropout, initial values) are ignored.
        family: the family of the config.

    Raises:
        ExportError: there is none; each problem is a key of the recipe that differs from the family.
        HuggingFaceError: the family does not say how keys of the config follow from the recipe.
    """
    resolved = resolve_nulls(recipe)
    try:
        return _find_config(recipe, resolved, family)
    except NoInverseError as error:
        raise _without_inverse(family, error) from None
    except ConflictError as conflict:
        problems = [mismatch.problem for mismatch in mismatches(resolved, family)]
        raise ExportError(problems or [Problem(Mark(recipe.name), "", str(conflict))]) from None


def family_for(recipe: Recipe) -> tuple[Family, dict[str, Any]]:
    """The built-in family that supports a recipe, and its config.

    Of several families it is the one that extends the fewest others, then the one with the shortest config.

    Raises:
        ExportError: there is none; each problem is a key of the recipe that differs from the nearest family.
        HuggingFaceError: a family that fits does not say how keys of the config follow from the recipe.
    """
    resolved, found = resolve_nulls(recipe), list[tuple[Family, dict[str, Any]]]()
    without_inverse = list[HuggingFaceError]()
    for family in families():
        try:
            found.append((family, _find_config(recipe, resolved, family)))
        except NoInverseError as error:
            without_inverse.append(_without_inverse(family, error))
        except ConflictError:
            continue
    if found:
        return min(found, key=lambda pair: (len(pair[0].bases), len(pair[1])))
    if without_inverse:
        raise without_inverse[0]
    candidates = [(family, mismatches(resolved, family)) for family in families()]
    _, nearest = min(candidates, key=lambda pair: (sum(one.weight for one in pair[1]), len(pair[0].bases)))
    raise ExportError(mismatch.problem for mismatch in nearest)


def _without_inverse(family: Family, error: NoInverseError) -> HuggingFaceError:
    messages = (
        f"the export cannot find {key} from `{text}`; add its inverse to the section 'export', such as "
        f"`{key}: =recipe[...]`"
        for key, text in error.keys.items()
    )
    return HuggingFaceError.in_file(family.path, messages)


def mismatches(recipe: Recipe, family: Family) -> list[Mismatch]:
    """The keys in which a recipe, without nulls, differs from the nearest one of a family; empty if it is supported."""
    canonical = recipe.dump()
    try:
        given = _exported_keys(family, canonical)
    except ConflictError:
        given = PartialConfig()
    solver = NearestConfigSolver(family, given)
    try:
        config = merged(_fixed_keys(family), solver.solve(canonical))
        nearest = recipe_from_config(TemplateContext(family, Config(config), {"tensors": frozenset[str]()}))
    except ConflictError as conflict:
        return list(unsolved_keys(recipe, family, {"": conflict}))
    except RecipeError:
        return list(unsolved_keys(recipe, family, dict(solver.failed)))
    return list(compare_recipes(recipe, resolve_nulls(nearest), family))


def resolve_nulls(recipe: Recipe) -> Recipe:
    """The same model with nulls replaced by the numbers that its blocks compute, such as ``kv_heads`` by ``heads``.

    Raises:
        RecipeError: the recipe cannot be built.
        ExportError: its forward pass depends on the width by its init.
    """
    computed: dict[int, dict[str, int]] = {}
    model = check(recipe)
    if model.width_multiplier != 1:
        reason = (
            f"at {model.width_multiplier:g} times its base_width the init scales attention scores and logits, which "
            "families do not express"
        )
        raise ExportError([recipe.problem(("init",), reason)])
    for _, component in model.components():
        spec = spec_of(component)
        if spec is not None:
            nulls = (key for key, value in spec.params if value is None)
            numbers = {key: getattr(component, key, None) for key in nulls}
            computed[id(spec)] = {key: value for key, value in numbers.items() if type(value) is int}
    return Recipe(recipe.name, load_recipe(_with_numbers(recipe.spec, computed)).spec, recipe.tree)


def _with_numbers(spec: Spec[Any], computed: dict[int, dict[str, int]]) -> dict[str, Any]:
    whole = spec.dump() | computed.get(id(spec), {})
    for path, child in spec.children():
        inner: Any = whole
        for key in path[:-1]:
            inner = inner[key]
        cast("dict[Any, Any]", inner)[path[-1]] = _with_numbers(child, computed)
    return whole


def _find_config(recipe: Recipe, resolved: Recipe, family: Family) -> dict[str, Any]:
    """The config that a family turns into a recipe, as it is written or with its nulls resolved.

    Raises:
        ConflictError: there is none.
    """
    with suppress(ConflictError):
        return _solve(recipe, resolved, family)
    return _solve(resolved, resolved, family)


def _solve(recipe: Recipe, resolved: Recipe, family: Family) -> dict[str, Any]:
    canonical = recipe.dump()
    solver = ConfigSolver(family, _exported_keys(family, canonical))
    config = _with_fixed_expressions(family, merged(_fixed_keys(family), solver.solve(canonical)))
    try:
        used_defaults = _check_config(resolved, family, config)
    except ConflictError:
        if unsolved := solver.unsolved(config):
            raise NoInverseError(unsolved) from None
        raise
    config = _prefer_defaults(resolved, family, config)
    for key, value in used_defaults.items():
        if value is not None and not any(values_at(config, key)):
            set_at(config, key, value)
    defaults = family.section("defaults")
    return {
        key: value
        for key, value in config.items()
        if value is not None or defaults.get(key) is not None or key in _TOKENS
    }


def _fixed_keys(family: Family) -> dict[str, Any]:
    """The keys that are the same in every config of a family."""
    names = {"architectures": family.architectures[:1], "model_type": family.model_types[0]}
    config = names | dict.fromkeys(_TOKENS)
    for key, value in family.section("fixed").items():
        first = (as_list(value) or [None])[0]
        if first not in (None, {}, ANY) and not is_expression(first) and EACH not in key.split("."):
            set_at(config, key, first)
    return config


def _with_fixed_expressions(family: Family, config: dict[str, Any]) -> dict[str, Any]:
    """A config with the keys whose only value depends on other keys.

    Raises:
        ConflictError: the value of such a key cannot be computed.
    """
    section = family.section("fixed")
    for key in (key for key, value in section.items() if is_expression(value)):
        context = TemplateContext(family, Config(config), {"tensors": frozenset[str]()})
        try:
            set_at(config, key, context.render(section[key], f"fixed.{key}", section.marks[key]))
        except HuggingFaceError as error:
            raise ConflictError(str(error.problems[0])) from None
    return config


def _exported_keys(family: Family, recipe: Mapping[str, Any]) -> PartialConfig:
    """The keys in the section ``export`` of a family: expressions over the recipe and its layers.

    Raises:
        ConflictError: an expression cannot be evaluated for this recipe.
    """
    keys, section = PartialConfig(), family.section("export")
    stack = cast("dict[str, Any]", recipe.get("decoder") or recipe.get("encoder"))
    variables = {"recipe": recipe, "layers": expand_layers(stack)}
    context = TemplateContext(family, Config({}), variables, defaults=False)
    for key in section:
        try:
            value = context.render(section[key], f"export.{key}", section.marks[key])
        except HuggingFaceError as error:
            raise ConflictError(str(error.problems[0])) from None
        if isinstance(value, str | int | float | list | dict | None):
            keys.assign(tuple(key.split(".")), value)
    return keys


def _check_config(recipe: Recipe, family: Family, config: Mapping[str, Any]) -> dict[str, Any]:
    """Import a config and compare the result with the recipe; return the defaults that the import used.

    Raises:
        ConflictError: the config cannot be imported, or gives another recipe.
    """
    context = TemplateContext(family, Config(config), {"tensors": frozenset[str]()})
    try:
        imported = recipe_from_config(context)
    except RecipeError as error:
        raise ConflictError(str(error.problems[0])) from None
    for mismatch in compare_recipes(recipe, resolve_nulls(imported), family):
        raise ConflictError(str(mismatch.problem))
    return context.used_defaults


def _prefer_defaults(recipe: Recipe, family: Family, config: dict[str, Any]) -> dict[str, Any]:
    """Replace a text by the family's default where both mean the same, such as two names of one activation."""
    defaults = family.section("defaults")
    for key, value in list(config.items()):
        default = defaults.get(key)
        if isinstance(value, str) and isinstance(default, str) and not is_expression(default) and value != default:
            with suppress(ConflictError):
                _check_config(recipe, family, {**config, key: defaults[key]})
                config[key] = defaults[key]
    return config
