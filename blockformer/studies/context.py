"""The architectural differences between variants, and the machine, as parts of a study's results."""

import os
import platform
from dataclasses import asdict
from typing import Any

import torch

from blockformer.assembly import check
from blockformer.assembly.recipe_diff import compare
from blockformer.studies.plan import Plan
from blockformer.studies.study import BASE
from blockformer.training.metadata import installed_version


def differences(plan: Plan) -> dict[str, list[dict[str, Any]]]:
    """The changes of each variant against the base, block by block, as :class:`Change` has them."""
    base = check(plan.variants[BASE].recipe)
    return {
        name: [asdict(change) for change in compare(base, check(found.recipe))]
        for name, found in plan.variants.items()
        if name != BASE
    }


def environment(workers: int = 1) -> dict[str, str | int]:
    """Versions, machine, device and threads of this process and of the runs that it starts.

    Args:
        workers: runs at a time, which share the cores.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "blockformer": installed_version(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": cores,
        "device": ", ".join(gpus) or "CPU",
        "runs at a time": workers,
        "threads of a run": int(os.environ.get("OMP_NUM_THREADS") or max(1, cores // workers)),
    }


def _processor() -> str:
    """The name of the processor; empty if the system does not give one."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as stream:  # noqa: PTH123
            names = (line.partition(":")[2].strip() for line in stream if line.startswith("model name"))
            return next(names, platform.processor())
    except OSError:
        return platform.processor()
