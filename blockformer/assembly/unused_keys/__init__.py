"""Find the keys of a recipe that have no effect on the model."""

from blockformer.assembly.unused_keys.search import unused_keys, unused_paths

__all__ = ["unused_keys", "unused_paths"]
