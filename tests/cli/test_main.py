"""The command line as its user meets it: fast, and one clear line for every mistake."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import blocks  # noqa: F401  (so that their registration outlives a test)
from blockformer.cli.main import MODULES, TRAINER, VERBS, main

ROOT = Path(__file__).parents[2]
BLOCKFORMER = [
    sys.executable,
    "-P",
    "-m",
    "blockformer.cli.main",
]  # -P: like a console script, without the working directory
ALONE = [verb for verb in VERBS if verb not in TRAINER]
LIGHT = [
    ("check", "gpt2"),
    ("show", "gpt2"),
    ("show", "tiny_decoder", "--memory"),
    ("show", "tiny_decoder", "--activations"),
    ("show", "gpt2", "--format", "svg"),
    ("diff", "gpt2", "bert_base"),
    ("blocks",),
    ("recipes",),
    ("runs", "--root", "docs"),
    ("schema",),
    ("test-block", "norm/none", "--quick"),
]
PLUGIN = """
from blocks.base import Norm, Site
from registry import register

@register("twice")
class Twice(Norm):
    \"\"\"2x.\"\"\"

    def __init__(self, site: Site) -> None:
        super().__init__(site)

    def forward(self, x):
        return 2 * x
"""


def command(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    whole = [*BLOCKFORMER, *arguments]
    return subprocess.run(whole, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def first_to_import(names: set[str], commands: Sequence[Sequence[str]]) -> str:
    """The first of several commands, run in one process, after which one of these packages is loaded; none: empty."""
    program = (
        "import sys\nfrom blockformer.cli.main import main\nfound = ''\n"
        f"for command in {[list(command) for command in commands]!r}:\n"
        "    try:\n        main(command)\n    except SystemExit:\n        pass\n"
        f"    found = found or (' '.join(command) if {names!r} & set(sys.modules) else '')\n"
        "print('\\n' + found)"
    )
    answer = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    return answer.stdout.splitlines()[-1]


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a refused command prints to stderr, which must be one line."""
    try:
        status = main(arguments)
    except SystemExit as left:
        status = left.code
    output = capsys.readouterr()
    assert (status, output.out) == (2, "")
    (line,) = output.err.splitlines()
    return line


def test_help_imports_nothing_heavy() -> None:
    every = [("--help",), ("--version",), *((verb, "--help") for verb in VERBS)]
    assert not first_to_import({"torch", "lightning", "wandb", "pydantic"}, every)


def test_help_answers_within_half_a_second() -> None:
    def seconds() -> float:  # of the command alone, so that other programs do not count
        before = os.times()
        command("--help")
        after = os.times()
        return after.children_user - before.children_user + after.children_system - before.children_system

    assert min(seconds() for _ in range(3)) < 0.5


@pytest.mark.slow
def test_light_commands_import_neither_lightning_nor_wandb() -> None:
    assert first_to_import({"torch"}, LIGHT[:1]) == "check gpt2"  # so it would be noticed
    assert not first_to_import({"lightning", "wandb", "transformers"}, LIGHT)


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    assert all(f"\n  {verb} " in text for verb in VERBS)


@pytest.mark.parametrize("verb", ALONE)
def test_every_command_has_a_module(verb: str) -> None:
    assert callable(import_module(f"blockformer.cli.{MODULES.get(verb, verb)}").main)


