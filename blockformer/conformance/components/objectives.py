"""An objective scores the targets of a batch, whatever else is in the batch, and trains the whole model."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from blockformer.conformance.block_case import BlockCase, NotApplicable
from blockformer.conformance.components.examples import (
    ROWS,
    assert_same_batch,
    example_model,
    example_samples,
    example_text,
    made,
    scored,
    without_parameters,
)
from blockformer.data.samples import Batch
from blockformer.training.objectives import Objective
from blockformer.training.score import SIZE, TARGETS
from blocks.models.base import Model
from registry import entries

CHUNKS = (1, 7, 10**6)


def check_batches_are_pure_functions(case: BlockCase) -> None:
    """A batch depends on the numbers of its samples and the epoch alone, and in evaluations on the numbers alone."""
    objective = made(case, Objective)
    chosen = np.array([4, 0, 3])
    for evaluates in (False, True):
        samples, others = (example_samples(objective, evaluates=evaluates) for _ in range(2))
        wanted = samples.batch(chosen, 1)
        others.batch(np.array([1, 2]), 0)
        assert_same_batch(others.batch(chosen, 1), wanted, "the same samples again")
        if evaluates:
            assert_same_batch(samples.batch(chosen, 0), wanted, "another epoch of an evaluation")
        assert wanted["index"].tolist() == chosen.tolist(), "index has not the numbers of the samples"
        missing = [key for key in objective.keys if key not in wanted]
        assert not missing, f"keys names {', '.join(missing)}, and the batch has {', '.join(sorted(wanted))}"


def check_ids_are_in_the_vocabulary(case: BlockCase) -> None:
    """Targets and the token ids of a batch are below the vocabulary with the objective's own tokens."""
    objective = made(case, Objective)
    text, batch = example_text(objective), _batch(objective)
    most = text.tokenizer.vocab_size + len(text.extra)
    for key in ("tokens", "source", "target", "targets"):
        ids = batch.get(key)
        if ids is not None and not ids.is_floating_point():
            assert int(ids.max()) < most, f"{key} has the id {int(ids.max())}; the vocabulary has {most}"
            assert int(ids.min()) >= (-100 if key == "targets" else 0), f"{key} has the id {int(ids.min())}"


def check_counts_its_targets(case: BlockCase) -> None:
    """The loss is a finite number, and the sums are those of a score: finite, with the number of targets."""
    objective = made(case, Objective)
    model, batch = example_model(objective), _batch(objective)
    for training in (False, True):
        with without_parameters(case):
            loss, sums = scored(objective, model, batch, training=training)
        assert loss.shape == (), f"the loss has the shape {tuple(loss.shape)}: return the sum over all targets"
        assert torch.cat((loss[None], sums)).isfinite().all(), (
            f"the loss is {loss.item()}, and the sums {sums.tolist()}"
        )
        own = objective.own_figures(model)
        assert len(sums) == SIZE + 2 * len(own), f"{len(sums)} sums: {SIZE}, and two for each of {list(own)}"
        wanted = int(_is_scored(batch["targets"]).sum())
        if not objective.trains_generator:  # whose own targets depend on what the generator has replaced
            assert sums[TARGETS] == wanted, f"the sums count {sums[TARGETS]:g} targets, and the batch has {wanted}"
        names = {*objective.figures(sums, model)}
        assert {*own} <= names, f"figures leaves out {sorted({*own} - names)} of own_figures"


def check_gradients_reach_every_parameter(case: BlockCase) -> None:
    """The loss of a batch has a finite gradient for every parameter of the model."""
    objective = made(case, Objective)
    model = example_model(objective)
    with without_parameters(case):
        loss, _ = scored(objective, model, _batch(objective), training=True)
    loss.backward()
    missing = [name for name, one in model.named_parameters() if one.grad is None]
    assert not missing, f"no gradient reaches {', '.join(missing[:5])}"
    wrong = [name for name, one in model.named_parameters() if one.grad is not None and not one.grad.isfinite().all()]
    assert not wrong, f"the gradient of {', '.join(wrong[:5])} is not finite"


