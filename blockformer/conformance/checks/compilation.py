"""A block computes the same in other ways: compiled, exported, by each backend, as stacked experts."""

from contextlib import suppress
from dataclasses import replace
from typing import Any, Literal, cast, get_args, get_origin

import torch
from torch import Tensor, nn

from blockformer.conformance.block_case import EXPERTS, BlockCase, NotApplicable, Path
from blockformer.conformance.checks.training import backward, floating, gradients_of, reached_by_outputs
from blockformer.conformance.example import COARSE, Example, assert_same, example, run
from blocks.base import Component, Expert
from blocks.init.keyed import generator
from registry import Spec, entries

LENGTHS = (5, 7, 11)


def check_compiles_without_graph_breaks(case: BlockCase) -> None:
    """torch.compile compiles the block without a graph break, to the same values and gradients."""
    block, given = case.build_perturbed(), example(case)
    expected, gradients = run(block, given), gradients_of(block, given)
    torch.compiler.reset()
    compiled = cast("Any", torch).compile(run, backend="aot_eager", fullgraph=True, dynamic=False)
    block.zero_grad(set_to_none=True)
    given = floating(given)
    y = cast("Tensor", compiled(block, given))
    assert_same(y, expected, "compiled", COARSE)
    backward(y)
    for name, parameter in reached_by_outputs(block).items():
        assert parameter.grad is not None, f"compiled, {name} has no gradient"
        assert_same(parameter.grad, gradients[name], f"compiled, the gradient of {name}", COARSE)


def check_compiles_once_for_all_lengths(case: BlockCase) -> None:
    """What is compiled for a length that may vary serves texts of other lengths, and gives the same values."""
    from torch._dynamo import maybe_mark_dynamic  # which imports for seconds

    block, count = case.build_perturbed(), _Counting()
    torch.compiler.reset()
    compiled = cast("Any", torch).compile(run, backend=count, fullgraph=True)
    for length in LENGTHS:
        given = example(case, length=length)
        maybe_mark_dynamic(given.x, 1)  # as torch.compile does by itself when a second length comes
        assert_same(compiled(block, given), run(block, given), f"compiled, {length} tokens", COARSE)
    assert count.graphs <= 1, f"compiled {count.graphs} times for the lengths {LENGTHS}, instead of once for all"


def check_exports(case: BlockCase) -> None:
    """torch.export exports the block; the exported program gives the same, for other inputs too."""
    block, given, other = case.build_perturbed(), example(case), example(case, seed=1)
    program = torch.export.export(_Call(block), _tensors(given), strict=False)
    for inputs in (given, other):
        assert_same(program.module()(*_tensors(inputs)), run(block, inputs), "exported", COARSE)


