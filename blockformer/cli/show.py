"""`blockformer show`: the model of a recipe, its FLOPs, cache, memory and activations."""

from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from blockformer.cli.parser import Parser, add_format, add_overrides, file_ending, positive
from blockformer.errors import UserError
from blockformer.files import as_json

if TYPE_CHECKING:
    from blockformer.inspection.activation_statistics import ActivationStatistics, LayerStatistics
    from blockformer.inspection.memory import Memory
    from blocks.models.base import Model
    from registry import Recipe

FORMULA = """\
FLOPs per token: of the forward pass, in a sequence of max_length tokens. A product of an (m, k) and a (k, n) matrix
counts 2mkn; attention scores count if they are computed, masked or not; norms and activation functions do not count.
A training step costs three times as much. In an encoder-decoder: for one source and one target token.
Cache per token: numbers that decoding stores for each token, in all layers."""
MEMORY_NOTE = (
    "At the start of the backward pass, on a CPU; temporary memory of kernels and allocator overhead are not counted."
)
LAYER_COLUMNS = ("layer", "in", "out", "change", "largest", "score", "entropy", "gradient")
ACTIVATIONS_NOTE = """\
in, out: root mean square of a layer's input and output. change, and the output of each sublayer: as shares of in.
score: largest attention score. entropy: of the attention weights; 1 if all are equal. gradient: norm over the layer."""


def main(arguments: Sequence[str]) -> int:
    """Print a recipe's model in the chosen format, its memory or its activations."""
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
        print(as_json(_facts(recipe, model, options), indent=2))
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
        raise UserError("--memory and --activations cannot be combined")
    if asked and (keys := backend_keys(model, "flex")):
        changes = " ".join(f"--set {key}=auto" for key in keys)
        raise UserError(f"--{asked[0]} runs on a CPU, where backend flex computes no gradients; add {changes}")
    if not asked and (options.batch or options.length):
        raise UserError("--batch and --length require --memory or --activations")
    if options.checkpointing and not options.memory:
        raise UserError("--checkpointing requires --memory")
    if options.seed is not None and not options.activations:
        raise UserError("--seed has an effect only with --activations")
    if options.out and options.format != "svg":
        raise UserError("--out requires --format svg")
    if asked and options.format not in ("tree", "json"):
        raise UserError(f"--{asked[0]} cannot be combined with --format {options.format}; use tree or json")
    name, longest = model.length_limit
    if options.length and options.length > longest:
        raise UserError(f"--length {options.length} is above the model's {name} of {longest}")


def _facts(recipe: "Recipe", model: "Model", options: Namespace) -> dict[str, Any]:
    facts = {
        "name": recipe.name,
        "kind": model.kind,
        "hash": recipe.hash,
        "parameters": model.size,
        "parameters_by_slot": model.parameters_by_slot(),
        "flops_per_token": model.flops_per_token(model.length_limit[1]),
        "cached_per_token": getattr(model, "cached_per_token", None),
        "tensors": {name: list(parameter.shape) for name, parameter in model.named_parameters()},
        "recipe": recipe.dump(),
    }
    if model.init.base_width is not None:
        from blockformer.inspection.width_transfer import width_facts

        facts["width"] = width_facts(model)
    if options.memory:
        batch, length, columns = _memory(recipe, model, options)
        precisions = {name: asdict(column) | {"training": column.training} for name, column in columns.items()}
        how = options.checkpointing or "none"
        facts["memory"] = {"batch": batch, "length": length, "checkpointing": how, "bytes": precisions}
    if options.activations:
        from blockformer.inspection.findings import findings

        statistics = _statistics(recipe, model, options)
        facts["activations"] = asdict(statistics) | {"unusual": findings(statistics)}
    return facts


