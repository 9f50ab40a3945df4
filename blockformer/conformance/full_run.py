"""The full run: generate thousands of recipes and check each; an interrupted run resumes from its folder."""

import hashlib
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, cast

import torch

from blockformer import signals
from blockformer.conformance.coverage import CoveragePlan, PlannedRecipe
from blockformer.conformance.recipe_checks import Failure, RecipeResult, run_recipe_checks
from blockformer.conformance.shrink import fails_check, shrink
from blockformer.conformance.validate import Tree, as_yaml, validate
from blockformer.files import as_json, write_text

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future
    from concurrent.futures._base import DoneAndNotDoneFutures

Row = dict[str, Any]
TRIPLES = 4  # one recipe in this many has three random choices
RESULT = ("code", "count", "seed", "number", "recipe", "passed", "not_applicable", "failure", "seconds")
SHOWN = 5  # failures per check that are shrunk and printed


@dataclass(frozen=True)
class Settings:
    """Settings of a run.

    Attributes:
        folder: where recipes and results are stored.
        count: number of valid recipes to check.
        seed: seed of all randomness.
        processes: number of processes that check recipes.
    """

    folder: Path
    count: int = 2000
    seed: int = 0
    processes: int = 2

    @property
    def key(self) -> Row:
        """What the results depend on; stored with each."""
        return {"count": self.count, "seed": self.seed, "code": fingerprint()}


def run(settings: Settings) -> tuple[list[Row], list[Row]]:
    """Generate all recipes, and check each while the next are generated, in processes that do both.

    Returns:
        The plan (its figures, then its recipes), and the results.
    """
    from concurrent.futures import wait  # here, as every import of the blocks would pay for it

    path, key = settings.folder / "results.jsonl", settings.key
    of_this_code = [row for row in read_rows(path, RESULT) if row.get("code") == key["code"]]  # others are of no use
    known = {row["number"]: row for row in of_this_code if all(row[name] == value for name, value in key.items())}
    write_rows(path, of_this_code)
    rows, progress = list[Row](), Progress(settings.count, len(known))
    with worker_pool(settings.processes) as pool:
        running: set[Future[Row]] = set()
        for row in _plan(settings, key, pool):
            rows.append(row)
            if "number" in row and row["number"] not in known:
                with signals.held():  # a worker that this starts leaves signals to this process
                    running.add(pool.submit(check_row, row))
            running = _collected(wait(running, 0), path, key, known)
            progress.show(len(rows), len(known))
        while running:
            running = _collected(wait(running, 1, "FIRST_COMPLETED"), path, key, known)
            progress.show(len(rows), len(known))
    figures, recipes = rows[-1], rows[:-1]
    write_rows(settings.folder / "plan.jsonl", [figures, *recipes])
    return [figures, *recipes], [known[number] for number in sorted(known)]


