"""Find the config that a family turns into a given recipe, by solving its templates.

A template that is a config key determines that key. For a condition the solver takes the branch that can have the
value, a table (``switch``) is searched for it, and arithmetic with one unknown is inverted. A key that cannot be found
this way has its inverse in the section ``export`` of the family. The caller has to check the result by importing it.
"""

import ast
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, cast

from blockformer.huggingface.config import values_at
from blockformer.huggingface.expression import is_expression, names, parse
from blockformer.huggingface.family_file import expressions_in
from blockformer.huggingface.inverse_evaluation import Environment, ExpressionSolver
from blockformer.huggingface.partial_config import ConflictError, matches
from blockformer.huggingface.template import expand_layers
from registry.strict_yaml import Map

TRAINING_ONLY = frozenset({"dropout", "init", "balance_loss", "index_loss", "loss_over"})
"""Recipe keys that do not affect inference."""


class ConfigSolver(ExpressionSolver):
    """Finds the keys of a config one by one; see the module."""

    def solve(self, recipe: Mapping[str, Any]) -> dict[str, Any]:
        """The keys of a config for a recipe in canonical form, as far as they can be found.

        Raises:
            ConflictError: the family cannot produce this recipe.
        """
        self.solve_template(self.family.section("recipe"), recipe, Environment())
        before = -1
        while self.pending and len(self.pending) != before:
            before, pending, self.pending = len(self.pending), self.pending, []
            for node, value, environment in pending:
                self.attempt(partial(self.equal, node, value, environment))
        return self.keys.config()

    def unsolved(self, config: Mapping[str, Any]) -> dict[str, str]:
        """The keys that a config lacks because an equation could not be solved, each with its expression."""
        equations = ((ast.unparse(node), self._config_keys(node, environment)) for node, _, environment in self.pending)
        return {key: text for text, keys in equations for key in keys if not any(values_at(config, key))}

    def _config_keys(self, node: ast.expr, environment: Environment) -> Iterator[str]:
        """The config keys that an expression reads, also by the names in ``let``."""
        for name in sorted(names(node)):
            if name in environment.arguments:
                yield from self._config_keys(*environment.arguments[name])
            elif name in self.family.templates and name not in environment.active:
                inner = environment.inside(name)
                for text in expressions_in(self.family.templates[name].body):
                    yield from self._config_keys(parse(text), inner)
            elif name not in environment.variables:
                yield name

    def attempt(self, step: Callable[[], None], key: str = "") -> None:
        """Take a step that must succeed; a subclass may continue after it failed.

        Args:
            step: what to do.
            key: the key of the block that the step is about.
        """
        step()

    def solve_template(self, node: Any, value: Any, environment: Environment) -> None:
        if isinstance(node, ast.expr) or is_expression(node):
            self.equal(node if isinstance(node, ast.expr) else parse(node), value, environment)
        elif isinstance(node, Map) and "if" in node:
            branches = {True: node.get("then"), **({False: node["else"]} if "else" in node else {})}
            self.solve_condition(parse(str(node["if"])), branches, value, environment)
        elif isinstance(node, Map) and "switch" in node:
            self._solve_switch(node, value, environment)
        elif isinstance(node, Map):
            self._solve_block(node, value, environment)
        elif not matches(node, value):
            raise ConflictError(f"{node} is not {value}", found=node)

    def solve_condition(
        self, test: ast.expr, branches: Mapping[bool, Any], value: Any, environment: Environment
    ) -> None:
        known, truth = self.evaluate(test, environment)
        if known and bool(truth) not in branches:
            return
        possible = [(which, branch) for which, branch in branches.items() if not known or which == bool(truth)]
        possible.sort(key=lambda pair: not _constant(pair[1]))  # a constant matches or not, without any guess

        def take(which: bool, branch: Any) -> None:
            self.solve_template(branch, value, environment)
            self.require(test, which, environment)

        self.first(*(partial(take, which, branch) for which, branch in possible))

    def _solve_switch(self, node: Map, value: Any, environment: Environment) -> None:
        cases = cast("Map", node["cases"])

        def take(name: str) -> None:
            self.solve_template(cases[name], value, environment)
            self.solve_template(node["switch"], name, environment)

        self.first(*(partial(take, name) for name in cases))

    def _solve_block(self, node: Map, value: Any, environment: Environment) -> None:
        if not isinstance(value, Mapping):
            raise ConflictError(f"{value} is not a block", found=node.get("type"))
        given = cast("Mapping[str, Any]", value)
        for key in sorted(node, key=lambda key: key != "type"):
            if key == "layer" and "depth" in node:
                for index, layer in enumerate(expand_layers(dict(given))):
                    variables = {**environment.variables, "layer": index, "depth": given["depth"]}
                    inner = replace(environment, variables=variables)
                    self.attempt(partial(self.solve_template, node[key], layer, inner), f"layers.{index}")
            elif key == "type":
                self.solve_template(node[key], given.get(key), environment)
            elif key != "names" and key not in TRAINING_ONLY:
                self.attempt(partial(self.solve_template, node[key], given.get(key), environment), key)


def _constant(branch: Any) -> bool:
    return isinstance(branch, ast.Constant) or (not isinstance(branch, ast.expr | Map) and not is_expression(branch))
