"""The configuration of a run as one nested mapping, for `facts.json`, `blockformer runs` and W&B."""

from typing import TYPE_CHECKING, Any

import lightning
import torch

from blockformer.assembly.builder import build_unchecked
from blockformer.training.metadata import installed_version

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from blockformer.training.module import TrainingModule


def facts_of(trainer: "Trainer", module: "TrainingModule") -> dict[str, Any]:
    """The canonical recipe, sizes and FLOPs of the model, data, objective, optimizer and trainer of a run."""
    data = getattr(trainer, "datamodule", None)
    model = build_unchecked(module.recipe)
    module.settings.choose_trained(model)
    return {
        "recipe": module.recipe.dump(),
        "recipe_hash": module.recipe.hash,
        **{key: value for key, value in module.provenance.items() if key in ("variant", "warm_start", "earlier_data")},
        "model": model_facts(model, getattr(data, "length", module.model.length_limit[1])),
        "objective": module.objective.as_dict(),
        "objective_facts": dict(module.objective.facts()),
        "optimizer": module.settings.as_dict(),
        "data": data_facts(data),
        "trainer": trainer_facts(trainer) | {"total_steps": module.total_steps},
        "seed": module.seed,
        "versions": {
            "blockformer": installed_version(),
            "torch": torch.__version__,
            "lightning": lightning.__version__,
        },
    }


def model_facts(model: Any, length: int) -> dict[str, Any]:
    """Kind, parameters (all, by slot, trained), and FLOPs of a forward pass per token in sequences of this length."""
    return {
        "kind": model.kind,
        "parameters": model.size,
        "parameters_by_slot": model.parameters_by_slot(),
        "parameters_trained": model.trained_size,
        "flops_per_token": model.flops_per_token(length),
        "length": length,
    }


def data_facts(data: Any) -> dict[str, Any]:
    """Facts about the text, from the data module, and the size of a batch."""
    if not hasattr(data, "facts"):
        return {}
    return data.facts() | {"length": data.length, "batch_size": data.batch_size, "seed": data.seed}


def trainer_facts(trainer: "Trainer") -> dict[str, Any]:
    """The trainer's settings that affect the result or the speed."""
    return {
        "devices": trainer.world_size,
        "accelerator": type(trainer.accelerator).__name__.removesuffix("Accelerator").lower(),
        "precision": trainer.precision,
        "max_steps": trainer.max_steps,
        "max_epochs": trainer.max_epochs,
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
        "gradient_clip_val": trainer.gradient_clip_val,
    }
