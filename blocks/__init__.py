"""Blocks: the interchangeable parts, one idea a file. Importing this package registers every block in it."""

import pkgutil
from importlib import import_module

for _module in pkgutil.walk_packages(__path__, prefix=f"{__name__}."):
    import_module(_module.name)

from blocks.assembly import build, check  # noqa: E402  (the walk above has registered what these need)
from blocks.base import Cache, Context, Site  # noqa: E402
from blocks.loading import load  # noqa: E402
from blocks.warming import warm_start  # noqa: E402

__all__ = ["Cache", "Context", "Site", "build", "check", "load", "warm_start"]
