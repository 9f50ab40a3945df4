"""Read and write Hugging Face folders; what a published architecture is in our terms stands in data files alone."""

from blocks.interchange.adapter import HuggingFaceNames
from blocks.interchange.configuring import config_of, family_for
from blocks.interchange.errors import InterchangeError
from blocks.interchange.exporting import export_folder
from blocks.interchange.family import Family
from blocks.interchange.folder import write_folder
from blocks.interchange.importing import Imported, read_folder
from blocks.interchange.library import families, load_family
from blocks.interchange.verification import Verification, verify

__all__ = [
    "Family",
    "HuggingFaceNames",
    "Imported",
    "InterchangeError",
    "Verification",
    "config_of",
    "export_folder",
    "families",
    "family_for",
    "load_family",
    "read_folder",
    "verify",
    "write_folder",
]
