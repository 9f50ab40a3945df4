"""Fixtures of more than one area. Sizes in the tests are tiny: one thread is faster than several."""

import gc
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

import blockformer.data.datasets
import blockformer.data.tokenizers
import blockformer.training.optimizers  # noqa: F401
import blocks  # noqa: F401  (registers all blocks, whichever tests run)
from registry import register, registration

if TYPE_CHECKING:
    from tests.together import Together

torch.set_num_threads(1)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell sets it for what it starts in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # as nohup sets it
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
ROOT = Path(__file__).parents[1]
GPU_REASON = "needs a GPU that CUDA reaches"  # GPU_TESTS_ON=cpu runs the tests of GPUs on the CPU, to test them
WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "while", "wizards", "brew", "potions"]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none."""
    if torch.cuda.is_available() or os.environ.get("GPU_TESTS_ON") == "cpu":
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason=GPU_REASON))


def pytest_collection_finish() -> None:
    """Collect garbage less often, and never look for it in the packages and tests, which saves a tenth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def last_of_each(arguments: Sequence[str]) -> list[str]:
    """A command line in which later options replace earlier ones; the command itself refuses to be given both."""
    groups: list[list[str]] = []
    for word in map(str, arguments):
        if word.startswith("--") or not groups or "=" in groups[-1][0] or len(groups[-1]) > 1:
            groups.append([word])
        else:
            groups[-1].append(word)
    names = [group[0].partition("=")[0] for group in groups]
    kept = [
        group
        for place, group in enumerate(groups)
        if names[place] == "--config" or names[place] not in names[place + 1 :]
    ]
    return [word for group in kept for word in group]


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few kilobytes of text that a model can learn a little of."""
    draw = random.Random(0)
    documents = (" ".join(draw.choices(WORDS, k=draw.randint(10, 40))) for _ in range(60))
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(".\n\n".join(documents))
    return path


@pytest.fixture(scope="session")
def arguments(text: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What makes `fit` train a tiny model on that text, in epochs of a few steps, and keep the run in a folder."""
    return [
        *("--recipe", "tiny_decoder", "--recipe.decoder.depth", "1", "--recipe.embedding.dropout", "0.1"),
        *("--data.dataset", "text", f"--data.files={text}", "--data.tokenizer", "bytes"),
        *("--data.length", "32", "--data.batch_size", "16", "--data.validation", "0.1", "--data.test", "0.1"),
        *("--trainer.accelerator", "cpu", "--trainer.log_every_n_steps", "1", "--optimizer.warmup_steps", "2"),
        *("--trainer.enable_progress_bar", "false", "--run.wandb", "disabled"),
    ]


@pytest.fixture(scope="session", autouse=True)
def _surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Folders of the tests' own, and files that need not survive a power cut."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        patch.setenv("BLOCKFORMER_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the runs of a test module lie in; a module that a worker comes back to gets another one."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def fit(arguments: list[str], runs: Path) -> Callable[..., Path]:
    """Run `blockformer fit` in this process and give the run's folder."""
    from blockformer.cli.fit import main

    def run(*more: str, name: str, given: list[str] = arguments) -> Path:
        status = main(["fit", *last_of_each([*given, "--run.root", str(runs), "--run.name", name, *more])])
        assert status == 0
        return runs / name

    return run


@pytest.fixture(scope="session")
def start() -> Callable[..., "subprocess.Popen[str]"]:
    """Start `blockformer` in a process of its own."""

    def begin(*arguments: str, **environment: str) -> "subprocess.Popen[str]":
        command = [
            sys.executable,
            "-m",
            "blockformer.cli.main",
            *(last_of_each(arguments) if arguments[0] == "fit" else arguments),
        ]
        paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        settings = {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths, "PYTHONUNBUFFERED": "1"}
        inherited = {
            key: value for key, value in os.environ.items() if not key.startswith(("WANDB", "BLOCKFORMER_RUN"))
        }
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL, "text": True}
        return subprocess.Popen(command, env=inherited | settings | environment, **pipes)

    return begin


@pytest.fixture(scope="session")
def together() -> "Callable[..., Together]":
    """Start the processes of one `blockformer` command as torchrun does, as forks of one that has loaded everything.

    Their number is that of `--trainer.devices`. What starts processes by itself is tested with ``start``.
    """
    from tests.together import Together

    def begin(*arguments: str, **environment: str) -> Together:
        return Together(last_of_each(arguments) if arguments[0] == "fit" else list(arguments), environment)

    return begin


@pytest.fixture
def registry_of_a_test(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """What is registered with this ``register`` is gone after the test, and in no recipe that another one draws."""
    monkeypatch.setattr(registration, "_ENTRIES", {slot: dict(named) for slot, named in registration._ENTRIES.items()})
    monkeypatch.setattr(registration, "_NAMES", dict(registration._NAMES))
    return register


@pytest.fixture(autouse=True)
def blocks_of_a_module(request: pytest.FixtureRequest) -> None:
    """Registers a test module's own ``BLOCKS``, classes by name, while one of its tests runs."""
    named = getattr(request.module, "BLOCKS", {})
    registering = request.getfixturevalue("registry_of_a_test") if named else None
    for name, block in named.items():
        assert registering is not None
        registering(name)(block)