def _memory(recipe: "Recipe", model: "Model", options: Namespace) -> "tuple[int, int, dict[str, Memory]]":
    """Batch, length, and the memory in each precision."""
    from blockformer.inspection.memory import PRECISIONS, memory

    batch, length = options.batch or 1, options.length or model.length_limit[1]
    how = options.checkpointing or "none"
    found = {name: memory(recipe, name, batch, length, checkpointing=how) for name in PRECISIONS}
    return batch, length, found


def _print_memory(recipe: "Recipe", model: "Model", options: Namespace) -> None:
    """Print a column for each precision, and the largest items of each."""
    batch, length, columns = _memory(recipe, model, options)
    needs = list(columns.values())
    print(f"{recipe.name}: {model.size:,} parameters\n")
    rows = [(f"training on {batch:,} x {length:,} tokens", *columns), *_training_rows(needs)]
    rows += [("", "", "", ""), ("inference", *columns), ("  parameters", *(size(one.parameters) for one in needs))]
    if needs[0].cache is not None:
        rows.append((f"  cache, a sequence of {length:,}", *(size(one.cache or 0) for one in needs)))
    width = max(len(row[0]) for row in rows)
    for name, *cells in rows:
        print(f"{name:<{width}}{''.join(f'{cell:>13}' for cell in cells)}".rstrip())
    print()
    for precision, one in columns.items():
        print(f"largest in {precision}: {_largest(one)}")
    if any(one.dropout for one in needs):
        sizes = ", ".join(size(one.dropout) for one in needs)
        print(f"of which for attention dropout, not needed with a fused GPU kernel: {sizes}")
    print(MEMORY_NOTE)


def _training_rows(needs: "list[Memory]") -> Iterator[tuple[str, ...]]:
    for name in ("parameters", "gradients", "optimizer"):
        yield f"  {name}", *(size(getattr(one, name)) for one in needs)
    yield "  activations", *(size(sum(one.activations.values())) for one in needs)
    for slot in dict.fromkeys(slot for one in needs for slot in one.activations):
        yield f"    {slot}", *(size(one.activations.get(slot, 0)) for one in needs)
    yield "  logits", *(size(one.logits) for one in needs)
    yield "  loss", *(size(one.loss) for one in needs)
    yield "  total", *(size(one.training) for one in needs)


def _largest(memory: "Memory", count: int = 3) -> str:
    """The largest items of training, with their shares."""
    items = {"parameters": memory.parameters, "gradients": memory.gradients, "optimizer": memory.optimizer}
    items |= {"logits and loss": memory.logits + memory.loss}
    items |= {f"activations of {slot}": held for slot, held in memory.activations.items()}
    ordered = sorted(items.items(), key=lambda item: -item[1])[:count]
    return ", ".join(f"{name} {share / memory.training:.0%}" for name, share in ordered)


def size(count: int) -> str:
    """Bytes with a unit, three digits."""
    value, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1024, units[1:]
    return f"{value:.0f} {units[0]}" if units[0] == "B" else f"{value:.3g} {units[0]}"


def _draw(recipe: "Recipe", model: "Model", options: Namespace) -> None:
    from blockformer.files import write_text
    from blockformer.inspection.diagram import diagram
    from blockformer.inspection.rendering import as_svg, as_text

    layout = diagram(recipe, model)
    if options.format == "diagram":
        print(as_text(layout), end="")
        return
    title = f"{recipe.name}, {model.kind}, {model.size:,} parameters"
    drawing = as_svg(
        layout, title, f"The blocks of {recipe.name}, from tokens to logits, with their names in the recipe."
    )
    if options.out is None:
        print(drawing, end="")
        return
    try:
        write_text(options.out, drawing)
    except OSError as error:
        raise UserError(f"cannot write {options.out}: {error.strerror}") from None


