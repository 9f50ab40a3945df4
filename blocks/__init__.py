"""Blocks: the interchangeable parts, one idea a file and one folder a slot. Importing this package registers all."""

import pkgutil
from importlib import import_module

for _module in pkgutil.walk_packages(__path__, prefix=f"{__name__}."):
    import_module(_module.name)

from blocks.base import Cache, Context, Site  # noqa: E402  (the walk above has registered what these need)

__all__ = ["Cache", "Context", "Site"]
