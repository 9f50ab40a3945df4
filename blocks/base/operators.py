"""The namespace of the custom operators of this copy of the blocks."""

import re

LIBRARY = re.sub(r"\W", "_", __name__)
"""Namespace in ``torch.ops``. An exported model brings a copy of the blocks, whose operators must have other names:
torch replaces operators of the same name, and models that use the former ones end in an internal error of torch."""
