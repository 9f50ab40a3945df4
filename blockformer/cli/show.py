"""`blockformer show`: what a recipe builds and what it costs, without building it in memory."""

import json
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blockformer.cli.parser import Parser, add_format, add_overrides, positive
from blockformer.errors import UserError

if TYPE_CHECKING:
    from blockformer.inspection.activation_statistics import ActivationStatistics
    from blocks.models.base import Model
    from registry import Recipe

FORMULA = """\
FLOPs per token: a product of an (m, k) and a (k, n) matrix counts 2mkn; the scores of attention count as computed,
masked or not, in a sequence of max_length tokens; norms and activations are left out. A training step costs three
times as much. In an encoder-decoder it is for one source token and one target token.
Cache per token: how many numbers decoding keeps for each token seen, over all layers."""


def main(arguments: Sequence[str]) -> int:
    """Print a recipe's model as a tree, as JSON, or as the canonical YAML; or what it needs."""
    options = _parser().parse_args(arguments)
    from blockformer import assembly
    from blockformer.cli.recipe_source import recipe_of

    recipe = recipe_of(options.recipe, options.overrides)
    model = assembly.check(recipe)
    _check(options, recipe, model)
    if options.format in ("diagram", "svg"):
        _draw(recipe, model, options)
    elif options.format == "yaml":
        print(recipe.to_yaml(), end="")
    elif options.format == "json":
        print(json.dumps(_facts(recipe, model, options), indent=2))
    elif options.activations:
        _print_activations(recipe, model, options)
    elif options.memory:
        _print_memory(recipe, model, options)
    else:
        _print(recipe, model)
    return 0


def _check(options: Namespace, recipe: "Recipe", model: "Model") -> None:
    from blockformer.training.compatibility import backend_keys

    asked = [name for name in ("memory", "activations") if getattr(options, name)]
    if len(asked) > 1:
        raise UserError("--memory and --activations exclude each other: give one of them")
    if asked and (keys := backend_keys(model, "flex")):
        changes = " ".join(f"--set {key}=auto" for key in keys)
        raise UserError(f"--{asked[0]} runs on a CPU, where backend flex has no gradients: add {changes}")
    if not asked and (options.batch or options.length):
        raise UserError("--batch and --length need --memory or --activations")
    if options.seed is not None and not options.activations:
        raise UserError("--seed needs --activations: nothing else draws initial values")
    if options.out and options.format != "svg":
        raise UserError("--out needs --format svg")
    if asked and options.format not in ("tree", "json"):
        raise UserError(f"--{asked[0]} has no --format {options.format}; use tree or json")
    if options.length and options.length > model.max_length:
        raise UserError(f"--length {options.length} is more than the model takes: {model.max_length} (max_length)")


def _facts(recipe: "Recipe", model: "Model", options: Namespace) -> dict[str, Any]:
    facts = {
        "name": recipe.name,
        "kind": model.kind,
        "hash": recipe.hash,
        "parameters": model.size,
        "parameters_by_slot": model.parameters_by_slot(),
        "flops_per_token": model.flops_per_token(model.max_length),
        "cached_per_token": getattr(model, "cached_per_token", None),
        "tensors": {name: list(parameter.shape) for name, parameter in model.named_parameters()},
        "recipe": recipe.dump(),
    }
    if options.memory:
        from blockformer.cli.budget import budgets

        batch, length = options.batch or 1, options.length or model.max_length
        found = budgets(recipe, batch, length)
        precisions = {name: asdict(needs) | {"training": needs.training} for name, needs in found.items()}
        facts["memory"] = {"batch": batch, "length": length, "bytes": precisions}
    if options.activations:
        from blockformer.inspection.findings import findings

        statistics = _statistics(recipe, model, options)
        facts["activations"] = asdict(statistics) | {"unusual": findings(statistics)}
    return facts


def _print_memory(recipe: "Recipe", model: "Model", options: Namespace) -> None:
    from blockformer.cli.budget import budgets, text

    batch, length = options.batch or 1, options.length or model.max_length
    print(f"{recipe.name}: {model.size:,} parameters\n")
    print("\n".join(text(budgets(recipe, batch, length), batch, length)))


