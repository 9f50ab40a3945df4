"""Damaged and hostile recipes: one line for each problem, in bounded time, and nothing else is read or run."""

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml

from blockformer.assembly import check
from registry import RecipeError, builtin_recipes, load_recipe
from registry.errors import MOST_PROBLEMS
from tests.faults.conftest import RAW, Answer
from tests.faults.damage import damaged_bytes, damaged_values

Run = Callable[..., Answer]
Tally = Callable[[str, str], None]
EXTENDS = re.compile(r"^extends: ([\w.-]+?)(?:\.yaml)?$", re.M)
LONGEST = 60  # seconds of processor time
SNIPPETS = (
    *(
        "!!int abc",
        "!!python/object/apply:os.system [id]",
        "&a [*a]",
        "*nowhere",
        "<<: {a: 1}",
        "? [a]",
        "- a",
        "{",
        '"',
    ),
    *(
        "\x1b[31m",
        '"\\e[2J"',
        '"\\ud800"',
        "\t",
        "\u2028",
        "\ufeff",
        "9" * 5000,
        ".inf",
        "1e400",
        "0x" + "f" * 400,
        "---",
    ),
    *(
        "a: a: a",
        "%TAG ! !",
        "'",
        "|",
        ">",
        "null",
        "~",
        "x" * 5000,
        "[" * 300,
        "extends: /dev/zero",
        "like: a",
        "{{}}",
    ),
)
VALUES = (
    *(
        None,
        True,
        -1,
        0,
        1,
        3,
        10**9,
        10**18,
        2**63,
        2**70,
        0.0,
        1e-30,
        1e30,
        1e39,
        float("inf"),
        float("nan"),
        "",
        "x",
    ),
    *("\x1b[31m", "../..", "none", "rms", [], {}, [[]], ["a"], {"a": 1}, {"type": ["a"]}, {"type": "rms"}, "x" * 3000),
)


def names() -> list[str]:
    return sorted(builtin_recipes())


def answered(file: Path) -> str:
    """How a recipe is answered: ``valid``, or ``refused`` with lines that a terminal can be given."""
    begin = time.process_time()
    found = refusal(lambda: check(load_recipe(file)))
    assert time.process_time() - begin < LONGEST
    return "valid" if found is None else "refused"


def refusal(call: Callable[[], object]) -> str | None:
    """The error of a call, checked for what no error may contain; None: there is none."""
    try:
        call()
    except RecipeError as error:
        found = str(error)
    else:
        return None
    assert found
    assert not RAW.search(found)
    assert len(found.splitlines()) <= MOST_PROBLEMS + 1
    assert all(len(line) < 2000 for line in found.splitlines())
    return found


def changed_text(text: str, draw: Random) -> str:
    """A recipe's text with a line removed, doubled, indented or moved, or something strange in it."""
    lines = text.splitlines()
    at = draw.randrange(len(lines))
    match draw.choice(["removed", "doubled", "indented", "swapped", "inserted", "value", "value"]):
        case "removed":
            del lines[at]
        case "doubled":
            lines.insert(at, lines[at])
        case "indented":
            lines[at] = " " * draw.randrange(1, 5) + lines[at]
        case "swapped":
            other = draw.randrange(len(lines))
            lines[at], lines[other] = lines[other], lines[at]
        case "inserted":
            place = draw.randrange(len(lines[at]) + 1)
            lines[at] = lines[at][:place] + draw.choice(SNIPPETS) + lines[at][place:]
        case _:
            lines[at] = lines[at].partition(":")[0] + ": " + draw.choice(SNIPPETS)
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("kind", ["bytes", "text", "values", "numbers"])
def test_any_change_of_a_recipe_is_valid_or_refused_in_lines(
    kind: str, tmp_path: Path, faults: int, tally: Tally
) -> None:
    file = tmp_path / "changed.yaml"
    for number in range(faults):
        draw = Random(f"{kind} {number}")
        path = builtin_recipes()[draw.choice(names())]
        content = EXTENDS.sub(r"extends: \1", path.read_text()).encode()  # by name, as the changed file lies elsewhere
        match kind:
            case "bytes":
                content = damaged_bytes(content, draw)[1]
            case "text":
                content = changed_text(content.decode(), draw).encode("utf-8", "surrogatepass")
            case _:
                tree = load_recipe(path).dump() if draw.random() < 0.3 else yaml.safe_load(content)
                tree = other_numbers(tree, draw) if kind == "numbers" else damaged_values(tree, draw)[1]
                content = yaml.safe_dump(tree, allow_unicode=False).encode()
        file.write_bytes(content)
        tally(f"recipe: {kind}", answered(file))


