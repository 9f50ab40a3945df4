"""Render the templates of a family with the values of a config.json; lists of layers become the keys of a stack."""

import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any, cast

from blockformer.assembly.descriptions import shortest_periods
from blockformer.huggingface.config import Config, below, set_at, values_at
from blockformer.huggingface.config_source import keys_with
from blockformer.huggingface.errors import HuggingFaceError
from blockformer.huggingface.expression import ExpressionError, evaluate, is_expression, parse
from blockformer.huggingface.family import Family
from registry import Mark
from registry.errors import quoted
from registry.strict_yaml import Map
from registry.types import MAX_LAYERS


def compress_layers(layers: Sequence[Any], names: Sequence[str | None]) -> dict[str, Any]:
    """The shortest keys of a stack that describe a list of layers.

    Args:
        layers: the recipe of each layer.
        names: the name of each layer; None: a letter. Different layers with the same name get a number as a suffix.

    Returns:
        ``layer`` if all are equal; else ``layers`` and ``pattern``, with ``first`` for layers before the repetition
        and ``rest: cut`` if the last repetition is incomplete.
    """
    keys = [json.dumps(layer, sort_keys=True, default=list) for layer in layers]
    if len(set(keys)) <= 1:
        return {"layer": layers[0]} if layers else {}
    unique = _unique_names(keys, names)
    order = [unique[key] for key in keys]
    begin, period = _shortest_repetition(order)
    described: dict[str, Any] = {"layers": {unique[key]: layers[keys.index(key)] for key in dict.fromkeys(keys)}}
    if begin:
        described["first"] = order[:begin]
    described["pattern"] = order[begin : begin + period]
    return described | ({"rest": "cut"} if (len(order) - begin) % period else {})


def expand_layers(stack: dict[str, Any]) -> list[Any]:
    """The recipe of each layer that has weights of its own; the inverse of :func:`compress_layers`."""
    count = stack.get("distinct") or stack["depth"]
    if not stack.get("layers"):
        return [stack["layer"]] * count
    first, pattern = list(stack.get("first") or ()), list(stack["pattern"])
    order = first + [pattern[index % len(pattern)] for index in range(count - len(first))]
    return [stack["layers"][name] for name in order]


def _unique_names(keys: Sequence[str], names: Sequence[str | None]) -> dict[str, str]:
    """A unique name for every distinct layer, by its key."""
    unique: dict[str, str] = {}
    for key, name in zip(keys, names, strict=True):
        if key in unique:
            continue
        base = name or chr(ord("a") + len(unique) % 26)
        taken = sum(other == base or other.startswith(f"{base}_") for other in unique.values())
        unique[key] = f"{base}_{taken + 1}" if taken else base
    return unique


def _shortest_repetition(order: Sequence[str]) -> tuple[int, int]:
    """Start and period of the repetition that takes the fewest names to write, preferably without a remainder."""
    periods = enumerate(shortest_periods(order))
    plans = [(begin + period, (len(order) - begin) % period, begin, period) for begin, period in periods]
    *_, begin, period = min(plans)
    return begin, period


OMITTED = object()  # the result of a condition that does not hold and has no `else`: its key is left out


