"""AdamW over two groups of parameters: those that decay and those that do not."""

from typing import Any

from torch import nn
from torch.optim import AdamW, Optimizer

from training.optim.settings import OptimizerSettings


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups: matrices decay, vectors and scalars do not; a tied parameter counts once.

    Decay shrinks a matrix's output, which the loss can answer; shrinking a gain or a bias only moves what it learned to
    be. The line lies at two dimensions, as with GPT-3 and its followers, so embeddings decay too.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trained if parameter.ndim >= 2]
    others = [parameter for parameter in trained if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


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
        decays = all(parameter.ndim >= 2 for parameter in group["params"])
        group["weight_decay"] = settings.weight_decay if decays else 0.0