def other_numbers(tree: Any, draw: Random) -> Any:
    """Nested data in which one or all whole numbers are another one."""
    everywhere = draw.random() < 0.3
    number = draw.choice([0, -1, 1, 2, 7, 10**4, 10**6, 10**9, 10**18, 2**63 - 1])

    def changed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: changed(item) for key, item in value.items()}
        if isinstance(value, list):
            return [changed(item) for item in value]
        if type(value) in (int, float) and (everywhere or draw.random() < 0.1):
            return number
        return value

    return changed(tree)


def test_any_override_is_applied_or_refused_in_lines(faults: int, tally: Tally) -> None:
    for number in range(faults):
        draw = Random(f"override {number}")
        name = draw.choice(["tiny_decoder", "tiny_encoder", "tiny_encoder_decoder"])
        paths = list(_paths(load_recipe(name).dump()))
        path = draw.choice(paths)
        if draw.random() < 0.2:
            path += draw.choice([".x", "..", ".0", ".-1", '."', ".'a.b'", "\x1b", ".type", ".like", ".extends"])
        value = yaml.safe_dump(draw.choice(VALUES), default_flow_style=True).removesuffix("...\n").strip()
        if draw.random() < 0.3:
            value = draw.choice(SNIPPETS)
        found = refusal(lambda name=name, text=f"{path}={value}": check(load_recipe(name, [text])))
        tally("override", "applied" if found is None else "refused")


def _paths(tree: Any, path: str = "") -> Any:
    for key, value in tree.items() if isinstance(tree, dict) else ():
        here = f"{path}.{key}" if path else key
        yield here
        yield from _paths(value, here)


@pytest.mark.parametrize("command", ["check", "show", "diff"])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "sparse", "binary", "private"])
def test_what_is_no_recipe_file_is_refused_at_once(
    kind: str, command: str, tmp_path: Path, canary: Path, answer: Run
) -> None:
    file = tmp_path / "r.yaml"
    match kind:
        case "pipe":
            os.mkfifo(file)
        case "device":
            file.symlink_to("/dev/zero")
        case "folder":
            file.mkdir()
        case "sparse":
            with file.open("wb") as stream:
                stream.truncate(20 * 2**30)
        case "binary":
            file.write_bytes(bytes(range(256)))
        case _:
            file.symlink_to(canary)
    found = answer(command, file, *(["tiny_decoder"] if command == "diff" else []))
    assert (found.status, found.problem, len(found.err.splitlines())) == (2, None, 1)
    assert "the canary sings" not in found.out + found.err


@pytest.mark.parametrize("base", ["CANARY", "/dev/zero", "PIPE", ".", "..", "/etc/passwd", "a\0b", "x" * 5000])
def test_extends_reads_recipes_only(base: str, tmp_path: Path, canary: Path, answer: Run) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    base = base.replace("CANARY", str(canary)).replace("PIPE", "pipe.yaml")
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({"extends": base}))
    found = answer("check", tmp_path / "r.yaml")
    assert (found.status, found.problem, len(found.err.splitlines())) == (2, None, 1)
    assert "the canary sings" not in found.out + found.err
    assert "root:" not in found.err


def test_a_recipe_imports_nothing_and_runs_nothing(
    tmp_path: Path, answer: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    touched = tmp_path / "touched"
    (tmp_path / "evil.py").write_text(f"open({str(touched)!r}, 'w').close()")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for text in (
        f"!!python/object/apply:os.system ['touch {touched}']",
        "type: decoder_only\nplugin: evil\n",
        "type: evil\n",
        "type: evil.Model\n",
        "class_path: evil.Model\n",
        "extends: evil\n",
        "type: decoder_only\ndecoder: {class_path: evil.Model}\n",
        f"type: decoder_only\ndim: !!python/name:os.system {touched}\n",
    ):
        (tmp_path / "r.yaml").write_text(text)
        found = answer("check", tmp_path / "r.yaml")
        assert (found.status, found.problem) == (2, None)
    assert not touched.exists()


def test_names_with_escapes_are_printed_by_no_command(tmp_path: Path, answer: Run) -> None:
    file = tmp_path / "a\x1b[31m\nfake: ok.yaml"
    file.write_text("extends: tiny_decoder\n")
    for command in (["check", file], ["show", file], ["diff", file, "tiny_decoder"], ["show", file, "--format", "svg"]):
        found = answer(*command)
        assert found.problem is None
        assert "\x1b" not in found.out
        assert "\nfake" not in found.out