def _print_activations(recipe: "Recipe", model: "Model", options: Namespace) -> None:
    """Print a line for each layer, then unusual values."""
    from blockformer.inspection.findings import findings

    statistics = _statistics(recipe, model, options)
    print(f"{recipe.name}: {model.size:,} parameters, at step 0 with seed {options.seed or 0}\n")
    names = list(dict.fromkeys(name for layer in statistics.layers for name in layer.sublayers))
    header = (*LAYER_COLUMNS[:4], *names, *LAYER_COLUMNS[4:])
    rows = [header, *(_layer_row(layer, names) for layer in statistics.layers)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    for first, *rest in rows:
        cells = (f"{cell:>{width}}" for cell, width in zip(rest, widths[1:], strict=True))
        print(f"{first:<{widths[0]}}  {'  '.join(cells)}".rstrip())
    print()
    for name, gradient in statistics.gradients.items():
        print(f"gradient outside layers, {name}: {gradient:.3g}")
    print(f"logits: standard deviation {statistics.logits:.3g}")
    print(f"loss: {statistics.loss:.3f} (of a uniform prediction: {statistics.uniform:.3f})")
    print(f"{ACTIVATIONS_NOTE}\n")
    print("\n".join(f"unusual: {line}" for line in findings(statistics)) or "nothing unusual")


def _layer_row(layer: "LayerStatistics", names: list[str]) -> tuple[str, ...]:
    label = f"{layer.stack} {layer.layer}" + (f" ({layer.name})" if layer.name else "")
    before = (layer.input_rms, layer.output_rms, layer.change)
    numbers = (*before, *(layer.sublayers.get(name) for name in names), layer.largest, layer.score, layer.entropy)
    return label, *("" if number is None else f"{number:.3g}" for number in (*numbers, layer.gradient))


def _statistics(recipe: "Recipe", model: "Model", options: Namespace) -> "ActivationStatistics":
    from blockformer.inspection.activation_statistics import activation_statistics
    from blockformer.inspection.memory import require_memory

    batch, length = options.batch or 2, options.length or min(64, model.length_limit[1])
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
        f"{model.flops_per_token(model.length_limit[1]):,.0f} forward, in a sequence of {model.length_limit[1]:,}",
    )
    if (cached := getattr(model, "cached_per_token", None)) is not None:
        yield "cache per token", f"{cached:,} numbers"
    if model.init.base_width is not None:
        from blockformer.inspection.width_transfer import width_lines

        yield "width", f"{model.width_multiplier:g} x base_width {model.init.base_width}; shapes there in brackets"
        lines = width_lines(model)
        longest = max(len(treated) for treated, _ in lines)
        yield from ((f"  {treated:<{longest + 2}}", names) for treated, names in lines)
    yield "hash", recipe.hash


def _parser() -> Parser:
    parser = Parser(
        prog="blockformer show",
        description="Show the model of a recipe: blocks with their settings, shapes, parameters, FLOPs and cache.",
        epilog=FORMULA,
    )
    parser.add_argument(
        "recipe", metavar="RECIPE", help="a file, the name of a built-in recipe, a run, an import or a checkpoint"
    )
    add_overrides(parser)
    add = parser.add_argument
    add("--memory", action="store_true", help="show the memory of training and inference in three precisions")
    add(
        "--activations",
        action="store_true",
        help="build the model and show the size of activations and gradients at step 0, by layer",
    )
    add("--batch", type=positive, metavar="B", help="sequences in a batch; default: 1; with --activations: 2")
    add(
        "--length",
        type=positive,
        metavar="T",
        help="tokens in a sequence; default: max_length; with --activations: 64 at most",
    )
    add(
        "--checkpointing",
        choices=("none", "layer", "selective"),
        help="with --memory: what is computed again in the backward pass, as --model.checkpointing of fit",
    )
    add("--seed", type=int, metavar="N", help="seed of the initial values for --activations; default: 0")
    add_format(parser, "tree", "json", "yaml", "diagram", "svg")
    add("--out", type=file_ending(".svg"), metavar="FILE.svg", help="file for the SVG; default: standard output")
    return parser
