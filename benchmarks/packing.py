"""How many documents are cut, and how much of the rows is padding: concatenated documents against best fit.

`python -m benchmarks.packing` prints a table for 2 MB of the built-in English text, of which a document is the
documentation of one module; `python -m benchmarks.packing FILE.jsonl ...` one for the column `text` of tables. Tokens
are bytes.
"""

import sys
from collections.abc import Sequence

import numpy as np

from blockformer.data.module import TextData
from blockformer.data.packing import PackedText
from blockformer.data.samples import TokenizedText

LENGTHS = (1024, 2048, 4096, 8192, 16384)


def main(files: Sequence[str] = ()) -> None:
    """Print the table."""
    data = TextData(tokenizer="bytes", **({"dataset": "table", "files": list(files)} if files else {}))
    prepared = data.prepared
    documents = prepared.documents("train")
    offsets = np.asarray(documents.offsets)
    sizes = np.diff(offsets)
    print(f"{len(sizes):,} documents of {sizes.mean():,.0f} tokens, median {np.median(sizes):,.0f}")
    print("| `data.length` | cut when concatenated | cut by best fit | padding of best fit | rows |")
    for length in LENGTHS:
        packed = PackedText(TokenizedText((documents,), prepared.tokenizer, length)).facts()
        cut = (offsets[:-1] // length != (offsets[1:] - 1) // length).mean()
        rows = f"{packed['rows']:,} for {-(-int(offsets[-1]) // length):,}"
        share = packed["documents_cut"] / len(sizes)
        print(f"| {length} | {cut:.1%} | {share:.1%} | {packed['padding']:.2%} | {rows} |")


if __name__ == "__main__":
    main(sys.argv[1:])