def check_loss_is_the_sum_over_rows(case: BlockCase) -> None:
    """The loss of a batch is the sum of those of its rows, each alone, where it needs less padding or none."""
    objective = made(case, Objective)
    model, samples = example_model(objective).double(), example_samples(objective, evaluates=True)
    chosen = np.arange(min(ROWS, len(samples)))
    whole = scored(objective, model, samples.batch(chosen, 0), training=False)
    parts = [scored(objective, model, samples.batch(chosen[n : n + 1], 0), training=False) for n in range(len(chosen))]
    for what, found, wanted in zip(("the loss", "a sum"), zip(*parts, strict=True), whole, strict=True):
        _close(torch.stack(found).sum(0), wanted, f"{what} of a batch is not that of its rows together")


def check_scores_the_same_again(case: BlockCase) -> None:
    """Scoring a batch twice gives the same sums, bit for bit, and leaves the batch and the model as they are."""
    objective = made(case, Objective)
    model, batch = example_model(objective), _batch(objective)
    kept = {key: one.clone() for key, one in batch.items()}
    weights = {name: one.clone() for name, one in model.state_dict().items()}
    first, again = (scored(objective, model, batch, training=False)[1] for _ in range(2))
    assert torch.equal(first, again), "the sums of a batch differ from call to call"
    assert_same_batch(batch, kept, "scoring changes the batch")
    changed = [name for name, one in model.state_dict().items() if not torch.equal(one, weights[name])]
    assert not changed, f"scoring changes {', '.join(changed[:5])}"


def check_loss_in_parts_is_the_whole_loss(case: BlockCase) -> None:
    """With `loss_chunk` rows at a time, loss and gradients are those of all logits at once."""
    if "loss_chunk" not in entries(case.slot)[case.name].parameters:
        raise NotApplicable("the objective has no loss_chunk")
    wanted = _loss_and_gradients(case.put(("loss_chunk",), 0))
    for chunk in CHUNKS:
        found = _loss_and_gradients(case.put(("loss_chunk",), chunk))
        for name, one in found.items():
            _close(one, wanted[name], f"loss_chunk {chunk}: {name}")


def check_predictions_fit_the_targets(case: BlockCase) -> None:
    """`predict` has a prediction for each target, and `logits` a row of logits for each."""
    objective = made(case, Objective)
    model, batch = example_model(objective), _batch(objective)
    scored(objective, model, batch, training=False)
    with torch.no_grad():
        found, logits = objective.predict(model, batch), objective.logits(model, batch)
    shape = tuple(batch["targets"].shape)
    assert {"predictions", "targets"} <= found.keys(), f"predict gives {', '.join(found)}"
    assert tuple(logits.shape[: len(shape)]) == shape, f"logits are {tuple(logits.shape)}, and targets {shape}"
    sizes = {key: tuple(one.shape[:1]) for key, one in found.items()}
    assert {*sizes.values()} == {shape[:1]}, f"predict gives rows of other numbers: {sizes}"


def _batch(objective: Objective) -> Batch:
    return example_samples(objective).batch(np.arange(ROWS), 0)


def _is_scored(targets: Tensor) -> Tensor:
    return ~targets.isnan() if targets.is_floating_point() else targets >= 0


def _loss_and_gradients(case: BlockCase) -> dict[str, Tensor]:
    objective = made(case, Objective)
    model: Model = example_model(objective).double()
    loss, _ = scored(objective, model, _batch(objective), training=True)
    loss.backward()
    gradients: dict[str, Any] = {f"the gradient of {name}": one.grad for name, one in model.named_parameters()}
    return {"the loss": loss.detach(), **{name: one for name, one in gradients.items() if one is not None}}


def _close(found: Tensor, wanted: Tensor, what: str) -> None:
    """Check that numbers are equal but for rounding of float32."""
    apart = (found.double() - wanted.double()).abs().max().item()
    most = 1e-4 * (1 + wanted.double().abs().max().item())
    assert apart <= most, f"{what}: they differ by {apart:.2g}"
