"""Load an exported folder where blockformer does not exist, and write down the logits of given inputs.

    python -P outside.py FOLDER CLASS INPUTS OUTPUTS PACKAGE...

Run as a program of its own; the packages cannot be imported in it, as on a machine that does not have them.
"""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


class Absent(MetaPathFinder):
    """Finds some packages missing."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = frozenset(names)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)
        return None


def main(folder: str, kind: str, inputs: str, outputs: str, *absent: str) -> None:
    """Run the folder's model in float32 on the inputs."""
    sys.meta_path.insert(0, Absent(absent))
    import torch
    import transformers
    from safetensors.torch import load_file, save_file

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    found = getattr(transformers, kind).from_pretrained(
        folder, trust_remote_code=True, local_files_only=True, dtype=torch.float32
    )
    with torch.no_grad():
        logits = found.eval()(**load_file(inputs)).logits
    save_file({"logits": logits.contiguous()}, outputs)


if __name__ == "__main__":
    main(*sys.argv[1:])
