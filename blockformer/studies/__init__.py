"""Compare variants: a study is a file, its runs are executed and repeated, its verdicts rest on statistics."""

from blockformer.studies.api import compare

__all__ = ["compare"]
