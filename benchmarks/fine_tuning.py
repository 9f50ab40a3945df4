"""Fine-tune the published model of rxnmapper, wholly and in low-rank adapters, and train its recipe from nothing.

python -m benchmarks.fine_tuning [--steps 60] [--folder fine_tuning]

The model comes from the package rxnmapper on PyPI (MIT; Schwaller et al., 2021, Science Advances 7(15)), an ALBERT
trained on chemical reactions; the package is not installed. Each way is one `blockformer fit`.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

from benchmarks.interleaved import machine
from blockformer.cli.main import main as blockformer
from blockformer.training.loggers.file_logger import read_rows

PACKAGE = "rxnmapper==0.4.3"
INSIDE = "rxnmapper/models/transformers/albert_heads_8_uspto_all_1310k/"
COMMON = (
    *("--plugin", "benchmarks.reactions", "--data.dataset", "esters", "--objective.type", "masked_answers"),
    *("--data.length", "40", "--data.batch_size", "8"),
    *("--optimizer.warmup_steps", "10", "--trainer.limit_val_batches", "25", "--trainer.accelerator", "cpu"),
    *("--run.wandb", "disabled", "--trainer.enable_progress_bar", "false"),
)
ADAPTERS = '{"encoder.layers.*": {type: lora, rank: 8}}'


class DownloadError(Exception):
    """The package cannot be downloaded; the message is pip's last line."""


def published(folder: Path) -> Path:
    """Download the package and unpack the model's folder.

    Raises:
        DownloadError: pip cannot download it.
    """
    pip = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        "--dest",
        str(folder),
    ]
    answer = subprocess.run([*pip, PACKAGE], capture_output=True, text=True, check=False)
    if answer.returncode:
        raise DownloadError(f"{PACKAGE} cannot be downloaded: {(answer.stderr.strip().splitlines() or ['?'])[-1]}")
    with ZipFile(next(folder.glob("rxnmapper-*.whl"))) as wheel:
        wheel.extractall(folder, [name for name in wheel.namelist() if name.startswith(INSIDE)])
    return folder / INSIDE


def ways(model: Path) -> dict[str, tuple[str, ...]]:
    """The options of each way to train."""
    return {
        "from nothing": ("--recipe", str(model / "recipe.yaml"), "--optimizer.lr", "1e-3"),
        "all parameters": ("--init-from", str(model), "--optimizer.lr", "3e-4"),
        "adapters": ("--init-from", str(model), "--recipe.adapters", ADAPTERS, "--optimizer.lr", "3e-3"),
    }


def measure(model: Path, runs: Path, steps: int) -> dict[str, dict[str, float]]:
    """Train in each way; the accuracy of the masked symbols before and after, and what was trained.

    Raises:
        RuntimeError: a run failed.
    """
    found: dict[str, dict[str, float]] = {}
    for name, options in ways(model).items():
        run = name.replace(" ", "-")
        length = ("--trainer.max_steps", str(steps), "--run.root", str(runs), "--run.name", run)
        if status := blockformer(["fit", *COMMON, *options, *length]):
            raise RuntimeError(f"the run {run} failed with status {status}")
        facts = json.loads((runs / run / "facts.json").read_text(encoding="utf-8"))["model"]
        scores = [row["val/accuracy"] for row in read_rows(runs / run / "metrics.jsonl") if "val/accuracy" in row]
        moments = 8 * facts["parameters_trained"]  # two float32 numbers of AdamW for each
        found[name] = {"trained": facts["parameters_trained"], "moments": moments, "accuracy": scores[-1]}
    return found


def main(arguments: list[str] | None = None) -> dict[str, dict[str, float]]:
    """Download, import, train in each way, and print a table.

    Raises:
        DownloadError: the package cannot be downloaded.
        RuntimeError: the model cannot be imported, or a run failed.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--folder", type=Path, default=Path("fine_tuning"))
    options = parser.parse_args(arguments)
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    model = folder / "model"
    if not model.is_dir() and blockformer(["import", str(published(folder)), "--out", str(model)]):
        raise RuntimeError("the model cannot be imported")
    found = measure(model, folder / "runs", options.steps)
    print(f"{machine()}; {options.steps} steps")
    for name, row in found.items():
        print(f"{name}: {row['trained']:,.0f} trained, {row['moments'] / 2**20:.2f} MiB of moments, ", end="")
        print(f"accuracy {row['accuracy']:.3f}")
    return found


if __name__ == "__main__":
    main()
