"""AdamW over two groups of parameters: those that decay and those that do not."""

from typing import Any

from torch import nn
from torch.optim import AdamW, Optimizer

from blockformer.training.optim.settings import OptimizerSettings
from blocks.base import Norm


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups: matrices decay; vectors, scalars, biases and norms do not; a tied parameter counts once.

    Decay shrinks a matrix's output, which the loss can answer; shrinking a gain or a bias only moves what it learned to
    be. Embeddings are matrices here, as with GPT-3 and its followers; the biases of all experts together are none.
    """
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            path, _, leaf = name.rpartition(".")
            vector = parameter.ndim < 2 or leaf == "bias" or isinstance(model.get_submodule(path), Norm)
            groups[not vector].append(parameter)
    return [
        {"params": parameters, "weight_decay": weight_decay if decays else 0.0, "decays": decays}
        for decays, parameters in groups.items()
        if parameters
    ]


def make_optimizer(model: nn.Module, settings: OptimizerSettings, *, fused: bool) -> Optimizer:
    """AdamW with this model's parameters in their two groups."""
    groups = decay_groups(model, settings.weight_decay)
    betas = (settings.beta1, settings.beta2)
    return AdamW(groups, lr=settings.lr, betas=betas, eps=settings.eps, fused=fused)


def renew(optimizer: Optimizer, settings: OptimizerSettings) -> None:
    """Put these settings in place of those that came with an optimizer's restored state, which keeps its moments.

    Without this a run that continues would go on with the checkpoint's settings, whatever its user said this time.
    """
    for group in optimizer.param_groups:
        group["betas"], group["eps"] = (settings.beta1, settings.beta2), settings.eps
        group["weight_decay"] = settings.weight_decay if group["decays"] else 0.0