def test_without_a_command_the_help_stands_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("usage: blockformer")


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (["chek"], "there is no command 'chek'; did you mean 'check'?"),
        (["nothing-like-it"], "there is no command 'nothing-like-it'; known: fit,"),
        (["check"], "blockformer check: the following arguments are required: RECIPE"),
        (["check", "gpt2", "--sett", "a=1"], "unrecognized arguments: --sett"),
        (["show", "gpt2", "--lenght", "8"], "unrecognized arguments: --lenght 8; did you mean --length?"),
        (["show", "gpt2", "--format", "json", "--format=text"], "--format is given twice: give it once"),
        (["show", "gpt2", "--memory", "--memory"], "--memory is given twice"),
        (["check", "gpt2", "--set", "dim=8", "--set", "dim=16"], "--set dim is given twice: give it once"),
        (["diff", "gpt2", "--set-a", "dim=8", "--set-a", "dim=16"], "--set-a dim is given twice: give it once"),
        (["test-block", "norm/rms", "--param", "eps=1", "--param", "eps=2"], "--param eps is given twice"),
        (["show", "gpt2", "--format", "xml"], "invalid choice: 'xml'"),
        (["blocks", "nrom"], "no slot is called 'nrom'; did you mean 'norm'?"),
        (["blocks", "/rms"], "no slot is called ''; known: activation,"),
        (["blocks", "norm/rsm"], "no norm is called 'rsm'; did you mean 'rms'?"),
        (["show", "gtp2"], "there is no built-in recipe of this name; did you mean 'gpt2'?"),
        (["show", "gpt2", "--set", "dim"], "override dim: must have the form key.key=value"),
        (["show", "gpt2", "--set", "decoder.dept=2"], "did you mean 'depth'?"),
        (["schema", "--out", "/dev/null/schema.json"], "cannot write /dev/null/schema.json: "),
        (["--plugin", "no_such_module", "blocks"], "plug-in 'no_such_module' cannot be loaded: ModuleNotFoundError"),
        (["--plugin", "own.py", "blocks"], "plug-in 'own.py' is a file: give its module, 'own'"),
        (["--plugin", "own/norms.py", "blocks"], "plug-in 'own/norms.py' is a file: give its module, 'own.norms'"),
        (["blocks", "attention"], "'attention' is not a slot but a block: `blockformer blocks mixer/attention`"),
        (["blocks", "mixer/att"], "no mixer is called 'att'; did you mean 'attention'?"),
        (["blocks", "--plugin"], "--plugin needs the name of a module"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_answered_with_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], answer: str
) -> None:
    assert answer in refused(capsys, *arguments)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["before", "after"])
def test_a_plug_in_from_the_working_directory_adds_its_blocks(tmp_path: Path, place: str) -> None:
    (tmp_path / "my_norms.py").write_text(PLUGIN)
    plugin, rest = ["--plugin", "my_norms"], ["check", "gpt2", "--set", "decoder.norm=twice"]
    answer = command(*(plugin + rest if place == "before" else rest + plugin), folder=tmp_path)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert answer.stdout.startswith("gpt2: ok")


