"""Import torchmetrics in parts: at the start only the two classes that Lightning needs.

Lightning needs two classes of torchmetrics, but whoever imports it runs its package file, which imports every metric
there is, and with them SciPy and, where it is installed, transformers: seconds at each start.
"""

import logging
import sys
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from typing import Any

_NAME = "torchmetrics"
_MODULES = {"Metric": "metric", "MetricCollection": "collections"}  # the two classes, and where they are defined


def install() -> None:
    """Let the package file of torchmetrics run when something else of it is used than Lightning's two classes."""
    if _NAME in sys.modules or (spec := find_spec(_NAME)) is None or spec.loader is None:
        return
    loader, package = spec.loader, module_from_spec(spec)

    def of_the_whole(name: str) -> Any:
        package.__dict__.pop("__getattr__", None)
        loader.exec_module(package)
        return getattr(package, name)

    def attribute(name: str) -> Any:
        if name == "__version__":
            from importlib.metadata import version

            return version(_NAME)
        if name.startswith("__"):  # what Python asks of any module
            raise AttributeError(name)
        if name in _MODULES:
            try:
                import_module(f"{_NAME}.utilities")  # first, as the package file does: the two import each other
                return getattr(import_module(f"{_NAME}.{_MODULES[name]}"), name)
            except ImportError:  # a version whose modules need more of the package
                for module in [one for one in sys.modules if one.startswith(f"{_NAME}.")]:
                    del sys.modules[module]
                return of_the_whole(name)
        if find_spec(f"{_NAME}.{name}") is not None:
            return import_module(f"{_NAME}.{name}")
        return of_the_whole(name)

    # the only other name that modules of torchmetrics import from the package
    package.__dict__.update(__getattr__=attribute, _logger=logging.getLogger(_NAME))
    sys.modules[_NAME] = package
