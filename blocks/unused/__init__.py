"""Keys of a recipe that change nothing in the model that it builds."""

from blocks.unused.search import unused_keys, unused_paths

__all__ = ["unused_keys", "unused_paths"]