def _draw(recipe: "Recipe", model: "Model", options: Namespace) -> None:
    from blockformer.files import write_text
    from blockformer.inspection.diagram import diagram
    from blockformer.inspection.rendering import as_svg, as_text

    layout = diagram(recipe, model)
    if options.format == "diagram":
        print(as_text(layout), end="")
        return
    title = f"{recipe.name}, {model.kind}, {model.size:,} parameters"
    drawing = as_svg(layout, title, f"The blocks of {recipe.name}, from tokens to logits, as the recipe names them.")
    if options.out is None:
        print(drawing, end="")
        return
    try:
        write_text(options.out, drawing)
    except OSError as error:
        raise UserError(f"cannot write {options.out}: {error.strerror}") from None


def _print_activations(recipe: "Recipe", model: "Model", options: Namespace) -> None:
    from blockformer.cli.activations import text

    print(f"{recipe.name}: {model.size:,} parameters, at step 0 with seed {options.seed or 0}\n")
    print("\n".join(text(_statistics(recipe, model, options))))


def _statistics(recipe: "Recipe", model: "Model", options: Namespace) -> "ActivationStatistics":
    from blockformer.inspection.activation_statistics import activation_statistics
    from blockformer.inspection.memory import require_memory

    batch, length = options.batch or 2, options.length or min(64, model.max_length)
    require_memory(recipe, batch, length)
    return activation_statistics(recipe, seed=options.seed or 0, batch=batch, length=length)


def _print(recipe: "Recipe", model: "Model") -> None:
    from rich.console import Console
    from rich.text import Text

    from blockformer.cli.tree import aligned, rows

    console = Console(highlight=False)
    for row, (name, detail, parameters) in zip(lines := rows(model), aligned(lines), strict=True):
        block, colon, kind = name.partition(": ")
        is_block = bool(colon) or row.depth == 0
        line = Text.assemble((block + colon, "" if is_block else "dim"), (kind, "bold cyan"), "  ")
        line.append(detail, "" if is_block else "dim").append("  ").append(parameters, "" if is_block else "dim")
        line.rstrip()
        console.print(line, soft_wrap=True)
    console.print()
    for fact, value in _summary(recipe, model):
        console.print(Text.assemble((f"{fact:<18}", "bold"), value), soft_wrap=True)


def _summary(recipe: "Recipe", model: "Model") -> Iterator[tuple[str, str]]:
    yield "parameters", f"{model.size:,}"
    for slot, size in model.parameters_by_slot().items():
        yield f"  {slot}", f"{size:,} ({size / model.size:.1%})"
    yield (
        "FLOPs per token",
        f"{model.flops_per_token(model.max_length):,.0f} forward, in a sequence of {model.max_length:,}",
    )
    if (cached := getattr(model, "cached_per_token", None)) is not None:
        yield "cache per token", f"{cached:,} numbers"
    yield "hash", recipe.hash


def _parser() -> Parser:
    parser = Parser(
        prog="blockformer show",
        description="Show what a recipe builds: blocks with their settings, shapes, parameters, FLOPs and cache.",
        epilog=FORMULA,
    )
    parser.add_argument("recipe", metavar="RECIPE", help="a file, an installed recipe, a run or a checkpoint")
    add_overrides(parser)
    add = parser.add_argument
    add("--memory", action="store_true", help="show the memory that training and inference need, by precision")
    add("--activations", action="store_true", help="build it and show the size of activations at step 0, by layer")
    add("--batch", type=positive, metavar="B", help="sequences in a batch; default: 1, with --activations 2")
    add("--length", type=positive, metavar="T", help="tokens in a sequence; default: max_length, with --activations 64")
    add("--seed", type=int, metavar="N", help="seed of the initial values for --activations; default: 0")
    add_format(parser, "tree", "json", "yaml", "diagram", "svg")
    add("--out", type=Path, metavar="FILE", help="where to write the svg; default: to stdout")
    return parser
