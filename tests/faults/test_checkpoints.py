"""Damaged, malformed and malicious checkpoints, tokenizers and imported folders."""

import re
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor

import blockformer as bf
from blockformer.assembly.checkpoint import LoadError, model_weights, read_checkpoint, read_metadata
from blockformer.assembly.imported_folder import RECIPE, write_imported
from blockformer.data.options import DATA
from blockformer.data.tokenizers import stored
from blockformer.data.tokenizers.base import GivenTokenizer
from blockformer.errors import UserError
from blockformer.generation.text_model import TextModel
from blockformer.training.fit_arguments import Given, fit_arguments
from registry import RecipeError
from tests.faults.damage import damaged_bytes, damaged_values

Tally = Callable[[str, str], None]


@pytest.fixture(scope="module")
def run(fit: Callable[..., Path]) -> Path:
    return fit("--trainer.max_steps", "2", "--trainer.val_check_interval", "1", name="for-damages")


@pytest.fixture(scope="module")
def whole(run: Path) -> dict[str, Any]:
    return read_checkpoint(run / "checkpoints" / "last.ckpt")


def attempt(call: Callable[[], Any]) -> tuple[Any, str | None]:
    """The result of a call, or the message of its refusal."""
    try:
        return call(), None
    except (UserError, RecipeError) as error:
        return None, str(error)


def known(tensor: Tensor) -> Tensor:
    """The tensor with 0 for NaN, which equals nothing."""
    return torch.where(tensor.isnan(), 0, tensor)


def same(one: Any, other: Any) -> bool:
    """Whether nested values and tensors are equal."""
    if isinstance(one, Tensor):
        return (
            isinstance(other, Tensor)
            and torch.equal(one.isnan(), other.isnan())
            and torch.equal(known(one), known(other))
        )
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same(*pair) for pair in zip(one, other, strict=True))
    return one == other


def test_any_damage_of_a_checkpoint_is_refused_in_one_line_or_changes_nothing(
    run: Path, whole: dict[str, Any], tmp_path: Path, faults: int, tally: Tally
) -> None:
    content = (run / "checkpoints" / "last.ckpt").read_bytes()
    path = tmp_path / "damaged.ckpt"
    for number in range(faults):
        kind, changed = damaged_bytes(content, Random(number))
        path.write_bytes(changed)
        read, wanted = (read_metadata, whole["blockformer"]) if number % 4 == 0 else (read_checkpoint, whole)
        found, refusal = attempt(partial(read, path))
        if refusal is None:
            assert same(found, wanted), f"damage {number} ({kind}) changed the content"
        else:
            assert refusal.startswith(str(path))
            assert "\n" not in refusal
        tally("checkpoint", "refused" if refusal else "without effect")


def test_a_flipped_bit_of_a_weight_is_refused_and_the_other_checkpoint_named(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "checkpoints", tmp_path / "checkpoints")
    path = tmp_path / "checkpoints" / "last.ckpt"
    weight = model_weights(read_checkpoint(path))["decoder.norm.weight"].numpy().tobytes()
    content = bytearray(path.read_bytes())
    content[content.index(weight) + 3] ^= 64
    path.write_bytes(content)
    with pytest.raises(LoadError, match=r"last\.ckpt: is truncated, damaged .*best\.ckpt \(step \d\) is intact"):
        bf.load(path)


@pytest.mark.slow
def test_a_checkpoint_with_other_keys_or_types_is_refused_in_one_line(
    whole: dict[str, Any], tmp_path: Path, faults: int, tally: Tally
) -> None:
    path = tmp_path / "malformed.ckpt"
    for number in range(faults):
        what, content = damaged_values(whole, Random(number))
        torch.save(content, path)
        refusal = attempt(partial((bf.load, TextModel.load)[number % 2], path))[1]
        assert refusal is None or (str(path) in refusal and "\n" not in refusal), what
        tally("malformed checkpoint", "refused" if refusal else "without effect")


