"""Tokenizers: what `--data.tokenizer` can name, one idea a file. Importing this package registers all of them."""

from importlib import import_module
from pathlib import Path

for _file in sorted(Path(__file__).parent.glob("[!_]*.py")):
    import_module(f"{__name__}.{_file.stem}")