@contextmanager
def worker_pool(processes: int) -> "Iterator[Executor]":
    """Worker processes of one thread each, which end at once when the block is left by an exception."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    with ProcessPoolExecutor(processes, get_context("spawn"), _begin, (os.getpid(),)) as pool:
        try:
            yield pool
        except BaseException:
            for process in list((pool._processes or {}).values()):  # what they do would hold up the end
                process.kill()
            pool.shutdown(cancel_futures=True)
            raise


def _plan(settings: Settings, key: Row, pool: "Executor") -> Iterator[Row]:
    """The recipes, then the figures; stored ones if code and settings are the same."""
    before = list(read_rows(settings.folder / "plan.jsonl"))
    whole = [row.get("number") for row in before[1:]] == list(range(settings.count))
    if whole and all(before[0].get(name) == value for name, value in key.items()):
        yield from (*before[1:], before[0])
        return
    plan = CoveragePlan(settings.seed, pool)
    for number, planned in enumerate(_planned(plan, settings.count)):
        yield {"number": number, "how": planned.how, "wanted": planned.wanted, "recipe": planned.valid.tree}
    yield key | plan.figures()


def _planned(plan: CoveragePlan, count: int) -> Iterator[PlannedRecipe]:
    triples, alone = count // TRIPLES, 0
    for planned in islice(plan.singles(), count - triples):
        alone += 1
        yield planned
    yield from plan.pairs(count - triples - alone)
    yield from plan.triples(triples)


def _collected(
    futures: "DoneAndNotDoneFutures[Row]", path: Path, key: Row, known: dict[int, Row]
) -> "set[Future[Row]]":
    """Store the results that are done; return the futures that are not."""
    for future in futures.done:
        row = key | future.result()
        append_row(path, row)
        known[row["number"]] = row
    return futures.not_done


def _begin(parent: int) -> None:
    """Set up a worker process: one thread, and exit when the parent process is gone."""
    torch.set_num_threads(1)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def check_row(row: Row) -> Row:
    """Check one recipe of the plan, in a worker process."""
    number, start = row["number"], time.process_time()
    try:
        valid = validate(row["recipe"], f"recipe {number}")
        result = run_recipe_checks(valid, number)
    except Exception as error:
        result = RecipeResult((), (), Failure("validate", f"{type(error).__name__}: {error}"))
    return {
        "number": number,
        "recipe": row["recipe"],
        "passed": result.passed,
        "not_applicable": result.not_applicable,
        "failure": None if result.failure is None else vars(result.failure),
        "seconds": round(time.process_time() - start, 2),
    }


def report_failures(failures: list[Row], folder: Path) -> None:
    """Shrink and print failures, a few of each check, with the command that repeats each.

    Args:
        failures: results with a failure.
        folder: the shrunk recipes are written to its folder ``failures``.
    """
    shown: dict[str, int] = {}
    for row in failures:
        check: str = row["failure"]["check"]
        shown[check] = shown.get(check, 0) + 1
        if shown[check] > SHOWN:
            continue
        tree = cast("Tree", row["recipe"])
        path = folder / "failures" / f"{row['number']}.yaml"
        write_text(path, as_yaml(shrink(tree, fails_check(check))))
        print(f"\nrecipe {row['number']}: {check} fails: {row['failure']['error'][:300]}\n\n{path.read_text()}")
        print(f"repeat it: blockformer conformance --recipe {path}", flush=True)
    more = {check: count - SHOWN for check, count in shown.items() if count > SHOWN}
    if more:
        print(f"more failures, by check: {more}")


class Progress:
    """Progress in one line, updated on a terminal; elsewhere a line every 30 seconds."""

    def __init__(self, count: int, known: int) -> None:
        self.count, self.known, self.start, self.shown = count, known, time.monotonic(), 0.0

    def show(self, generated: int, checked: int) -> None:
        """Print how many recipes were generated and checked, the rate, and the remaining time."""
        now, live = time.monotonic(), sys.stderr.isatty()
        if now - self.shown < (0.2 if live else 30) and checked < self.count:
            return
        self.shown = now
        rate = (checked - self.known) / max(now - self.start, 1e-9)
        left = f"{(self.count - checked) / rate / 60:.0f} minutes left" if rate else "..."
        line = f"{min(generated, self.count)} generated, {checked} of {self.count} checked, {rate:.1f} a second, {left}"
        print(f"\r{line} " if live else line, end="" if live and checked < self.count else "\n", file=sys.stderr)


def fingerprint() -> str:
    """A hash of all code that a recipe runs, so that results of other code are not reused."""
    root = Path(__file__).parents[2]
    digest = hashlib.sha256()
    for package in ("registry", "blocks", "blockformer"):
        for path in sorted((root / package).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write rows as lines of JSON."""
    write_text(path, "".join(f"{as_json(row)}\n" for row in rows))


def read_rows(path: Path, keys: Iterable[str] = ()) -> Iterator[Row]:
    """The rows of a file, none if it is missing; those that are damaged, or lack one of the keys, are ignored."""
    if not path.is_file():
        return
    for line in path.read_bytes().split(b"\n")[:-1]:
        try:
            row = json.loads(line.decode())
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and row.keys() >= {*keys}:
            yield cast("Row", row)


def append_row(path: Path, row: Row) -> None:
    """Append one row and wait until it is on the disk."""
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{as_json(row)}\n")
        file.flush()
        os.fsync(file.fileno())
