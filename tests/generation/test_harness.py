"""Models in lm-evaluation-harness give what their exports in transformers give there."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from blockformer.cli.main import main
from tests.conftest import WORDS

pytestmark = pytest.mark.slow  # the harness takes seconds to load

TASKS = {
    "own_choice": "multiple_choice",
    "own_text": "loglikelihood_rolling",
    "own_words": "generate_until",
}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three tasks on made questions."""
    folder, draw = tmp_path_factory.mktemp("tasks"), random.Random(0)

    def said(words: int) -> str:
        return " ".join(draw.choices(WORDS, k=words))

    questions = [
        {"question": said(6), "choices": [said(2), said(4), said(1)], "answer": n % 3, "text": said(30)}
        for n in range(9)
    ]
    data = folder / "questions.jsonl"
    data.write_text("".join(json.dumps(question) + "\n" for question in questions))
    common = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}, "test_split": "test"}
    own: dict[str, dict[str, Any]] = {
        "own_choice": {
            "doc_to_text": "{{question}}",
            "doc_to_choice": "{{choices}}",
            "doc_to_target": "answer",
            "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
        },
        "own_text": {
            "doc_to_text": "",
            "doc_to_target": "{{text}}",
            "metric_list": [{"metric": "bits_per_byte"}],
        },
        "own_words": {
            "doc_to_text": "{{question}}",
            "doc_to_target": "{{choices[0]}}",
            "generation_kwargs": {"until": ["q", "zz"], "max_gen_toks": 9, "do_sample": False},
            "metric_list": [{"metric": "exact_match"}],
        },
    }
    for name, output in TASKS.items():
        content = {"task": name, "output_type": output, **common, **own[name]}
        (folder / f"{name}.yaml").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def run(fit: Callable[..., Path]) -> Path:
    return fit("--trainer.max_steps", "8", "--optimizer.lr", "0.01", name="for-the-harness")


