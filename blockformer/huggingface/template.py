"""Fill in a family's templates with the values of a config."""

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any, cast

from blockformer.huggingface.config import Config
from blockformer.huggingface.errors import InterchangeError
from blockformer.huggingface.evaluation import evaluate
from blockformer.huggingface.expression import ExpressionError, is_expression, parse
from blockformer.huggingface.family import Family
from blockformer.huggingface.layer_pattern import laid_out
from registry import Mark
from registry.strict_yaml import Map

OMITTED = object()  # what a condition without a matching branch gives: the key is left out


class Filling:
    """One config's values for the names in one family.

    Args:
        family: whose templates and defaults are used.
        config: the values.
        given: further names, such as ``tensors``.
        inside: templates that are being filled in, outermost first.
        defaults: use the family's defaults for keys that the config has not.
    """

    def __init__(
        self,
        family: Family,
        config: Config,
        given: Mapping[str, Any],
        *,
        inside: tuple[str, ...] = (),
        defaults: bool = True,
    ) -> None:
        self.family, self.config = family, config
        self.locals: dict[str, Any] = dict(given)
        self.filling = inside
        self.defaults = family.section("defaults") if defaults else Map()
        self.assumed: dict[str, Any] = {}  # keys that the config has not, with the defaults that were used for them

    def value(self, name: str) -> Any:
        if name in self.locals:
            return self.locals[name]
        template = self.family.templates.get(name)
        own = name in self.filling  # inside its own template, a name is the config's key
        if template is not None and not template.parameters and not own:
            return self._filled(name, template.body, "let", template.mark)
        if name in self.config:
            return self.config[name]
        if name not in self.defaults or f"defaults.{name}" in self.filling:
            raise ExpressionError(f"the config has no {name!r}, and the family no default for it{self._nearest(name)}")
        value = self._filled(f"defaults.{name}", self.defaults[name], "defaults", self.defaults.marks[name])
        self.assumed[name] = value
        return value

    def call(self, name: str, arguments: Sequence[Any]) -> Any:
        template = self.family.templates[name]
        if len(arguments) != len(template.parameters):
            raise ExpressionError(f"{name} takes {len(template.parameters)} arguments, not {len(arguments)}")
        if name in self.filling:
            raise ExpressionError(f"{name} calls itself")
        with self.bound(dict(zip(template.parameters, arguments, strict=True))):
            return self._filled(name, template.body, "let", template.mark)

    def fill(self, node: Any, path: str, mark: Mark) -> Any:
        """A template with every expression computed and every condition decided.

        Args:
            node: the template.
            path: where it stands in the family file, for messages.
            mark: the same as file and line.

        Raises:
            InterchangeError: an expression cannot be computed.
        """
        if is_expression(node):
            return self.computed(node, path, mark)
        if isinstance(node, list):
            items = cast("list[Any]", node)
            return [self.fill(item, f"{path}.{index}", mark) for index, item in enumerate(items)]
        if not isinstance(node, Map):
            return node
        if "if" in node:
            branch = "then" if self.computed(str(node["if"]), f"{path}.if", node.marks["if"]) else "else"
            return self.fill(node[branch], f"{path}.{branch}", node.marks[branch]) if branch in node else OMITTED
        if "switch" in node:
            return self._case(node, path)
        if "depth" in node and "layer" in node:
            return self._stack(node, path)
        return dict(self._items(node, path))

    def computed(self, text: str, path: str, mark: Mark) -> Any:
        """The value of one expression.

        Raises:
            InterchangeError: it cannot be computed.
        """
        try:
            return evaluate(parse(text), self)
        except ExpressionError as error:
            raise InterchangeError.at(mark, str(error), path) from None

    @contextmanager
    def bound(self, names: Mapping[str, Any]) -> Generator[None]:
        """Inside, these names have these values."""
        before, self.locals = self.locals, {**self.locals, **names}
        try:
            yield
        finally:
            self.locals = before

    def _filled(self, name: str, body: Any, section: str, mark: Mark) -> Any:
        before, self.filling = self.filling, (*self.filling, name)
        try:
            return self.fill(body, f"{section}.{name.removeprefix('defaults.')}", mark)
        finally:
            self.filling = before

    def _items(self, node: Map, path: str) -> Iterator[tuple[str, Any]]:
        for key, inner in node.items():
            value = self.fill(inner, f"{path}.{key}", node.marks[key])
            if value is not OMITTED:
                yield key, value

    def _case(self, node: Map, path: str) -> Any:
        value, cases = self.fill(node["switch"], f"{path}.switch", node.marks["switch"]), cast("Map", node["cases"])
        if value not in cases:
            known = ", ".join(cases)
            raise InterchangeError.at(node.marks["switch"], f"{value!r} is none of the known cases: {known}", path)
        return self.fill(cases[value], f"{path}.cases.{value}", cases.marks[value])

    def _stack(self, node: Map, path: str) -> dict[str, Any]:
        """A stack, whose layers the template gives one by one: ``layer`` is the index of each."""
        rest = Map({key: node[key] for key in node if key not in ("layer", "names")}, node.marks, node.mark)
        stack = dict(self._items(rest, path))
        layers: list[Any] = []
        names: list[str | None] = []
        for index in range(stack["depth"] // (stack.get("distinct") or 1) if stack["depth"] else 0):
            with self.bound({"layer": index, "depth": stack["depth"]}):
                layers.append(self.fill(node["layer"], f"{path}.layer", node.marks["layer"]))
                named = "names" in node
                names.append(self.fill(node["names"], f"{path}.names", node.marks["names"]) if named else None)
        return stack | laid_out(layers, names)

    def _nearest(self, name: str) -> str:
        close = get_close_matches(name, [*self.config, *self.family.templates], n=1)
        return f"; did you mean {close[0]!r}?" if close else ""
