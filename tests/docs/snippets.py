"""Run what the documentation shows.

A page is one story: its snippets run in order, in one empty folder.

* ```yaml is a whole recipe and must check without a problem. With title="name.yaml" it is saved under that name first.
* ```python runs; with a title it is saved only, for later snippets to import.
* ```bash runs and must succeed. ```console has `$ command` lines, each followed by exactly what it prints; `...` stands
  for anything, and where nothing follows the command must succeed. `make TARGET` is not run; it must exist.
* ```toml and ```json must parse, and so must the formulas in ```formula. ```text is not looked at.

A comment right above a snippet says that it is something else:

* `<!-- fragment of RECIPE at KEY -->`: the YAML is laid over that place of a recipe, installed or of this page.
* `<!-- wrong -->`: a recipe that is meant to be wrong. `<!-- settings -->`: YAML that is no recipe.
* `<!-- not run: REASON -->`.

What trains, validates, generates, imports or exports, and what runs a suite, runs with the slow tests only, as does
all that follows it on the page.

On Linux, `blockformer` commands without shell syntax are forks of one process that has loaded the packages, as the
runs of a study are: loading takes several times as long as such a run trains. Others are started by bash. Runs are
logged to W&B only if their command asks for it.

`python -m tests.docs.snippets PAGE...` writes the present output into a page's ```console snippets.
"""

import atexit
import contextlib
import functools
import io
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import torch

import blockformer as bf
import blockformer.training.lightning_cli
import registry
from blockformer.cli.main import main
from blockformer.studies.processes import Server
from registry.formula import mathml
from registry.strict_yaml import parse_text

ROOT = Path(__file__).parents[2]
FENCE = re.compile(
    r"^(?:<!-- (?P<mark>[^\n]*) -->\n)?```(?P<language>\w+)(?P<info>[^\n]*)\n(?P<code>.*?)^```$", re.M | re.S
)
IN_PROCESS = {"check", "show", "diff", "blocks", "schema", "import", "export"}
_LONG = "compare|evaluate|find-lr|fit|validate|test|predict|generate|import|export|test-block"
SLOW = re.compile(rf"^(?:\$ )?(?:blockformer (?:{_LONG})\b(?!.*--help)|python -m pytest)", re.M)
QUOTED = re.compile(r"""'[^']*'|"[^"$`]*\"""")
SHELL = re.compile(r"[|&;<>$`*?~]")
LANGUAGES = {"yaml", "python", "bash", "console", "toml", "json", "formula", "text"}


@dataclass(frozen=True)
class Snippet:
    """One fenced block: its language, the comment above it, its title, its text, and its first line in the page."""

    language: str
    mark: str
    title: str
    code: str
    line: int

    @property
    def slow(self) -> bool:
        """Whether it trains or uses what was trained."""
        return bool(SLOW.search(self.code)) and not self.mark.startswith("not run: ")


def snippets(text: str) -> list[Snippet]:
    """Every fenced block of a page.

    Raises:
        ValueError: a fence is written in a way that would not be recognised, or its language is unknown.
    """
    found = list(FENCE.finditer(text))
    if 2 * len(found) != len(re.findall(r"^\s*```", text, re.M)):
        raise ValueError("every fence must start its line and name its language")
    result: list[Snippet] = []
    for match in found:
        if match["language"] not in LANGUAGES:
            raise ValueError(f"unknown language {match['language']}")
        title = re.search(r'title="([^"]*)"', match["info"])
        line = text.count("\n", 0, match.start("code")) + 1
        result.append(Snippet(match["language"], match["mark"] or "", title[1] if title else "", match["code"], line))
    return result