def answers(model: Any, tasks: Path) -> dict[str, list[Any]]:
    """What a model answers to each request of each task."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    found: Any = simple_evaluate(model, tasks=list(TASKS), task_manager=manager, log_samples=True, bootstrap_iters=0)
    return {name: [sample["resps"] for sample in samples] for name, samples in found["samples"].items()}


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HF_DATASETS_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "1")


def test_our_model_answers_as_its_export_in_transformers(run: Path, tasks: Path, tmp_path: Path) -> None:
    from lm_eval.models.huggingface import HFLM

    from blockformer.generation.harness import HarnessModel
    from blockformer.generation.text_model import TextModel

    assert main(["export", str(run), "--to", "hf", "--out", str(tmp_path / "theirs")]) == 0
    ours = answers(HarnessModel(TextModel.load(run), batch_size=4), tasks)
    theirs = answers(HFLM(pretrained=str(tmp_path / "theirs"), device="cpu", batch_size=4), tasks)
    for mine, other in zip(ours["own_choice"], theirs["own_choice"], strict=True):
        for (mine_one,), (other_one,) in zip(mine, other, strict=True):
            assert mine_one[0] == pytest.approx(other_one[0], abs=1e-3)
            assert mine_one[1] == other_one[1]
    assert ours["own_words"] == theirs["own_words"]
    assert any("q" not in answer[0][0] and answer[0][0] for answer in ours["own_words"])
    # their default predicts the start token of a whole text, too, which no model of ours is trained to do
    plain = HFLM(pretrained=str(tmp_path / "theirs"), device="cpu", batch_size=4, add_bos_token=False)
    for mine, other in zip(ours["own_text"], answers(plain, tasks)["own_text"], strict=True):
        assert mine[0][0] == pytest.approx(other[0][0], rel=1e-4)


def test_the_context_of_an_answer_is_a_prefix_where_the_model_was_trained_so(fit: Callable[..., Path]) -> None:
    from blockformer.generation.harness import HarnessModel
    from blockformer.generation.text_model import TextModel

    made = TextModel.load(fit("--objective.type", "prefix_lm", "--trainer.max_steps", "2", name="prefix-for-harness"))
    requests = [(None, [5, 6, 7, 8], [9, 10]), (None, [41], [7, 7, 7]), (None, [3, 4], [11])]
    found = HarnessModel(made, batch_size=3)._loglikelihood_tokens(requests)
    for (_, context, answer), (score, _) in zip(requests, found, strict=True):
        tokens = torch.tensor([[*context, *answer]])
        prefix = torch.arange(tokens.shape[1])[None] < len(context)
        logits = made.model(tokens, prefix=prefix)[0].detach().log_softmax(-1)
        wanted = sum(float(logits[len(context) - 1 + n, token]) for n, token in enumerate(answer))
        assert score == pytest.approx(wanted, abs=1e-4)


def test_the_command_prints_the_figures_of_each_task(
    run: Path, tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["evaluate", str(run), "--tasks", *TASKS, "--include", str(tasks), "--device", "cpu"]
    assert main([*given, "--limit", "3", "--out", str(tmp_path / "figures.json")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["own_choice", "acc"],
        ["own_choice", "acc_norm"],
        ["own_text", "bits_per_byte"],
        ["own_words", "exact_match"],
    ]
    assert all("(3 questions)" in line for line in lines)
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert 0 <= figures["own_choice"]["acc"] <= 1
    assert 1 < figures["own_text"]["bits_per_byte"] < 9


def test_the_length_of_a_text_is_no_limit(run: Path) -> None:
    """The log-likelihood of a text that is longer than the model reads is the sum over its windows."""
    from types import SimpleNamespace

    from blockformer.generation.harness import HarnessModel
    from blockformer.generation.text_model import TextModel

    model = HarnessModel(TextModel.load(run), batch_size=4)
    text = " ".join(WORDS * 40)
    assert len(text) > 2 * model.max_length
    (whole,) = model.loglikelihood_rolling([SimpleNamespace(args=(text,))])
    ids, total = model.tok_encode(text, add_special_tokens=False), 0.0
    for begin in range(0, len(ids), model.max_length):
        wanted = ids[begin : begin + model.max_length]
        before = (
            [*ids[:begin], *wanted][-(model.max_length + 1) :][: -len(wanted)] if begin else [model.prefix_token_id]
        )
        ((score, _),) = model._loglikelihood_tokens([(None, before, wanted)])
        total += score
    assert whole == pytest.approx(total, rel=1e-6)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tasks", "no_such_task"], "the harness has no task no_such_task"),
        (["--tasks", "cap,lines"], "has no task cap,lines; names are given one by one: cap lines"),
        (["--tasks", "own_choice", "--device", "cuda:99"], "--device cuda:99 cannot be used"),
        (["--tasks", "missing"], "the data of a task is not available"),
        (["--tasks", "own_choice", "--batch-size", "0"], "--batch-size 0: must be at least 1"),
        (["--tasks", "own_choice", "--limit", "-1"], "--limit -1: must be at least 1"),
        (["--tasks", "own_choice", "--examples", "-1"], "--examples -1: must be at least 0"),
    ],
)
def test_what_cannot_be_scored_ends_in_one_line(
    words: list[str], message: str, run: Path, tasks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = {"task": "missing", "output_type": "loglikelihood_rolling", "dataset_path": "json", "test_split": "test"}
    gone = {
        "dataset_kwargs": {"data_files": {"test": str(tasks / "gone.jsonl")}},
        "doc_to_text": "",
        "doc_to_target": "x",
    }
    (tasks / "missing.yaml").write_text(json.dumps(missing | gone))
    assert main(["evaluate", str(run), *words, "--include", str(tasks)]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("task: [", "the harness has no task broken"),
        (
            json.dumps({"task": "broken", "output_type": "no_such_type", "dataset_path": "json"}),
            "a task cannot be used (",
        ),
        (json.dumps({"task": "broken", "doc_to_target": "{{ 1 / 0 }}"}), "a task cannot be used (ZeroDivisionError"),
        (json.dumps({"task": "broken", "doc_to_target": "{% for %}"}), "a task cannot be used (TemplateSyntaxError"),
    ],
    ids=["yaml", "type", "expression", "template"],
)
def test_a_broken_file_of_a_task_ends_in_one_line(
    content: str, reason: str, run: Path, tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = json.loads((tasks / "own_text.yaml").read_text())
    text = json.dumps(whole | json.loads(content)) if content.startswith("{") else content
    (tmp_path / "broken.yaml").write_text(text)
    assert main(["evaluate", str(run), "--tasks", "broken", "--include", str(tmp_path)]) == 2
    assert reason in capsys.readouterr().err.splitlines()[-1]


def test_an_answer_that_is_too_long_is_refused_and_not_cut(run: Path) -> None:
    from blockformer.errors import UserError
    from blockformer.generation.harness import HarnessModel
    from blockformer.generation.text_model import TextModel

    model = HarnessModel(TextModel.load(run), batch_size=4)
    with pytest.raises(UserError, match=rf"an answer has {model.max_length + 1} tokens, and the model writes at most"):
        model._loglikelihood_tokens([(None, [1], [5] * (model.max_length + 1))])


def test_a_folder_of_tasks_that_does_not_exist_is_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run), "--tasks", "x", "--include", "nowhere"]) == 2
    assert "--include nowhere: is not a folder" in capsys.readouterr().err


def test_an_encoder_is_refused(tmp_path: Path, fit: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    encoder = ["--recipe", "tiny_encoder", "--data.tokenizer", "bytes", "--data.length", "32"]
    small = ["--data.max_bytes", "50000", "--trainer.max_steps", "1", "--trainer.accelerator", "cpu"]
    quiet = ["--run.wandb", "disabled", "--trainer.enable_progress_bar", "false"]
    path = fit(name="encoder-for-the-harness", given=[*encoder, *small, *quiet])
    assert main(["evaluate", str(path), "--tasks", "arc_easy"]) == 2
    assert "an encoder_only model computes no probability of a text" in capsys.readouterr().err
