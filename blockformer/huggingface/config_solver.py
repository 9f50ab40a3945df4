"""Find the config that a family turns into a given recipe, by reading its templates backwards.

A template that is a key gives that key its value. Conditions are decided by which branch can give the value, tables are
looked up in reverse, arithmetic with one unknown is undone. What cannot be undone has its inverse in the family's
``export``; whether all is right shows when the config is read forwards again.
"""

import ast
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, cast

from blockformer.huggingface.config import Config
from blockformer.huggingface.evaluation import evaluate
from blockformer.huggingface.expression import ExpressionError, is_expression, parse
from blockformer.huggingface.family import Family
from blockformer.huggingface.inverse_evaluation import decided, undone
from blockformer.huggingface.keys import TRAINING, Around, ConflictError, Keys, alike
from blockformer.huggingface.layer_pattern import listed
from blockformer.huggingface.template import Filling
from registry import RecipeError
from registry.strict_yaml import Map


class Solver:
    """Keys of a config, found one by one.

    Args:
        family: whose templates are read.
        keys: what is known already.
    """

    def __init__(self, family: Family, keys: Keys) -> None:
        self.family, self.keys = family, keys
        self.pending: list[tuple[ast.expr, Any, Around]] = []

    def solve(self, recipe: Mapping[str, Any]) -> dict[str, Any]:
        """The config for a canonical recipe, as far as it can be found.

        Raises:
            ConflictError: the family cannot give this recipe.
        """
        self.unify(self.family.section("recipe"), recipe, Around())
        before = -1
        while self.pending and len(self.pending) != before:
            before, waiting, self.pending = len(self.pending), self.pending, []
            for node, value, around in waiting:
                self.attempt(partial(self.equal, node, value, around))
        return self.keys.config(guesses=True)

    def attempt(self, step: Callable[[], None], key: str = "") -> None:
        """Take a step that all depends on; ``key`` is the block's key that it is about."""
        step()

    def unify(self, node: Any, value: Any, around: Around) -> None:
        """Let a template give a value.

        Raises:
            ConflictError: it cannot.
        """
        if isinstance(node, ast.expr) or is_expression(node):
            self.equal(node if isinstance(node, ast.expr) else parse(node), value, around)
        elif isinstance(node, Map) and "if" in node:
            branches = {True: node.get("then"), **({False: node["else"]} if "else" in node else {})}
            self.decide(parse(str(node["if"])), branches, value, around)
        elif isinstance(node, Map) and "switch" in node:
            self._look_up(node, value, around)
        elif isinstance(node, Map):
            self._mapping(node, value, around)
        elif not alike(node, value):
            raise ConflictError(f"{node} is not {value}", instead=node)

    def _mapping(self, node: Map, value: Any, around: Around) -> None:
        if not isinstance(value, Mapping):
            raise ConflictError(f"a block is not {value}", instead=node.get("type"))
        given = cast("Mapping[str, Any]", value)
        for key in sorted(node, key=lambda key: key != "type"):
            if key == "layer" and "depth" in node:
                for index, layer in enumerate(listed(dict(given))):
                    known = {**around.known, "layer": index, "depth": given["depth"]}
                    step = partial(self.unify, node[key], layer, replace(around, known=known))
                    self.attempt(step, f"layers.{index}")
            elif key == "type":
                self.unify(node[key], given.get(key), around)
            elif key != "names" and key not in TRAINING:
                self.attempt(partial(self.unify, node[key], given.get(key), around), key)

    def decide(self, test: ast.expr, branches: Mapping[bool, Any], value: Any, around: Around) -> None:
        """Let the branch that can give a value, and the condition be as that needs; constants are tried first."""
        known, truth = self.known(test, around)
        if known and bool(truth) not in branches:
            return
        open_branches = [(which, branch) for which, branch in branches.items() if not known or which == bool(truth)]
        open_branches.sort(key=lambda pair: not _constant(pair[1]))

        def take(which: bool, branch: Any) -> None:
            self.unify(branch, value, around)
            self.true(test, which, around)

        self.first(*(partial(take, which, branch) for which, branch in open_branches))

    def _look_up(self, node: Map, value: Any, around: Around) -> None:
        cases = cast("Map", node["cases"])

        def take(name: str) -> None:
            self.unify(cases[name], value, around)
            self.unify(node["switch"], name, around)

        self.first(*(partial(take, name) for name in cases))

    def known(self, node: ast.expr, around: Around) -> tuple[bool, Any]:
        """Whether the keys found so far settle an expression, and its value if so."""
        names = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
        given = dict(around.known)
        for name in names & set(around.meant):
            settled, given[name] = self.known(*around.meant[name])
            if not settled:
                return False, None
        config = Config(self.keys.config())
        filling = Filling(self.family, config, given, inside=around.inside, defaults=False)
        try:
            return True, evaluate(node, filling)
        except (ExpressionError, RecipeError):
            return False, None

    def first(self, *options: Callable[[], None]) -> None:
        """Take the first option that does not conflict.

        Raises:
            ConflictError: all do.
        """
        conflict = ConflictError("nothing to choose from")
        for option in options:
            keys, pending = self.keys.copy(), list(self.pending)
            try:
                return option()
            except ConflictError as error:
                self.keys, self.pending, conflict = keys, pending, error
        raise conflict

    def equal(self, node: ast.expr, value: Any, around: Around) -> None:
        """Let an expression give a value; what cannot be undone yet waits.

        Raises:
            ConflictError: it cannot.
        """
        known, result = self.known(node, around)
        if known and not alike(result, value):
            raise ConflictError(f"{ast.unparse(node)} is {result}, not {value}", instead=result)
        if not known and not undone(self, node, value, around):
            self.pending.append((node, value, around))

    def true(self, node: ast.expr, truth: bool, around: Around) -> None:
        """Let a condition hold or not.

        Raises:
            ConflictError: it does not or does.
        """
        known, result = self.known(node, around)
        if known and bool(result) is not truth:
            raise ConflictError(f"{ast.unparse(node)} is {result}")
        if not known:
            decided(self, node, truth, around)


def _constant(branch: Any) -> bool:
    return isinstance(branch, ast.Constant) or (not isinstance(branch, ast.expr | Map) and not is_expression(branch))