@pytest.mark.slow
def test_the_settings_of_a_malformed_checkpoint_are_refused_in_one_line(
    whole: dict[str, Any], tmp_path: Path, faults: int, tally: Tally
) -> None:
    path = tmp_path / "malformed.ckpt"
    for number in range(faults):
        what, metadata = damaged_values(whole["blockformer"], Random(number))
        torch.save({**whole, "blockformer": metadata}, path)
        given = Given(settings={"ckpt_path": str(path)})
        refusal = attempt(partial(fit_arguments, ("fit", "validate")[number % 2], given))[1]
        assert refusal is None or (str(path) in refusal and "\n" not in refusal), what
        tally("checkpoint's settings", "refused" if refusal else "without effect")


CODE = {
    "optimizer": {"class_path": "stranger.Evil"},
    "model": {"class_path": "stranger.Evil", "init_args": {}},
    "data": {"class_path": "stranger.Evil"},
    "trainer": {"callbacks": ["stranger.Evil"], "strategy": "stranger.Evil", "logger": {"class_path": "stranger.Evil"}},
    "run": {"monitor": "stranger.Evil", "class_path": "stranger.Evil"},
    "plugin": ["stranger"],
    "init_from": "stranger.Evil",
    "config": "stranger.yaml",
}


@pytest.mark.parametrize("whole_group", [True, False], ids=["as a text", "as settings"])
@pytest.mark.parametrize("group", CODE)
def test_settings_of_a_checkpoint_run_no_file_of_the_working_folder(
    group: str,
    whole_group: bool,
    whole: dict[str, Any],
    canary: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    answer: Callable[..., Any],
) -> None:
    (tmp_path / "stranger.py").write_text(f"open({str(canary)!r}, 'a').write('x')\nclass Evil: ...\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    config = dict(whole["blockformer"]["config"])
    value = "stranger.Evil" if whole_group else CODE[group]
    config[group] = {**config[group], **value} if isinstance(config.get(group), dict) and not whole_group else value
    torch.save({**whole, "blockformer": {**whole["blockformer"], "config": config}}, tmp_path / "x.ckpt")
    attempt(partial(fit_arguments, "fit", Given(settings={"ckpt_path": "x.ckpt"})))
    found = answer("validate", "--ckpt_path", "x.ckpt", "--data.files", canary)
    assert found.problem is None
    assert "stranger" not in sys.modules


@pytest.mark.parametrize("verb", ["validate", "predict", "fit"])
@pytest.mark.parametrize("key", ["files", "validation_files", "test_files", "sources", "path", "tokens"])
def test_a_checkpoint_from_elsewhere_reads_no_file_of_its_choice(
    key: str, verb: str, whole: dict[str, Any], canary: Path, tmp_path: Path, answer: Callable[..., Any]
) -> None:
    config = whole["blockformer"]["config"]
    data = {name: config["data"][name] for name in ("length", "batch_size", "validation", "test")}
    own: dict[str, Any] = {
        "sources": {"dataset": "mixture", "sources": {"a": {"dataset": "text", "files": [str(canary)]}}},
        "path": {"dataset": "hub", "path": str(canary.parent), "split": "train"},
        "tokens": {"dataset": "token_files", "files": [str(canary)], "dtype": "uint16", "vocab_size": 260},
    }
    changed = {**config, "data": {**data, **own[key]} if key in own else {**config["data"], key: [str(canary)]}}
    key = "files" if key == "tokens" else key
    path = tmp_path / "run" / "checkpoints" / "x.ckpt"
    path.parent.mkdir(parents=True)
    torch.save({**whole, "blockformer": {**whole["blockformer"], "config": changed}}, path)
    found = answer(verb, "--ckpt_path", path)
    assert (found.status, found.problem) == (2, None)
    assert f"--data.{key}" in found.err
    assert "sings" not in "".join(file.read_text() for file in (tmp_path / "run").glob("*.json*"))


def test_a_checkpoint_of_ones_own_is_scored_on_its_files_anywhere(run: Path, text: Path, tmp_path: Path) -> None:
    shutil.copy(run / "checkpoints" / "best.ckpt", tmp_path / "elsewhere.ckpt")
    found = fit_arguments("validate", Given(settings={"ckpt_path": str(tmp_path / "elsewhere.ckpt")}))
    assert found.settings()["data"]["files"] in (str(text), [str(text)])


@pytest.mark.parametrize("name", ["../..", "/tmp/stranger", "a/b", "..", "", "a\nb", "\x1b[31m", "x" * 500])
def test_a_checkpoint_writes_to_no_place_of_its_choice(name: str, whole: dict[str, Any], tmp_path: Path) -> None:
    config = whole["blockformer"]["config"]
    changed = {**config, "run": {**config["run"], "variant": name}}
    torch.save({**whole, "blockformer": {**whole["blockformer"], "config": changed}}, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match=r"x\.ckpt: config\.run\.variant .* is not a name"):
        fit_arguments("validate", Given(settings={"ckpt_path": str(tmp_path / "x.ckpt")}))


@pytest.mark.parametrize("verb", ["fit", "validate", "predict"])
def test_links_in_a_strange_run_lead_no_command_out_of_its_folder(
    verb: str, run: Path, canary: Path, tmp_path: Path, answer: Callable[..., Any]
) -> None:
    shutil.copytree(run, tmp_path / "strange")
    for name in ("metrics.csv", "metrics.jsonl", "log.txt", "facts.json", "config.yaml", "recipe.yaml"):
        (tmp_path / "strange" / name).unlink(missing_ok=True)
        (tmp_path / "strange" / name).symlink_to(canary)
    for name in ("metrics.damaged.jsonl", "evaluations.jsonl", "predictions.jsonl", "checkpoints/best.ckpt"):
        (tmp_path / "strange" / name).unlink(missing_ok=True)
        (tmp_path / "strange" / name).symlink_to(canary)
    more = ["--trainer.max_steps", "3", "--trainer.enable_progress_bar", "false"] if verb == "fit" else []
    found = answer(verb, "--ckpt_path", tmp_path / "strange" / "checkpoints" / "last.ckpt", *more)
    assert found.problem is None
    assert "sings" not in found.out + found.err


@pytest.mark.parametrize("given", ["the checkpoint", "the name"])
def test_a_strange_run_replaces_no_checkpoint_of_another(
    given: str, run: Path, tmp_path: Path, arguments: list[str], answer: Callable[..., Any]
) -> None:
    shutil.copytree(run, tmp_path / "mine")
    shutil.copytree(run, tmp_path / "strange")
    shutil.rmtree(tmp_path / "strange" / "checkpoints")
    (tmp_path / "strange" / "checkpoints").symlink_to(tmp_path / "mine" / "checkpoints")
    before = {path: path.read_bytes() for path in sorted((tmp_path / "mine" / "checkpoints").iterdir())}
    words = ["--ckpt_path", tmp_path / "strange" / "checkpoints" / "last.ckpt"]
    if given == "the name":
        words = [*arguments, "--ckpt_path", "last", "--run.root", tmp_path, "--run.name", "strange"]
    found = answer("fit", *words, "--trainer.max_steps", "3")
    assert (found.status, found.problem) == (2, None), found
    assert "strange/checkpoints: is a link to a folder" in found.err
    assert {path: path.read_bytes() for path in sorted((tmp_path / "mine" / "checkpoints").iterdir())} == before


@pytest.mark.parametrize("kind", ["bytes", "bpe", "unigram", "wordpiece"])
def test_a_damaged_tokenizer_is_refused_in_one_line_or_is_what_is_stored(kind: str, faults: int, tally: Tally) -> None:
    texts = ["the cat sat on the mat, the cat ate the rat"] * 3
    size = {} if kind == "bytes" else {"vocab_size": 300}
    component = DATA.make({"tokenizer": kind}, size)["tokenizer"]
    made = component.read() if isinstance(component, GivenTokenizer) else component.learn(lambda: texts)
    for number in range(faults):
        what, dumped = damaged_values(made.dump(), Random(number))
        found, refusal = attempt(partial(stored.from_dump, dumped))
        if refusal is None:
            another_piece = re.fullmatch(r"\.library\.model\.vocab\.\d+\.0 = '.+'", what)  # of a unigram vocabulary
            assert found.dump() == (dumped if another_piece else made.dump()), what
        else:
            assert "\n" not in refusal, what
        tally("tokenizer", "refused" if refusal else "without effect")


def test_any_damage_of_an_imported_folder_is_refused_in_one_line_or_changes_nothing(
    tmp_path: Path, faults: int, tally: Tally
) -> None:
    folder = tmp_path / "imported"
    folder.mkdir()
    model = bf.build("tiny_decoder")
    (folder / RECIPE).write_text(bf.load_recipe("tiny_decoder").to_yaml())
    (folder / "tokenizer.json").write_text("{}")
    write_imported(folder, model.state_dict(), {"format": "pt"}, [RECIPE, "tokenizer.json"])
    whole = bf.load(folder).state_dict()
    originals = {file: file.read_bytes() for file in folder.iterdir()}
    for number in range(faults):
        draw = Random(number)
        file = draw.choice(sorted(originals))
        kind, changed = damaged_bytes(originals[file], draw) if len(originals[file]) > 2 else ("cut", b"")
        file.write_bytes(changed)
        found, refusal = attempt(partial(bf.load, folder))
        if refusal is None:
            assert same(dict(found.state_dict()), dict(whole)), f"damage {number} ({kind}) changed the content"
        else:
            assert len(refusal.splitlines()) == 1
        tally("imported folder", "refused" if refusal else "without effect")
        file.write_bytes(originals[file])


@pytest.mark.slow
def test_commands_answer_malformed_checkpoints_in_one_line(
    run: Path,
    whole: dict[str, Any],
    arguments: list[str],
    tmp_path: Path,
    faults: int,
    tally: Tally,
    answer: Callable[..., Any],
) -> None:
    quiet = ("--trainer.enable_progress_bar", "false", "--run.wandb", "disabled", "--run.root", tmp_path)
    path, good = tmp_path / "strange" / "checkpoints" / "malformed.ckpt", run / "checkpoints" / "last.ckpt"
    new = ("fit", *arguments, "--run.root", tmp_path, "--trainer.max_steps", "1")
    imitating = ("--objective.type", "distillation", "--objective.teacher", path)
    path.parent.mkdir(parents=True)
    for number in range(max(2, faults // 20)):
        what, content = damaged_values(whole, Random(number))
        torch.save(content, path)
        commands = [
            ("fit", "--ckpt_path", path, "--run.name", f"m{number}", "--trainer.max_steps", "3", *quiet),
            ("validate", "--ckpt_path", path),
            ("generate", path, "--max-new-tokens", "2"),
            ("show", path),
            ("average", good, path, "--out", tmp_path / f"mean{number}.ckpt"),
            ("merge", path, "--out", tmp_path / f"merged{number}.ckpt"),
            ("export", path, "--to", "hf", "--no-verify", "--out", tmp_path / f"hf{number}"),
            ("fit", "--decay-from", path, "--run.name", f"d{number}", *quiet),
            (*new, "--init-from", path, "--run.name", f"i{number}"),
            (*new, *imitating, "--run.name", f"t{number}"),
        ]
        for command in commands:
            found = answer(*command)
            assert found.problem is None, (what, command[0], found.err)
            assert found.status in (0, 2), (what, command[0], found.err)
            tally("command", "refused" if found.status else "without effect")
