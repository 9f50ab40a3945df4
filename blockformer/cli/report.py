"""What a run leaves for people: the files that repeat it, and the lines that say where things are."""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from blockformer.files import write_text
from blockformer.training.callbacks.progress import summary
from blockformer.training.loggers import SafeWandbLogger
from blockformer.training.loggers.file_logger import read_rows
from registry.strict_yaml import parse_text


class _Dumper(yaml.SafeDumper):
    """Quotes also what is a text in YAML 1.1, which PyYAML writes, and something else in YAML 1.2, which we read."""

    def text(self, value: str) -> yaml.Node:
        style = None if "\n" in value or isinstance(_parsed(value), str) else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _Dumper.text)


def _parsed(value: str) -> Any:
    try:
        return parse_text(value, "")
    except ValueError:
        return value  # PyYAML quotes by itself what is no plain text


def save_settings(folder: Path, recipe: str, config: dict[str, Any]) -> None:
    """Write `recipe.yaml`, the canonical recipe, and `config.yaml`, from which the run can be repeated."""
    text = yaml.dump(config, Dumper=_Dumper, sort_keys=False, default_flow_style=False, allow_unicode=True)
    for name, content in (("recipe.yaml", recipe), ("config.yaml", text)):
        write_text(folder / name, content)


def say_begin(variant: str, model: Any, folder: Path) -> None:
    """One line when training begins."""
    print(f"{variant}: {model.kind}, {model.size:,} parameters; the run lives in {folder}", flush=True)


def say_remarks(remarks: Iterable[str]) -> None:
    """What may not be meant, a line each."""
    for remark in remarks:
        print(f"note: {remark}", file=sys.stderr, flush=True)


def say_end(folder: Path, loggers: list[Any]) -> None:
    """Where the figures stand, and where they can be seen."""
    rows = [row for row in read_rows(folder / "metrics.jsonl") if "val/loss" in row]
    last = f"; validation: {summary(rows[-1], 'val')}" if rows else ""
    print(f"done: {folder}{last}")
    for logger in loggers:
        if isinstance(logger, SafeWandbLogger) and logger.place:
            print(logger.place)


def keep_evaluation(folder: Path, verb: str, checkpoint: Path, figures: dict[str, float]) -> None:
    """Say what `validate` or `test` found, and add it to the run's `evaluations.jsonl`."""
    stage = "val" if verb == "validate" else verb
    print(f"{verb} {checkpoint}: {summary(figures, stage)}  perplexity {figures[f'{stage}/perplexity']:.3f}")
    with (folder / "evaluations.jsonl").open("a", encoding="utf-8") as stream:
        stream.write(json.dumps({"verb": verb, "checkpoint": str(checkpoint), **figures}) + "\n")
