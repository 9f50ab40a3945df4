"""Read and write Hugging Face folders; what a published architecture is in our terms stands in data files alone."""

from blockformer.huggingface.adapter import HuggingFaceNames
from blockformer.huggingface.errors import InexpressibleError, InterchangeError
from blockformer.huggingface.exporting import export_folder, write_export
from blockformer.huggingface.family import Family
from blockformer.huggingface.folder import drafted, write_folder
from blockformer.huggingface.importing import Imported, read_folder
from blockformer.huggingface.library import families, load_family
from blockformer.huggingface.to_config import config_of, family_for
from blockformer.huggingface.verification import Verification, verify

__all__ = [
    "Family",
    "HuggingFaceNames",
    "Imported",
    "InexpressibleError",
    "InterchangeError",
    "Verification",
    "config_of",
    "drafted",
    "export_folder",
    "families",
    "family_for",
    "load_family",
    "read_folder",
    "verify",
    "write_export",
    "write_folder",
]
