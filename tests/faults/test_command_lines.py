"""Random options and values for every command: a result, or one line that says what to change, in bounded time."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from types import FrameType

import pytest

from blockformer.cli.main import TRAINER, VERBS
from tests.faults.conftest import Answer

Run = Callable[..., Answer]
Tally = Callable[[str, str], None]
LONGEST = 90  # seconds
NUMBERS = (
    "0",
    "1",
    "-1",
    "2",
    "1.5",
    "1e9",
    "1e400",
    "nan",
    "inf",
    "-inf",
    "9" * 30,
    "9" * 5000,
    "0x10",
    "1_000",
    "٣",
    "True",
)
TEXTS = (
    "",
    " ",
    "x",
    "-",
    "--",
    "=",
    "\x1b[31m",
    "a\nb",
    "é",
    "\udcff",
    "x" * 5000,
    "../..",
    "/",
    "~",
    "%s",
    "{}",
    "a=b",
    "'",
    '"',
)
PLACES = (
    "/dev/null",
    "/dev/zero",
    "/proc/self/mem",
    "/nowhere",
    "/nowhere/x",
    ".",
    "/",
    "PIPE",
    "SPARSE",
    "TEXT",
    "FOLDER",
    "x" * 300,
)
RECIPES = ("tiny_decoder", "tiny_encoder", "tiny_encoder_decoder", "gpt2", "gpt3")
OVERRIDES = (
    *(
        "decoder.depth=1",
        "decoder.depth=",
        "decoder.depth=x",
        "=",
        "x",
        "dim=1e400",
        "decoder.layer.mixer.type=[a]",
        "dim=!!int x",
    ),
    *(
        "decoder.layer.mixer.heads=0",
        "a." * 300 + "=1",
        '"a.b"=1',
        "dim=" + "9" * 5000,
        "\x1b=1",
        "vocab_size=1000000000000",
    ),
)
OPTIONS: dict[str, dict[str, tuple[str, ...]]] = {
    "check": {"": RECIPES + PLACES, "--set": OVERRIDES},
    "show": {
        "": RECIPES + PLACES,
        "--set": OVERRIDES,
        "--format": ("tree", "json", "yaml", "svg", "diagram", "x"),
        "--memory": (),
        "--activations": (),
        "--batch": NUMBERS,
        "--length": NUMBERS,
        "--seed": NUMBERS,
        "--out": ("OUT.svg", *PLACES),
    },
    "diff": {
        "": RECIPES + PLACES + OVERRIDES,
        "--set": OVERRIDES,
        "--set-a": OVERRIDES,
        "--length": NUMBERS,
        "--format": ("text", "json", "markdown", "x"),
    },
    "blocks": {"": ("mixer", "norm/rms", "norm/", "/", "mixer/x", *TEXTS), "--format": ("text", "json", "x")},
    "runs": {
        "--root": ("RUN", "FOLDER", *PLACES, *TEXTS),
        "--where": OVERRIDES,
        "--sort": ("val/loss", *TEXTS),
        "--reverse": (),
        "--format": ("text", "json", "markdown", "x"),
    },
    "recipes": {"": ("gpt", *TEXTS), "--page": ("OUT.md", *PLACES), "--format": ("text", "json", "x")},
    "schema": {"--out": ("OUT.json", *PLACES), "--studies": ("OUT.json", *PLACES), "--reference": ("OUT", *PLACES)},
    "import": {"": PLACES + TEXTS, "--out": ("OUT", *PLACES), "--family": ("llama", *PLACES, *TEXTS), "--verify": ()},
    "export": {
        "": ("RUN", *PLACES, *TEXTS),
        "--to": ("hf", "x"),
        "--out": ("OUT", *PLACES),
        "--family": ("llama", *PLACES, *TEXTS),
        "--custom": (),
        "--dtype": ("float16", "x"),
        "--shard-size": (*NUMBERS, "5GB", "1KB", "x"),
        "--no-verify": (),
    },
    "generate": {
        "": ("RUN", "RUN", "RUN", *PLACES, *TEXTS),
        "--prompt": TEXTS[:2] + TEXTS[4:],
        "--prompts": PLACES,
        "--messages": PLACES,
        "--column": TEXTS,
        "--draft": ("RUN", *PLACES, *TEXTS),
        "--draft-tokens": NUMBERS,
        "--prompt-chunk": NUMBERS,
        "--max-new-tokens": NUMBERS,
        "--greedy": (),
        "--temperature": NUMBERS,
        "--top-k": NUMBERS,
        "--top-p": NUMBERS,
        "--seed": NUMBERS,
        "--beams": (*NUMBERS, "1000000"),
        "--length-penalty": NUMBERS,
        "--blank": TEXTS,
        "--device": ("cpu", "meta", "cuda:99", *TEXTS),
    },
    "evaluate": {
        "": ("RUN", *PLACES, *TEXTS),
        "--tasks": ("no_such_task", *TEXTS),
        "--include": ("FOLDER", *PLACES),
        "--examples": NUMBERS,
        "--limit": NUMBERS,
        "--batch-size": NUMBERS,
        "--device": ("cpu", "meta", "cuda:99", *TEXTS),
    },
    "explain": {
        "": ("RUN", "tiny_decoder", "tiny_encoder", "tiny_encoder_decoder", *PLACES, *TEXTS),
        "--text": TEXTS,
        "--source": TEXTS,
        "--out": ("OUT.html", *PLACES),
        "--language": ("en", "zh", "x"),
        "--compare": ("tiny_decoder", *PLACES, *TEXTS),
    },
    "plan": {
        "": RECIPES + PLACES,
        "--set": OVERRIDES,
        "--devices": NUMBERS,
        "--device": ("h100", "cpu", *TEXTS),
        "--memory": (*NUMBERS, "80GB", "1KB", "x"),
        "--batch": NUMBERS,
        "--length": NUMBERS,
        "--checkpointing": ("layer", "selective", "x"),
        "--sequence-parallel": (),
        "--format": ("text", "json", "x"),
    },
    "consolidate": {"": ("RUN", *PLACES, *TEXTS), "--out": ("OUT", *PLACES)},
    "average": {"": ("RUN", *PLACES, *TEXTS), "--out": ("OUT", *PLACES)},
    "merge": {"": ("RUN", *PLACES, *TEXTS), "--out": ("OUT", *PLACES)},
    "test-block": {
        "": ("norm/none", "norm/x", "x:y", "os", "os:path", "\x1b", "a" * 5000, "", "/", ":", "..x"),
        "--param": OVERRIDES,
        "--check": TEXTS,
        "--expect-failure": TEXTS,
        "--report": ("OUT.json", *PLACES),
        "--quick": (),
    },
    "conformance": {
        "--count": ("0", "-1", "x", "9" * 5000),
        "--seed": ("x", "1.5"),
        "--processes": ("0", "x", "9" * 5000),
    },
    "nothing": {"": TEXTS},
}


@pytest.fixture(scope="module")
def run(fit: Callable[..., Path]) -> Path:
    return fit("--trainer.max_steps", "1", name="for-command-lines")


@pytest.fixture
def places(tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What the names in capitals mean."""
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "sparse").open("wb") as stream:
        stream.truncate(20 * 2**30)
    (tmp_path / "text.yaml").write_text("some text\n")
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    names = {"PIPE": "pipe", "SPARSE": "sparse", "TEXT": "text.yaml", "FOLDER": "folder"}
    return {name: str(tmp_path / file) for name, file in names.items()} | {"RUN": str(run)}


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Interrupt what takes longer."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"more than {seconds} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def command_line(draw: Random, places: dict[str, str], number: int) -> list[str]:
    """A command with its argument and up to three options, most of them spelled right."""
    verb = draw.choice(list(OPTIONS))
    known = OPTIONS[verb]
    words = [verb]
    if "" in known and draw.random() < 0.95:
        words.append(known[""][0] if draw.random() < 0.4 else draw.choice(known[""]))
    for option in draw.sample(sorted(set(known) - {""}), min(draw.randrange(4), len(known) - 1)):
        values = known[option] if draw.random() < 0.8 or option == "--count" else (*NUMBERS, *TEXTS)  # no real counts
        words += [option] if not known[option] else [option, draw.choice(values)]
    if verb == "export" and draw.random() < 0.8:
        words += ["--to", "hf"]
    if verb == "conformance" and len(words) == 1:
        words += ["--count", "0"]
    if draw.random() < 0.1:
        words.insert(
            draw.randrange(1, len(words) + 1), draw.choice((*TEXTS, *NUMBERS, "--x", "-h", "--plugin", "--version"))
        )
    return [places.get(word, f"out{number}{word[3:]}" if word.startswith("OUT") else word) for word in words]


def test_every_command_is_tried() -> None:
    assert set(OPTIONS) - {"nothing"} | {*TRAINER, "compare"} == set(VERBS)  # those have tests of their own


def test_any_command_line_is_carried_out_or_refused_in_lines(
    places: dict[str, str], faults: int, answer: Run, tally: Tally, canary: Path
) -> None:
    for number in range(faults):
        draw = Random(f"command {number}")
        words = command_line(draw, places, number)
        with at_most(LONGEST):
            found = answer(*words)
        tally(words[0], {0: "done", 1: "failed", 2: "refused"}[found.status])
        assert found.problem is None, (words, found)
        assert found.status != 1 or words[0] in ("test-block", "export"), (words, found)
