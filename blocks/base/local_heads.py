"""The heads of this process under tensor parallelism."""

from torch import Tensor, nn


class LocalHeads(nn.Module):
    """Slice a per-head tensor (B or 1, H, ...) to this process's heads; the identity without tensor parallelism."""

    def forward(self, x: Tensor) -> Tensor:
        return x
