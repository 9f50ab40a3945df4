"""Keys of a recipe that change nothing in the model that it builds."""

from blockformer.assembly.unused_keys.search import unused_keys, unused_paths

__all__ = ["unused_keys", "unused_paths"]
