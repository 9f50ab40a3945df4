"""Read and write Hugging Face folders; what a published architecture is in our terms stands in data files alone."""

from blocks.interchange.adapter import HuggingFaceNames
from blocks.interchange.configuring import config_of, family_for
from blocks.interchange.errors import InexpressibleError, InterchangeError
from blocks.interchange.exporting import export_folder, write_export
from blocks.interchange.family import Family
from blocks.interchange.folder import drafted, write_folder
from blocks.interchange.importing import Imported, read_folder
from blocks.interchange.library import families, load_family
from blocks.interchange.verification import Verification, verify

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