class TemplateContext:
    """The values of all names that the templates of a family may use, for one config.

    Args:
        family: its templates and defaults.
        config: its keys.
        variables: further names, such as ``tensors``; they take precedence.
        active: templates that are being rendered, the outermost first.
        defaults: use the family's defaults for keys that the config does not have.
    """

    def __init__(
        self,
        family: Family,
        config: Config,
        variables: Mapping[str, Any],
        *,
        active: tuple[str, ...] = (),
        defaults: bool = True,
    ) -> None:
        self.family, self.config = family, config
        self.variables: dict[str, Any] = dict(variables)
        self.active = active
        self.defaults = family.section("defaults") if defaults else Map()
        self.fixed = family.section("fixed") if defaults else Map()
        self._inner_paths: dict[str, dict[str, str]] = {}  # for each nested config the paths of keys with a default
        for path in [*self.defaults, *self.fixed]:
            if rest := below(path):
                self._inner_paths.setdefault(path.partition(".")[0], {})[path] = rest
        self.used_defaults: dict[str, Any] = {}  # keys that the config does not have, with the defaults used instead

    def value(self, name: str) -> Any:
        if name in self.variables:
            return self.variables[name]
        template = self.family.templates.get(name)
        # Inside its own template, a name means the config's key.
        if template is not None and not template.parameters and name not in self.active:
            return self._render_named(name, template.body, "let", template.mark)
        inner = self._inner_paths.get(name)
        if inner and (name not in self.config or isinstance(self.config[name], Mapping)):
            return self._nested(name, inner)
        if name in self.config:
            return self.config[name]
        if not self._has_default(name) or f"defaults.{name}" in self.active:
            if (name in self.active and self.active[-1] != name) or f"defaults.{name}" in self.active:
                raise ExpressionError(f"{' -> '.join([*self._circle(name), name])} is a circle")
            message = f"the config has no key {name!r}, and the family has no default for it"
            raise ExpressionError(message + self._suggestion(name))
        value = self._default(name)
        self.used_defaults[name] = value
        return value

    def _has_default(self, path: str) -> bool:
        return path in self.defaults or (path in self.fixed and self.family.has_default(path))

    def _default(self, path: str) -> Any:
        """The default of a key, which may be an expression."""
        section = self.defaults if path in self.defaults else self.fixed
        return self._render_named(f"defaults.{path}", self.family.default(path), "defaults", section.marks[path])

    def _nested(self, name: str, paths: Mapping[str, str]) -> Config:
        """A nested config with the defaults of the keys that it lacks.

        Args:
            name: its key.
            paths: of the keys that have a default, in the whole config, with their paths in the nested one.
        """
        values: dict[str, Any] = {}
        given = self.config.get(name) or Config({})
        for path, rest in paths.items():
            if self._has_default(path) and not any(values_at(given.plain, rest)):
                self.used_defaults[path] = self._default(path)
                set_at(values, rest, self.used_defaults[path])
        return given.over(values)

    def _circle(self, name: str) -> list[str]:
        """The names that are being evaluated, from the one that is needed again."""
        active = [one.removeprefix("defaults.") for one in self.active]
        return active[active.index(name) :]

    def call(self, name: str, arguments: Sequence[Any]) -> Any:
        template = self.family.templates[name]
        if len(arguments) != len(template.parameters):
            raise ExpressionError(f"{name} takes {len(template.parameters)} arguments, not {len(arguments)}")
        if name in self.active:
            raise ExpressionError(f"{name} calls itself, which is not supported")
        with self.assigned(dict(zip(template.parameters, arguments, strict=True))):
            return self._render_named(name, template.body, "let", template.mark)

    def render(self, node: Any, path: str, mark: Mark) -> Any:
        """A template with every expression evaluated and every condition decided.

        Args:
            node: the template.
            path: its dotted path in the family file, for messages.
            mark: its file and line.

        Raises:
            HuggingFaceError: an expression cannot be evaluated.
        """
        if is_expression(node):
            return self.evaluate(node, path, mark)
        if isinstance(node, list):
            items = cast("list[Any]", node)
            return [self.render(item, f"{path}.{index}", mark) for index, item in enumerate(items)]
        if not isinstance(node, Map):
            return node
        if "if" in node:
            branch = "then" if self.evaluate(str(node["if"]), f"{path}.if", node.marks["if"]) else "else"
            return self.render(node[branch], f"{path}.{branch}", node.marks[branch]) if branch in node else OMITTED
        if "switch" in node:
            return self._render_switch(node, path)
        if "depth" in node and "layer" in node:
            return self._render_stack(node, path)
        return dict(self._render_items(node, path))

    def evaluate(self, text: str, path: str, mark: Mark) -> Any:
        """The value of one expression.

        Raises:
            HuggingFaceError: it cannot be evaluated.
        """
        try:
            return evaluate(parse(text), self)
        except ExpressionError as error:
            raise HuggingFaceError.at(mark, str(error), path) from None

    @contextmanager
    def assigned(self, variables: Mapping[str, Any]) -> Generator[None]:
        """Assign variables within a ``with`` block."""
        before, self.variables = self.variables, {**self.variables, **variables}
        try:
            yield
        finally:
            self.variables = before

    def _render_named(self, name: str, body: Any, section: str, mark: Mark) -> Any:
        before, self.active = self.active, (*self.active, name)
        try:
            return self.render(body, f"{section}.{name.removeprefix('defaults.')}", mark)
        finally:
            self.active = before

    def _render_items(self, node: Map, path: str) -> Iterator[tuple[str, Any]]:
        for key, inner in node.items():
            value = self.render(inner, f"{path}.{key}", node.marks[key])
            if value is not OMITTED:
                yield key, value

    def _render_switch(self, node: Map, path: str) -> Any:
        value, cases = self.render(node["switch"], f"{path}.switch", node.marks["switch"]), cast("Map", node["cases"])
        if not isinstance(value, str) or value not in cases:
            keys = " or ".join(keys_with(self.config, value))
            of_config = f", the value of {keys} in the config" if keys else ""
            message = f"no case for {quoted(value)}{of_config}; known cases: {', '.join(cases)}"
            raise HuggingFaceError.at(node.marks["switch"], message, path)
        return self.render(cases[value], f"{path}.cases.{value}", cases.marks[value])

    def _render_stack(self, node: Map, path: str) -> dict[str, Any]:
        """A stack, whose template of one layer is rendered for each index; ``layer`` is that index."""
        rest = Map({key: node[key] for key in node if key not in ("layer", "names")}, node.marks, node.mark)
        stack = dict(self._render_items(rest, path))
        layers: list[Any] = []
        names: list[str | None] = []
        for index in range(self._layers(stack, path, node.marks["depth"])):
            with self.assigned({"layer": index, "depth": stack["depth"]}):
                layers.append(self.render(node["layer"], f"{path}.layer", node.marks["layer"]))
                named = "names" in node
                names.append(self.render(node["names"], f"{path}.names", node.marks["names"]) if named else None)
        return stack | compress_layers(layers, names)

    def _layers(self, stack: Mapping[str, Any], path: str, mark: Mark) -> int:
        """The number of layers with weights of their own, each of which has a tensor at least."""
        depth, distinct = stack["depth"], stack.get("distinct")
        for key, value in (("depth", depth), ("distinct", 1 if distinct is None else distinct)):
            if type(value) is not int or value < 0:
                raise HuggingFaceError.at(mark, f"must be a whole number, not {quoted(value)}", f"{path}.{key}")
        layers, tensors = depth // (distinct or 1), len(self.variables.get("tensors") or ())
        if layers > (tensors or MAX_LAYERS):
            known = f"the folder has only {tensors:,} tensors" if tensors else f"at most {MAX_LAYERS:,} are supported"
            raise HuggingFaceError.at(mark, f"{layers:,} layers, but {known}", f"{path}.depth")
        return layers

    def _suggestion(self, name: str) -> str:
        close = get_close_matches(name[:100], [*self.config, *self.family.templates], n=1)
        return f"; did you mean {close[0]!r}?" if close else ""
