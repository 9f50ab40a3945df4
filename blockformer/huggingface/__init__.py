"""Import and export models in the format of Hugging Face transformers; each architecture is a data file (a family)."""

from blockformer.huggingface.adapter import HuggingFaceNames
from blockformer.huggingface.errors import ExportError, HuggingFaceError
from blockformer.huggingface.export_config import config_of, family_for
from blockformer.huggingface.exporter import ExportSource, export_folder, read_source, write_export
from blockformer.huggingface.family import Family, families, load_family
from blockformer.huggingface.folder import output_folder
from blockformer.huggingface.importer import ImportedModel, read_folder, write_folder
from blockformer.huggingface.verification import Verification, verify

__all__ = [
    "ExportError",
    "ExportSource",
    "Family",
    "HuggingFaceError",
    "HuggingFaceNames",
    "ImportedModel",
    "Verification",
    "config_of",
    "export_folder",
    "families",
    "family_for",
    "load_family",
    "output_folder",
    "read_folder",
    "read_source",
    "verify",
    "write_export",
    "write_folder",
]
