"""Measure the memory of preparing text: one large file against many small ones with the same text.

python -m benchmarks.preparation [--megabytes 20] [--tokenizer bpe]
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from blockformer.data.corpora import docstrings, files
from blockformer.data.options import DATA
from blockformer.data.prepared import prepare

FILES = 20


def main() -> None:
    """Prepare the same text from one file and from twenty, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=20)
    parser.add_argument("--tokenizer", default="bpe", choices=("bpe", "bytes"))
    options = parser.parse_args()
    documents = docstrings.source(None, 2_000_000, {}).read().splits["train"]
    text = "\n\n".join(documents).encode("ascii", "replace")
    text = (text * (options.megabytes * 10**6 // len(text) + 1))[: options.megabytes * 10**6]
    with tempfile.TemporaryDirectory() as folder:
        for count in (1, FILES):
            (place := Path(folder) / f"{count}").mkdir()
            size = len(text) // count
            for number in range(count):
                (place / f"{number}.txt").write_bytes(text[number * size : (number + 1) * size])
            command = [
                sys.executable,
                "-c",
                "from benchmarks.preparation import measure; measure()",
                place,
                options.tokenizer,
            ]
            subprocess.run(command, check=True, env=os.environ | {"BLOCKFORMER_CACHE": f"{place}/cache"})


def measure() -> None:
    """Print the peak memory of this process before and after it prepared the files of a folder."""
    folder, tokenizer = sys.argv[1:]
    text = files.source("text", files.Files([f"{folder}/*.txt"], [], [], {"validation": 0.0, "test": 0.0}))
    before, start = _peak(), time.monotonic()
    component = DATA.make({"tokenizer": tokenizer}, {})["tokenizer"]
    facts = prepare(text, component).facts
    size, taken = facts["train"]["bytes"], _peak() - before
    print(
        f"{facts['train']['documents']:>3} files, {size / 1e6:.0f} MB: {taken / 1e6:.0f} MB of memory more than before "
        f"({taken / size:.0f} bytes a byte), {time.monotonic() - start:.0f} s"
    )


def _peak() -> int:
    """The most memory that this process has used, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main()