class Page:
    """The folder in which one page's snippets run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        tools = folder / ".bin"
        tools.mkdir()
        for name, arguments in (("blockformer", "-P -m blockformer.cli.main"), ("python", "")):
            (tools / name).write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {arguments} "$@"\n')
            (tools / name).chmod(0o755)
        path = f"{tools}{os.pathsep}{os.environ['PATH']}"
        self.environment = {**_environment(), "PATH": path, "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"}

    def check(self, snippet: Snippet) -> None:
        """Run or read a snippet.

        Raises:
            AssertionError: it does not do what the page says.
        """
        if snippet.mark.startswith("not run: "):
            return
        if snippet.title:
            (self.folder / snippet.title).write_text(snippet.code)
        if check := getattr(self, f"_{snippet.language}", None):
            check(snippet)

    def _python(self, snippet: Snippet) -> None:
        if snippet.title:
            return
        own = "|".join(path.stem for path in self.folder.glob("*.py"))
        registers = re.search(rf"\b(?:register\w*{own and '|' + own})\b", snippet.code)
        if "blockformer" in snippet.code and not registers:  # everything is loaded here, and it changes nothing
            program = self.folder / f".line{snippet.line}"
            program.write_text(snippet.code)
            with contextlib.chdir(self.folder), patch.dict(os.environ, self.environment), _captured():
                runpy.run_path(str(program), run_name="__main__")
        else:
            answer = self._run([sys.executable, "-c", snippet.code])
            assert answer.returncode == 0, answer.stdout

    def _bash(self, snippet: Snippet) -> None:
        for command in commands(snippet.code):
            status, printed = self.run(command)
            assert status == 0, f"$ {command}\n{printed}"

    def _console(self, snippet: Snippet) -> None:
        for command, expected in conversation(snippet.code):
            status, printed = self.run(command)
            assert agrees(expected, printed) if expected else status == 0, f"$ {command}\n{printed}"

    def _toml(self, snippet: Snippet) -> None:
        tomllib.loads(snippet.code)

    def _json(self, snippet: Snippet) -> None:
        json.loads(snippet.code)

    def _formula(self, snippet: Snippet) -> None:
        mathml(snippet.code)

    def _yaml(self, snippet: Snippet) -> None:
        tree = parse_text(snippet.code, f"line {snippet.line}")
        if fragment := re.fullmatch(r"fragment of (\S+) at (\S+)", snippet.mark):
            name, place = fragment.groups()
            own = self.folder / name
            changes = {f"{place}.{key}": value for key, value in tree.items()}
            bf.check(registry.load_recipe(own if own.exists() else name, changes))
        elif snippet.mark not in ("wrong", "settings"):
            path = self.folder / (snippet.title or f"line{snippet.line}.yaml")
            path.write_text(snippet.code)
            bf.check(registry.load_recipe(path))

    def run(self, command: str) -> tuple[int, str]:
        """The status of a shell command, and what it prints to stdout and stderr."""
        words = shlex.split(command, comments=True)
        if words[0] == "make":
            targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
            assert {word for word in words[1:] if "=" not in word} <= set(targets), f"no such target: {command}"
            return 0, ""
        if words[0] == "blockformer" and not needs_shell(command):
            if words[1] in IN_PROCESS and "--plugin" not in words:
                return self._in_process(words[1:])
            worth_it = SLOW.match(command) or _server.cache_info().currsize  # light commands use it if it is there
            if worth_it and sys.platform == "linux" and not torch.cuda.is_available():
                return self._forked(words[1:])
        answer = self._run(["bash", "-c", command])
        return answer.returncode, answer.stdout

    def _in_process(self, words: list[str]) -> tuple[int, str]:
        with contextlib.chdir(self.folder), _captured() as output:
            try:
                return main(words), output.getvalue()
            except SystemExit as left:
                return int(left.code or 0), output.getvalue()

    def _forked(self, words: list[str]) -> tuple[int, str]:
        with tempfile.TemporaryFile() as log:
            with contextlib.chdir(self.folder):
                begun = _server().begin(words, self.environment, log, ())
            status = begun().wait()
            log.seek(0)
            return status, _cleaned(log.read().decode())

    def _run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        answer = subprocess.run(command, cwd=self.folder, env=self.environment, text=True, check=False, **both)
        answer.stdout = _cleaned(answer.stdout)
        return answer


@contextlib.contextmanager
def _captured() -> Iterator[io.StringIO]:
    """What is printed to stdout and stderr meanwhile."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        yield output


def _environment() -> dict[str, str]:
    return {**os.environ, "WANDB_MODE": "disabled", "COLUMNS": "120", "PYTHONWARNINGS": "ignore"}


@functools.cache
def _server() -> Server:
    """The process that is forked."""
    server = Server({**_environment(), "PYTHONPATH": str(ROOT)})
    atexit.register(server.close)
    return server


def _cleaned(printed: str) -> str:
    """What a command printed, without the lines that appear every ten seconds on a slow machine only."""
    return re.sub(r"^loading libraries \.\.\..*\n", "", printed, flags=re.M)


def commands(code: str) -> list[str]:
    """The commands of a ```bash snippet, one a line unless a backslash joins them."""
    return [line for line in code.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]


def conversation(code: str) -> Iterator[tuple[str, str]]:
    """The commands of a ```console snippet, each with what it should print."""
    for part in re.split(r"^\$ ", code, flags=re.M)[1:]:
        command, _, expected = re.sub(r"\\\n(?:> )?", " ", part).partition("\n")
        yield command, expected


def needs_shell(command: str) -> bool:
    """Whether bash does more with a line than divide it into words."""
    return SHELL.search(QUOTED.sub("", command)) is not None


def agrees(expected: str, printed: str) -> bool:
    """Whether the output is the expected one; ``...`` stands for anything."""
    fixed = map(re.escape, expected.strip().split("..."))
    return re.fullmatch(".*".join(fixed), printed.strip(), flags=re.S) is not None


def rewritten(text: str, folder: Path) -> str:
    """The page with present outputs in its ```console snippets without ``...``, up to the first that trains."""
    page = Page(folder)
    for snippet in snippets(text):
        if snippet.slow:
            break
        if snippet.language != "console" or "..." in snippet.code or snippet.mark:
            page.check(snippet)
            continue
        said = "".join(f"$ {command}\n{page.run(command)[1]}" for command, _ in conversation(snippet.code))
        text = text.replace(f"```console\n{snippet.code}```", f"```console\n{said}```")
    return text


if __name__ == "__main__":
    for name in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as temporary:
            changed = rewritten(Path(name).read_text(), Path(temporary))
        Path(name).write_text(changed)