@pytest.mark.slow
def test_a_plug_in_that_is_installed_is_loaded_without_being_named(tmp_path: Path) -> None:
    (tmp_path / "their_norms.py").write_text(PLUGIN)
    metadata = tmp_path / "their_norms-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: their-norms\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[blockformer.blocks]\nnorms = their_norms\n")
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    whole = [*BLOCKFORMER, "blocks", "norm/twice"]
    answer = subprocess.run(whole, env=environment, capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert "2x." in answer.stdout


@pytest.mark.slow
def test_a_recipe_names_no_module(tmp_path: Path) -> None:
    (tmp_path / "my_norms.py").write_text(PLUGIN + "\nprint('imported')\n")
    (tmp_path / "r.yaml").write_text("type: decoder_only\ndecoder: {norm: my_norms.Twice}\n")
    answer = command("check", "r.yaml", folder=tmp_path)
    assert answer.returncode == 2
    assert "imported" not in answer.stdout


@pytest.mark.slow
def test_a_closed_pipe_is_quiet() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    answer = subprocess.run(
        [*BLOCKFORMER, "schema"], cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writer)
    assert (answer.returncode, answer.stderr) == (141, "")


SLOW = "import time\nopen('started', 'w').close()\ntime.sleep(60)\n"


def slow_command(tmp_path: Path, plugin: str = SLOW, **streams: Any) -> "subprocess.Popen[str]":
    """A command that has begun to import a slow plug-in."""
    (tmp_path / "slow.py").write_text(plugin)
    running = subprocess.Popen(
        [*BLOCKFORMER, "--plugin", "slow", "blocks"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
        **streams,
    )
    while not (tmp_path / "started").exists():
        time.sleep(0.05)
        assert running.poll() is None
    return running


@pytest.mark.parametrize("module", ["registry", "blockformer.signals", "blockformer.cli.main"])
def test_ctrl_c_while_the_command_is_loaded_shows_no_traceback(module: str, tmp_path: Path) -> None:
    script = tmp_path / "blockformer"
    script.write_text(
        "import os, signal, sys\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {module!r}:\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        "from blockformer.cli.main import main\n"
        "sys.exit(main())\n"
    )
    done = subprocess.run(
        [sys.executable, str(script), "show", "tiny_decoder"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    handled = module == "blockformer.cli.main"  # before that it ends as any program does
    expected = (130, "blockformer: stopped by SIGINT\n") if handled else (-signal.SIGINT, "")
    assert (done.returncode, done.stderr) == expected


def test_ctrl_c_stays_ignored_where_it_is(tmp_path: Path) -> None:
    """As in the background of a shell's script."""
    script = tmp_path / "blockformer"
    script.write_text("import signal, blockformer.cli.main\nprint(signal.getsignal(signal.SIGINT).name)\n")
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    assert done.stdout == "SIG_IGN\n"


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_is_answered_with_one_line_and_its_status(name: str, tmp_path: Path) -> None:
    running = slow_command(tmp_path)
    running.send_signal(getattr(signal, name))
    _, errors = running.communicate(timeout=30)
    assert (running.returncode, errors) == (128 + getattr(signal, name), f"blockformer blocks: stopped by {name}\n")


@pytest.mark.parametrize(
    "caught", ["try:\n    time.sleep(60)\nexcept BaseException:\n    time.sleep(60)\n", "time.sleep(0)\n"]
)
def test_a_signal_stops_a_command_although_other_code_catches_its_exception(caught: str, tmp_path: Path) -> None:
    hidden = "class Hidden:\n    def __del__(self):\n        time.sleep(2)\nHidden()\n"  # Python raises nothing there
    running = slow_command(tmp_path, f"import time\nopen('started', 'w').close()\n{hidden}{caught}time.sleep(60)\n")
    running.send_signal(signal.SIGTERM)
    _, errors = running.communicate(timeout=30)
    assert (running.returncode, errors) == (143, "blockformer blocks: stopped by SIGTERM\n")


def test_a_second_signal_ends_a_command_at_once(tmp_path: Path) -> None:
    holds = "while True:\n    try:\n        time.sleep(60)\n    except BaseException:\n        pass\n"
    running = slow_command(tmp_path, f"import time\nopen('started', 'w').close()\n{holds}")
    running.send_signal(signal.SIGINT)
    time.sleep(0.5)
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=30)
    assert (running.returncode, errors) == (130, "blockformer blocks: stopped by SIGINT again, at once\n")


def test_a_command_ignores_the_signals_that_its_parent_ignores(tmp_path: Path) -> None:
    program = "import signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    program += "from blockformer.cli.main import main\nimport os\n"
    program += "import blockformer.cli.schema as schema\n"
    program += "schema.main = lambda _: (os.kill(os.getpid(), signal.SIGHUP), 0)[1]\nsys.exit(main(['schema']))"
    answer = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stderr) == (0, "")


@pytest.mark.slow
def test_closed_streams_are_no_error() -> None:
    line = f"{' '.join(BLOCKFORMER)} show tiny_decoder >&- 2>&- <&-"
    answer = subprocess.run(["sh", "-c", line], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
    assert answer.returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("buffered", [True, False])
def test_a_full_disk_behind_standard_output_is_named(buffered: bool) -> None:
    environment = {**os.environ, "PYTHONUNBUFFERED": "" if buffered else "1"}
    with Path("/dev/full").open("w") as full:
        answer = subprocess.run(
            [*BLOCKFORMER, "blocks"],
            cwd=ROOT,
            env=environment,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert answer.returncode == 1
    assert "No space left on device" in answer.stderr
    assert len(answer.stderr.splitlines()) == 1


BROKEN = """
from blocks.base import Norm, Site
from registry import register

@register("broken")
class Broken(Norm):
    \"\"\"Cannot be built.\"\"\"

    def __init__(self, site: Site) -> None:
        raise RuntimeError("the table\\nis missing")

    def forward(self, x):
        return x
"""


@pytest.mark.usefixtures("registry_of_a_test")
@pytest.mark.parametrize("verb", ["check", "show", "diff", "fit"])
def test_an_error_in_a_plug_in_is_one_line_and_debug_shows_where(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my_broken_norms.py").write_text(BROKEN)
    (tmp_path / "mine.yaml").write_text("extends: tiny_decoder\ndecoder: {norm: broken}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_broken_norms", raising=False)
    given = ["mine.yaml", "gpt2"] if verb == "diff" else ["--recipe", "mine.yaml"] if verb == "fit" else ["mine.yaml"]
    command = [verb, "--plugin", "my_broken_norms", *given]
    assert main(command) == 1
    line = (
        f"blockformer {verb} failed; this is a bug: RuntimeError: the table is missing, "
        "while building norm 'broken', at decoder.norm; --debug shows where\n"
    )
    assert capsys.readouterr().err == line
    for place in (0, len(command)):
        assert main([*command[:place], "--debug", *command[place:]]) == 1
        traceback, *_, last = capsys.readouterr().err.splitlines()
        assert traceback == "Traceback (most recent call last):"
        assert last == line.removesuffix("; --debug shows where\n")


@pytest.mark.parametrize(
    "command", [("check", "gtp2"), ("show", "gtp2"), ("fit", "--recipe", "gtp2"), ("generate", "nowhere")]
)
def test_debug_shows_where_the_users_mistake_was_found(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command) == 2
    line = capsys.readouterr().err
    assert main([*command, "--debug"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("Traceback")
    assert told.endswith(line)


def test_an_unexpected_error_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(_: object) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr("blockformer.cli.check.main", broken)
    assert main(["check", "gpt2"]) == 1
    assert (
        capsys.readouterr().err == "blockformer check failed; this is a bug: ZeroDivisionError; --debug shows where\n"
    )


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "blockformer check failed: not enough memory"),
        (OSError(28, "No space left on device", "a.txt"), "blockformer check failed: a.txt: No space left on device"),
    ],
)
def test_a_machine_at_its_limit_is_no_bug(
    error: Exception, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_: object) -> int:
        raise error

    monkeypatch.setattr("blockformer.cli.check.main", broken)
    assert main(["check", "gpt2"]) == 1
    assert capsys.readouterr().err == f"{said}\n"


@pytest.mark.parametrize(
    "error", [PermissionError(13, "Permission denied", "a"), OSError(36, "File name too long", "a")]
)
def test_a_path_that_cannot_be_read_is_the_users_to_correct(
    error: OSError, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_: object) -> int:
        raise error

    monkeypatch.setattr("blockformer.cli.check.main", broken)
    assert main(["check", "gpt2"]) == 2
    assert capsys.readouterr().err == f"blockformer check failed: a: {error.strerror}\n"


@pytest.mark.parametrize(
    "words",
    [
        ["explain", "MINE", "--text", "cat", "--out", "MINE"],
        ["show", "MINE", "--format", "svg", "--out", "MINE"],
        ["schema", "--out", "MINE"],
        ["schema", "--studies", "MINE"],
        ["recipes", "--page", "MINE"],
        ["evaluate", "runs/none", "--tasks", "x", "--out", "MINE"],
        ["conformance", "--count", "1", "--out", "MINE"],
        ["compare", "MINE", "tiny_wide", "--sweep", "MINE"],
        ["find-lr", "--recipe", "MINE", "--out", "MINE"],
        ["test-block", "norm/rms", "--report", "MINE"],
        ["average", "runs/a", "runs/b", "--out", "MINE"],
    ],
    ids=lambda words: f"{words[0]} {words[-2]}",
)
def test_no_command_replaces_a_file_of_another_kind(words: list[str], tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("extends: tiny_decoder\n")
    with contextlib.suppress(SystemExit):
        assert main([str(mine) if word == "MINE" else word for word in words]) == 2
    assert mine.read_text() == "extends: tiny_decoder\n"
