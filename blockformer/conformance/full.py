"""The full run: thousands of recipes drawn from the registry, and what the checks find in them.

What is drawn and what is found is kept in a folder, so that an interrupted run goes on where it was.
"""

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, cast

import torch

from blockformer.conformance.admitting import Tree, admit, as_yaml
from blockformer.conformance.covering import Drawn, Plan
from blockformer.conformance.judging import judged
from blockformer.conformance.reducing import fails_at, smallest
from blockformer.conformance.storing import Row, append_row, fingerprint, read_rows, write_rows
from blockformer.files import write_text

if TYPE_CHECKING:
    from concurrent.futures import Future
    from concurrent.futures._base import DoneAndNotDoneFutures

TRIPLES = 4  # one recipe in so many is a random triple
SHOWN = 5  # failures that are reduced, of each check


@dataclass(frozen=True)
class Settings:
    """What a run is to do.

    Attributes:
        folder: where is kept what was drawn and found.
        count: number of recipes that are accepted and checked.
        seed: of all chance.
        processes: how many recipes run at once.
    """

    folder: Path
    count: int = 2000
    seed: int = 0
    processes: int = 2

    @property
    def key(self) -> Row:
        """What outcomes are outcomes of."""
        return {"count": self.count, "seed": self.seed, "code": fingerprint()}


def run(settings: Settings) -> tuple[list[Row], list[Row]]:
    """Draw all recipes, and check each while the next are drawn.

    Returns:
        The plan: its figures, then its recipes; and the outcomes.
    """
    from concurrent.futures import ProcessPoolExecutor, wait  # not with every import of the blocks
    from multiprocessing import get_context

    path, key = settings.folder / "results.jsonl", settings.key
    known = {row["number"]: row for row in read_rows(path) if all(row[name] == value for name, value in key.items())}
    write_rows(path, known.values())
    rows, progress = list[Row](), Progress(settings.count, len(known))
    context = get_context("spawn")
    with ProcessPoolExecutor(settings.processes, context, _begin, (os.getpid(),)) as pool:
        running: set[Future[Row]] = set()
        try:
            for row in _plan(settings, key):
                rows.append(row)
                if "number" in row and row["number"] not in known:
                    running.add(pool.submit(outcome, row))
                running = _collected(wait(running, 0), path, key, known)
                progress.show(len(rows), len(known))
            while running:
                running = _collected(wait(running, 1, "FIRST_COMPLETED"), path, key, known)
                progress.show(len(rows), len(known))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    figures, recipes = rows[-1], rows[:-1]
    write_rows(settings.folder / "plan.jsonl", [figures, *recipes])
    return [figures, *recipes], [known[number] for number in sorted(known)]


def _plan(settings: Settings, key: Row) -> Iterator[Row]:
    """The recipes, then the figures: those of before, if code and settings are the same."""
    before = list(read_rows(settings.folder / "plan.jsonl"))
    if before and all(before[0].get(name) == value for name, value in key.items()):
        yield from (*before[1:], before[0])
        return
    plan = Plan(settings.seed)
    for number, drawn in enumerate(_drawn(plan, settings.count)):
        yield {"number": number, "how": drawn.how, "wishes": drawn.wishes, "recipe": drawn.admitted.tree}
    yield key | plan.figures()


def _drawn(plan: Plan, count: int) -> Iterator[Drawn]:
    triples, alone = count // TRIPLES, 0
    for drawn in islice(plan.singles(), count - triples):
        alone += 1
        yield drawn
    yield from plan.pairs(count - triples - alone)
    yield from plan.triples(triples)


def _collected(
    futures: "DoneAndNotDoneFutures[Row]", path: Path, key: Row, known: dict[int, Row]
) -> "set[Future[Row]]":
    """Keep what is done; what is not."""
    for future in futures.done:
        row = key | future.result()
        append_row(path, row)
        known[row["number"]] = row
    return futures.not_done


def _begin(parent: int) -> None:
    """Set up a process that checks: one thread, and an end when the run that it belongs to is gone, however it went."""
    torch.set_num_threads(1)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def outcome(row: Row) -> Row:
    """Check one recipe of the plan, in a process of its own."""
    number, start = row["number"], time.process_time()
    try:
        admitted = admit(row["recipe"], f"recipe {number}")
        checks, failure = judged(admitted, number)
        told = None if failure is None else vars(failure)
    except Exception as error:
        checks, told = 0, {"check": "admit", "error": f"{type(error).__name__}: {error}"}
    return {
        "number": number,
        "recipe": row["recipe"],
        "checks": checks,
        "failure": told,
        "seconds": round(time.process_time() - start, 2),
    }


def explain(failures: list[Row], folder: Path) -> None:
    """Reduce failures, a few of each check, and say how to see each alone.

    Args:
        failures: those outcomes that are failures.
        folder: the smallest recipes that fail are written to its ``failures``.
    """
    shown: dict[str, int] = {}
    for row in failures:
        check: str = row["failure"]["check"]
        shown[check] = shown.get(check, 0) + 1
        if shown[check] > SHOWN:
            continue
        tree = cast("Tree", row["recipe"])
        path = folder / "failures" / f"{row['number']}.yaml"
        write_text(path, as_yaml(smallest(tree, fails_at(check))))
        print(f"\nrecipe {row['number']}: {check} fails: {row['failure']['error'][:300]}\n\n{path.read_text()}")
        print(f"to see it alone: blockformer conformance --recipe {path}", flush=True)
    more = {check: count - SHOWN for check, count in shown.items() if count > SHOWN}
    if more:
        print(f"and more that fail: {more}")


class Progress:
    """One line about how far it is, written over on a terminal; elsewhere a line in a while."""

    def __init__(self, count: int, known: int) -> None:
        self.count, self.known, self.start, self.shown = count, known, time.monotonic(), 0.0

    def show(self, drawn: int, checked: int) -> None:
        """Say how many recipes were drawn and checked, at what rate, and how long the rest will take."""
        now, live = time.monotonic(), sys.stderr.isatty()
        if now - self.shown < (0.2 if live else 30) and checked < self.count:
            return
        self.shown = now
        rate = (checked - self.known) / max(now - self.start, 1e-9)
        left = f"{(self.count - checked) / rate / 60:.0f} minutes left" if rate else "..."
        line = f"{min(drawn, self.count)} drawn, {checked} of {self.count} checked, {rate:.1f} a second, {left}"
        print(f"\r{line} " if live else line, end="" if live and checked < self.count else "\n", file=sys.stderr)
