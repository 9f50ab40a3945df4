"""Load an exported folder in a process without blockformer, and save the logits for given inputs.

    python -P isolated_process.py FOLDER CLASS INPUTS OUTPUTS PACKAGE...

It runs as a separate program, in which the packages cannot be imported, as on a machine that does not have them.
"""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


class BlockedImports(MetaPathFinder):
    """Makes the import of some packages fail."""

    def __init__(self, packages: Sequence[str]) -> None:
        self.packages = frozenset(packages)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] in self.packages:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)
        return None


def main(folder: str, class_name: str, inputs: str, outputs: str, *packages: str) -> None:
    """Run the model of a folder in float32.

    Args:
        folder: the exported folder.
        class_name: the class of transformers that loads it.
        inputs: a safetensors file with the inputs by name.
        outputs: the safetensors file to write, with ``logits``.
        packages: top-level packages that cannot be imported.
    """
    sys.meta_path.insert(0, BlockedImports(packages))
    import torch
    import transformers
    from safetensors.torch import load_file, save_file

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    model = getattr(transformers, class_name).from_pretrained(
        folder, trust_remote_code=True, local_files_only=True, dtype=torch.float32
    )
    with torch.no_grad():
        logits = model.eval()(**load_file(inputs)).logits
    save_file({"logits": logits.contiguous()}, outputs)


if __name__ == "__main__":
    main(*sys.argv[1:])
