"""Import torchmetrics in parts: at the start only the two classes that Lightning needs.

Lightning needs two classes of torchmetrics, but whoever imports it runs its package file, which imports every metric
there is, and with them SciPy and, where they are installed, transformers and Matplotlib: seconds at each start.
"""

import logging
import sys
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any

_NAME = "torchmetrics"
_PLOTS = f"{_NAME}.utilities.plot"
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
    sys.modules[_PLOTS] = _plots_when_used()


def _plots_when_used() -> ModuleType:
    """Stands for the module of plots, which imports Matplotlib, until something is plotted."""
    module = ModuleType(_PLOTS)

    def whole() -> ModuleType:
        if sys.modules.get(_PLOTS) is module:
            del sys.modules[_PLOTS]
        return import_module(_PLOTS)

    def plot_single_or_multi_val(*args: Any, **kwargs: Any) -> Any:
        return whole().plot_single_or_multi_val(*args, **kwargs)

    def attribute(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(whole(), name)

    # what the two classes import; the types stand in annotations only
    names = {"plot_single_or_multi_val": plot_single_or_multi_val, "_AX_TYPE": object, "_PLOT_OUT_TYPE": object}
    module.__dict__.update(names, __getattr__=attribute)
    return module
