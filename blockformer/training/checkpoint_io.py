"""Write checkpoints so that the name never stands for half of one."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from blockformer.assembly.checkpoint import read
from blockformer.files import write_atomically


class AtomicCheckpointIO(TorchCheckpointIO):
    """Save beside the target, reach the disk, then rename.

    Lightning's own writer stages in the temporary folder: on another file system its last move is a copy that others
    see grow. It also holds the whole file in memory a second time.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        write_atomically(Path(path), lambda stream: torch.save(checkpoint, stream))

    def load_checkpoint(
        self, path: Any, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Tensors and plain data only, whatever is asked.

        Raises:
            LoadError: the file is missing, damaged, or not of this project.
        """
        return read(path)