class _Counting:
    """A compiler backend that counts graphs and runs them uncompiled."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: Any) -> Any:
        self.graphs += 1
        return graph.forward


class _Call(nn.Module):
    """A module that takes the inputs as plain tensors."""

    def __init__(self, block: Component) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        return run(self.block, Example(x, memory=memory))


def _tensors(given: Example) -> tuple[Tensor, ...]:
    return (given.x,) if given.memory is None else (given.x, given.memory)


FORWARD_ONLY = frozenset({"flex"})  # on the CPU, where the checks run, PyTorch has no backward pass for it
BRIEF = ("plain", "padded", "documents")  # what these get where options are tried: step by step, a call takes 30 ms


def check_backends_agree(case: BlockCase) -> None:
    """Every backend that supports the block gives the same values and gradients: plain, padded, with documents.

    A backend may refuse the block when it is built; gradients of those in ``FORWARD_ONLY`` are not compared. The
    block declares those that a recipe can choose from.
    """
    paths = list(case.keys("backend"))
    if not paths:
        raise NotApplicable("the block has no parameter called backend")
    for path in paths:
        owner, names = _owner(case, path), _choices(case, path)
        declared = set(owner.entry.block.capabilities.backends)
        assert set(names) - {"auto"} == declared, (
            f"{owner.entry.name} declares the backends {declared}, but accepts {names}"
        )
        builds = _builds(case, path)
        assert builds, f"no backend supports {case.id}"
        for what, given in inputs_of_every_kind(case, next(iter(builds.values()))).items():
            brief = case.params and what not in BRIEF
            chosen = {name: block for name, block in builds.items() if not (brief and name in FORWARD_ONLY)}
            found = {name: _all_of(block, given, name not in FORWARD_ONLY) for name, block in chosen.items()}
            reference = next(iter(found))
            largest = max([1.0, *(float(one.detach().abs().max()) for one in found[reference].values() if one.numel())])
            for name, tensors in found.items():
                for key, tensor in tensors.items():
                    message = f"{'.'.join(map(str, path))}: {name} against {reference}, {what}, {key}"
                    assert_same(tensor, found[reference][key], message, 1e-7, largest)


def _builds(case: BlockCase, path: Path) -> dict[str, Component]:
    found: dict[str, Component] = {}
    for name in _choices(case, path):
        with suppress(ValueError):
            found[name] = case.put(path, name).build_perturbed()
    return found


def _choices(case: BlockCase, path: Path) -> tuple[str, ...]:
    """The values of the parameter at ``path``, ``eager`` first."""
    names = _literals(_owner(case, path).entry.parameters[str(path[-1])].annotation)
    return tuple(sorted(names, key=lambda name: name != "eager"))


def _owner(case: BlockCase, path: Path) -> Spec[Any]:
    """The block that owns the parameter at ``path``."""
    return next(spec for place, spec in case.spec.walk() if place == path[:-1])


def _literals(annotation: Any) -> tuple[str, ...]:
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return tuple(name for argument in get_args(annotation) for name in _literals(argument))


def inputs_of_every_kind(case: BlockCase, block: Component) -> dict[str, Example]:
    """Inputs of every kind that the block declares to support."""
    plain = example(case)
    rows = torch.ones(plain.x.shape[:2], dtype=torch.bool)
    rows[1] = False
    found = {"plain": plain, "one token": plain.span(0, 1)}
    if block.allows("padding"):
        found["padded"] = plain.padded(2, 1, example(case, seed=1))
        found["a row of padding"] = replace(plain, mask=rows)
        if plain.memory is not None:
            found["a memory of padding"] = replace(plain, memory_mask=rows[:, :1].expand(plain.memory.shape[:2]))
    if block.allows("documents") and plain.memory is None:
        found["documents"] = replace(plain, documents=torch.tensor([[0, 0, 1, 1, 1]] * 2))
    if block.allows("prefix") and case.place == "causal":
        found["a prefix"] = replace(plain, prefix=torch.tensor([[True, True, True, False, False]] * 2))
    return found


def _all_of(block: Component, given: Example, differentiable: bool) -> dict[str, Tensor]:
    with torch.no_grad():
        found = {"output": run(block, given)}
    return found | gradients_of(block, given) if differentiable else found


def check_stacked_experts_match_single_blocks(case: BlockCase) -> None:
    """Each of the stacked experts gives what one block with its weights gives; some get no rows."""
    if not issubclass(entries(case.slot)[case.name].block, Expert):
        raise NotApplicable("the feed-forward cannot be an expert")
    alone, rows = case.build_perturbed(), example(case, batch=1, length=2 * EXPERTS).x[0]
    ends = [min(3 * e, len(rows)) for e in range(EXPERTS)]  # none for the first and the last
    try:
        together = _experts(case)
    except ValueError as error:
        if not case.params:  # by itself it has to work; only an option may be refused in experts
            raise
        raise NotApplicable(f"experts refuse these parameters: {error}") from None
    assert isinstance(together, Expert)
    assert isinstance(alone, Expert)
    y = together(rows, torch.tensor(ends, dtype=torch.int32))
    assert y.shape == rows.shape, f"inputs have shape {tuple(rows.shape)}, outputs {tuple(y.shape)}"
    for e, (start, stop) in enumerate(zip([0, *ends], ends, strict=False)):
        own = alone.state_dict()
        # what has the same shape, such as the parameters of an activation, belongs to all experts
        alone.load_state_dict(
            {name: v if v.shape == own[name].shape else v[e] for name, v in together.state_dict().items()}
        )
        assert_same(y[start:stop], alone(rows[None, start:stop])[0], f"expert {e}, rows {start} to {stop}")


def _experts(case: BlockCase) -> Component:
    """The stacked experts, with random values in every parameter."""
    site = replace(case.site, experts=EXPERTS)
    block = cast("Component", case.spec(site)).to(torch.float64).eval()
    with torch.no_grad():
        for name, parameter in block.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator(0, name), dtype=torch.float64)
            parameter.copy_(noise * 0.2)
    return block
