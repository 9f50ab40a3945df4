"""Models sharded by FSDP2 in four processes that meet through a file, against the whole model on the whole batch."""

import json
import traceback
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule

import blockformer as bf
from blockformer.inspection.batch import logits_of, mean_loss, random_batch
from blockformer.training.activation_checkpointing import Checkpointing, checkpoint_layers
from blockformer.training.compilation import Compile, compile_model
from blockformer.training.parallel.collectives import all_reduced
from blockformer.training.parallel.fsdp import FSDP
from blockformer.training.parallel.shards import DATA, TENSOR, Shards
from blocks.base import Layer
from blocks.models.base import Model

WORLD, STEPS, LENGTH = 4, 3, 10
EXPERTS = {"decoder.layer.feedforward": {"type": "moe", "experts": 4, "expert": {"type": "glu", "hidden": 16}}}


@dataclass(frozen=True)
class Case:
    """One way to train; `replicas` is the number of copies of the parameters."""

    recipe: str = "tiny_decoder"
    changes: Any = None
    replicas: int = 1
    reshard: bool | int = True
    prefetch: int = 0
    mixed: bool = False
    checkpointing: Checkpointing = "none"
    compile: Compile = False


CASES = {
    "plain": Case(),
    "hybrid sharding": Case(replicas=2),
    "kept after the forward pass": Case(reshard=False, prefetch=1),
    "two parts after the forward pass": Case(reshard=2),
    "prefetched and checkpointed experts": Case(changes=EXPERTS, prefetch=2, checkpointing="layer"),
    "selective": Case("tiny_encoder_decoder", replicas=2, checkpointing="selective"),
    "bfloat16": Case(mixed=True),
    "bfloat16 with biases and layer norms": Case("tiny_encoder_decoder", mixed=True, replicas=2),
    "bfloat16, recurrent, checkpointed": Case("tiny_hybrid", mixed=True, checkpointing="selective"),
    "compiled by layer": Case(compile="layer"),
    "all": Case(changes=EXPERTS, replicas=2, prefetch=1, mixed=True, checkpointing="layer", compile="layer"),
}


def still(model: Model) -> Model:
    """Without dropout, which processes draw differently."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def trained(model: Model, case: Case, rows: slice, *, together: bool) -> list[float]:
    """The losses of all rows at each step of SGD."""
    drawn, losses = torch.Generator().manual_seed(0), list[float]()
    for _ in range(STEPS):
        whole = random_batch(model, WORLD, LENGTH, drawn)
        batch = {key: value[rows] for key, value in whole.items()}
        mixed: AbstractContextManager[Any] = torch.autocast("cpu", torch.bfloat16) if case.mixed else nullcontext()
        with mixed:
            loss = mean_loss(logits_of(model, batch), batch)
        found: Tensor = loss.detach()
        loss = loss + model.auxiliary_loss(_summed if together else lambda sums: sums)
        loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    assert parameter.grad.dtype == torch.float32
                    parameter -= 0.5 * parameter.grad
                    parameter.grad = None
        losses.append(float(_summed(found) / WORLD if together else found))
    return losses


def _summed(sums: Tensor) -> Tensor:
    world = dist.group.WORLD
    assert world is not None
    return all_reduced(sums, world)


def check(case: Case, rank: int) -> None:
    """Losses and weights are those of one process, but for rounding; layers hold bfloat16 where that is asked for."""
    changes = case.changes or {}
    whole, sharded = (still(bf.build(case.recipe, changes).train()) for _ in range(2))
    names = list(whole.state_dict())
    checkpoint_layers(sharded, case.checkpointing)
    compile_model(sharded, case.compile, backend="aot_eager")
    sizes, axes = ((case.replicas, WORLD // case.replicas), ("replicas", "parts"))
    mesh = init_device_mesh("cpu", sizes, mesh_dim_names=axes) if case.replicas > 1 else init_device_mesh("cpu", (4,))
    FSDP(mesh, case.reshard, case.prefetch, mixed=case.mixed).apply(sharded, set())
    assert list(sharded.state_dict()) == names
    assert sum(isinstance(module, FSDPModule) for module in sharded.modules()) > 1
    seen = set[torch.dtype]()
    for module in sharded.modules():
        if isinstance(module, Layer) and not case.compile:
            module.mixer.register_forward_pre_hook(lambda one, _: seen.update(p.dtype for p in one.parameters()))
    ours = trained(sharded, case, slice(rank, rank + 1), together=True)
    theirs = trained(whole, case, slice(None), together=False)
    assert seen <= {torch.bfloat16 if case.mixed else torch.float32}
    near = {"rtol": 2e-2, "atol": 2e-2} if case.mixed else {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(torch.tensor(ours), torch.tensor(theirs), **near)
    shards = Shards(init_device_mesh("cpu", (WORLD, 1), mesh_dim_names=(DATA, TENSOR)), {})
    expected, squares = dict(whole.named_parameters()), torch.zeros(())
    for name, parameter in sharded.named_parameters():
        torch.testing.assert_close(shards.whole(name, parameter).detach(), expected[name].detach(), **near, msg=name)
        assert shards.copies(name, parameter) == case.replicas
        squares += parameter.to_local().detach().square().sum() / shards.copies(name, parameter)
        parameter.grad = parameter.detach().clone()
    torch.testing.assert_close(shards.norm(sharded), _summed(squares).sqrt())


def work(rank: int, folder: str) -> None:
    """One of the processes; the first one writes what is wrong with each case, nothing if nothing is."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meeting", world_size=WORLD, rank=rank)
    found: dict[str, str] = {}
    for name, case in CASES.items():
        try:
            check(case, rank)
            found[name] = ""
        except Exception:
            found[name] = traceback.format_exc()
    wrong: list[dict[str, str]] = [{} for _ in range(WORLD)]
    dist.all_gather_object(wrong, found)
    if rank == 0:
        Path(folder, "found.json").write_text(json.dumps({key: "".join(one[key] for one in wrong) for key in found}))
    dist.destroy_process_group()
