"""Evaluations in the validations of a run: their figures and texts, and that they change nothing else."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from blockformer.assembly.checkpoint import read_metadata
from blockformer.cli.main import main
from blockformer.data.module import TextData
from blockformer.errors import UserError
from blockformer.generation.text_model import TextModel
from blockformer.training.evaluations import Evaluation, Generation, Outcome, Planned, Subject, evaluations_of
from blockformer.training.evaluations.generation import SCORES
from blockformer.training.evaluations.prompts import validation_prompts
from blockformer.training.loggers.file_logger import read_rows
from blockformer.training.objectives import CausalLM, Objective, SequenceToSequence
from tests.training.test_distributed import two
from tests.training.test_resume import crash_after, figures, same, state

Fit = Callable[..., Path]
CHOSEN = {
    "greedy": {"type": "generation", "scores": ["exact_match", "chrf"], "max_new_tokens": 6, "every": 4},
    "beam": {"type": "generation", "beams": 2, "rows": 8, "max_new_tokens": 6},
    "look": {"type": "samples", "prompts": ["ab", "abc"], "temperature": 1.0, "max_new_tokens": 5},
    "rows": {"type": "samples", "rows": 3, "max_new_tokens": 5},
}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Pairs whose targets are soon learned, with dropout and a mean of the weights."""
    draw, path = random.Random(0), tmp_path_factory.mktemp("pairs") / "pairs.tsv"
    sources = ["".join(draw.choices("abc", k=draw.randint(1, 5))) for _ in range(150)]
    path.write_text("".join(f"{source}\t{'yes' if 'a' in source else 'no'}\n" for source in sources))
    return [
        *("--recipe", "tiny_encoder_decoder", "--data.dataset", "pairs", f"--data.files={path}"),
        *("--data.tokenizer", "bytes", "--data.length", "16", "--data.batch_size", "8", "--data.validation", "0.15"),
        *("--optimizer.ema", "0.9", "--optimizer.warmup_steps", "2", "--trainer.max_steps", "6"),
        *("--trainer.val_check_interval", "2", "--trainer.log_every_n_steps", "1", "--trainer.accelerator", "cpu"),
        *("--trainer.enable_progress_bar", "false", "--run.wandb", "disabled", "--run.save_every", "1"),
    ]


@pytest.fixture(scope="module")
def whole(fit: Fit, pairs: list[str]) -> Path:
    """A run with evaluations that nothing stopped."""
    return fit("--evaluations", json.dumps(CHOSEN), "--run.monitor", "eval/greedy/chrf", name="whole", given=pairs)


def generated(run: Path, label: str) -> dict[int, list[dict[str, str]]]:
    files = (run / "generated" / label).glob("step-*.jsonl")
    return {int(file.stem.partition("-")[2]): read_rows(file) for file in files}


@pytest.mark.slow
def test_training_is_the_same_with_and_without_them(fit: Fit, pairs: list[str], whole: Path) -> None:
    without = fit(name="without", given=pairs)
    assert same(state(without), state(whole))
    own = [{key: value for key, value in row.items() if not key.startswith("eval/")} for row in figures(whole)]
    assert own == figures(without)


def test_figures_stand_in_the_rows_of_the_validations_they_belong_to(whole: Path) -> None:
    rows = [row for row in read_rows(whole / "metrics.jsonl") if "val/loss" in row]
    assert [row["step"] for row in rows] == [2, 4, 6]
    assert [row["step"] for row in rows if "eval/greedy/chrf" in row] == [4, 6]  # 6 is the last one
    assert [row["step"] for row in rows if "eval/beam/exact_match" in row] == [2, 4, 6]
    assert generated(whole, "greedy").keys() == {4, 6}
    assert generated(whole, "beam").keys() == generated(whole, "look").keys() == {2, 4, 6}
    assert "eval/greedy/chrf" in (whole / "metrics.csv").read_text().splitlines()[0]
    assert f"greedy/chrf {rows[-1]['eval/greedy/chrf']:.4f}" in (whole / "log.txt").read_text()


def test_generated_texts_are_those_of_the_checkpoint(whole: Path) -> None:
    """Whose weights are the mean of the run's."""
    model = TextModel.load(whole / "checkpoints" / "last.ckpt")
    answers = generated(whole, "greedy")[6]
    for row in answers:
        assert row["written"] == "".join(model.stream("", max_new_tokens=6, source=row["source"]))
    last = read_rows(whole / "metrics.jsonl")[-1]
    assert last["eval/greedy/exact_match"] == sum(row["written"] == row["target"] for row in answers) / len(answers)
    beam = generated(whole, "beam")[6]
    assert [row["source"] for row in beam] == [row["source"] for row in answers[:8]]
    for row in beam:
        ((found, _),) = model.search([""], sources=[row["source"]], max_new_tokens=6, beams=2)[0][:1]
        assert row["written"] == found
    shown = generated(whole, "rows")[6]
    assert [row["prompt"] for row in shown] == [row["source"] for row in answers[:3]]
    assert [row["prompt"] for row in generated(whole, "look")[6]] == ["ab", "abc"]


@pytest.mark.slow
def test_a_run_that_crashed_continues_with_the_same_rows(
    fit: Fit, pairs: list[str], whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = ["--evaluations", json.dumps(CHOSEN), "--run.monitor", "eval/greedy/chrf"]
    with monkeypatch.context() as patch:
        crash_after(5, patch)
        with pytest.raises(MemoryError, match="crashed"):
            fit(*chosen, name="crashed", given=pairs)
    quiet = ["--run.wandb", "disabled", "--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"]
    folder = fit("--ckpt_path", "last", name="crashed", given=quiet)
    assert figures(folder) == figures(whole)
    assert same(state(folder), state(whole))
    assert {label: generated(folder, label) for label in CHOSEN} == {label: generated(whole, label) for label in CHOSEN}


@pytest.mark.slow
def test_the_best_checkpoint_is_that_of_the_best_evaluation(fit: Fit, pairs: list[str]) -> None:
    chosen = {"greedy": {"type": "generation", "scores": ["exact_match", "bleu"], "max_new_tokens": 6}}
    much = ["--trainer.max_steps", "40", "--trainer.val_check_interval", "10", "--optimizer.lr", "1e-2"]
    options = ["--evaluations", json.dumps(chosen), "--run.monitor", "eval/greedy/exact_match", *much]
    run = fit(*options, name="learned", given=pairs)
    rows = [row for row in read_rows(run / "metrics.jsonl") if "val/loss" in row]
    best = max(rows, key=lambda row: row["eval/greedy/exact_match"])
    assert best["eval/greedy/exact_match"] > 0.3  # the more frequent of the two answers at least
    stored = read_metadata(run / "checkpoints" / "best.ckpt")
    assert stored["step"] == best["step"]
    assert stored["evaluation"]["eval/greedy/exact_match"] == best["eval/greedy/exact_match"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"greedy": {}}, "evaluations.greedy needs a type, such as {type: generation}; known: "),
        ({"greedy": {"type": "generate"}}, 'evaluations.greedy.type: there is no evaluation "generate"; did you mean'),
        ({"greedy": {"type": "generation", "beam": 2}}, "there is no setting evaluations.greedy.beam; did you mean"),
        ({"greedy": {"type": "generation", "rows": 0}}, "evaluations.greedy.rows must be greater than 0"),
        ({"greedy": {"type": "generation", "every": 0}}, "evaluations.greedy.every must be a number of steps from 1"),
        ({"greedy": {"type": "generation", "scores": []}}, "evaluations.greedy: scores must name at least one"),
        ({"a b": {"type": "samples"}}, "'a b' cannot name an evaluation"),
        ({"look": {"type": "samples", "top_p": 0.5}}, "evaluations.look: top_p has no effect with temperature 0"),
        ({"tasks": {"type": "harness"}}, "evaluations.tasks: tasks must name at least one task"),
        (["generation"], "evaluations must map labels to evaluations"),
    ],
)
def test_a_wrong_setting_is_one_line(given: Any, message: str) -> None:
    with pytest.raises(UserError) as error:
        evaluations_of(given)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


GREEDY = {"greedy": {"type": "generation"}}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--run.monitor", "eval/greedy/blue"],
            r"run.monitor eval/greedy/blue: evaluations.greedy has no figure 'blue'",
        ),
        (["--run.monitor", "eval/gredy/bleu"], r"there is no evaluation 'gredy'; did you mean 'greedy'\?"),
        (["--run.monitor", "eval/greedy"], r"the figure of an evaluation is eval/LABEL/FIGURE"),
        (["--evaluations.greedy.every", "3"], r"greedy.every 3: .* come every 2 steps: set a multiple"),
        (["--data.validation", "0"], r"the validation split is empty: give data.validation"),
        (["--trainer.limit_val_batches", "0"], r"trainer.limit_val_batches is 0"),
        (["--recipe", "tiny_decoder", "--data.dataset", "docstrings"], r"documents of .* have no prompts with answers"),
        (["--recipe", "tiny_encoder", "--data.dataset", "docstrings"], r"objective masked_lm does not generate"),
        pytest.param(
            ["--evaluations.greedy.type", "harness", "--evaluations.greedy.tasks", "[no_such]"],
            r"greedy: .*no_such",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_written(
    fit: Fit, pairs: list[str], runs: Path, options: list[str], message: str
) -> None:
    given = [word for word in pairs if not word.startswith("--data.files=")] if "docstrings" in options else pairs
    small = ["--data.max_bytes", "20000"] if "docstrings" in options else []
    with pytest.raises(UserError, match=message) as error:
        fit("--evaluations", json.dumps(GREEDY), *options, *small, name="refused", given=given)
    assert "\n" not in str(error.value)
    assert not (runs / "refused" / "config.yaml").exists()


def test_other_verbs_refuse_evaluations(whole: Path) -> None:
    from blockformer.cli.fit import main

    with pytest.raises(UserError, match="--evaluations is for fit"):
        main(["validate", "--ckpt_path", str(whole / "checkpoints" / "last.ckpt"), "--evaluations", json.dumps(GREEDY)])


@pytest.mark.parametrize("every", [1, 3, 4, 10])
def test_is_due_once_for_each_interval_whatever_the_validations(every: int) -> None:
    planned, draw = Planned(Generation(), every), random.Random(every)
    steps = sorted(draw.sample(range(1, 100), 30))
    made = [step for step, before in zip(steps, [-1, *steps[:-1]], strict=True) if planned.is_due(step, before)]
    reached = [next((step for step in steps if step >= end), None) for end in range(every, 100, every)]
    assert made == sorted({step for step in reached if step is not None})


@pytest.mark.parametrize(("objective", "kind"), [(CausalLM(), "decoder_only"), (SequenceToSequence(), "seq2seq")])
def test_prompts_and_answers_are_the_pairs(objective: Objective, kind: str, pairs: list[str]) -> None:
    file = next(word for word in pairs if word.startswith("--data.files=")).partition("=")[2]
    settings: dict[str, Any] = {"files": file, "tokenizer": "bytes", "length": 16, "batch_size": 4, "validation": 0.15}
    data = TextData("pairs", objective=objective, **settings)
    tokenizer = data.tokenizer
    assert tokenizer is not None
    known = {tuple(line.split("\t")) for line in Path(file).read_text().splitlines()}
    found: list[Any] = []
    for rank in range(2):
        subject = Subject(None, data, objective, rank, 2)  # type: ignore[arg-type]
        found += [row for batch in validation_prompts(subject, None) for row in batch]
    assert sorted(row.place for row in found) == [(n // 4, n % 4) for n in range(len(data.samples("validation")))]
    for row in found:
        assert row.prompt.given[-1] == tokenizer.bos
        source = row.prompt.source or row.prompt.given
        assert (tokenizer.decode(source), tokenizer.decode(row.prompt.answer)) in known


def test_scores_are_those_of_sacrebleu() -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    wanted = ["the quick brown fox jumps over the lazy dog", "pack my box, with five dozen!", "wizards brew"]
    written = ["the quick brown fox jumped over a lazy dog", "pack my box with five dozen jugs!", "wizards"]
    bleu = sacrebleu.metrics.BLEU(smooth_method="none").corpus_score(written, [wanted]).score
    chrf = sacrebleu.metrics.CHRF().corpus_score(written, [wanted]).score
    assert SCORES["bleu"](written, wanted) == pytest.approx(bleu, rel=1e-4)
    assert SCORES["chrf"](written, wanted) == pytest.approx(chrf, rel=1e-4)
    assert SCORES["exact_match"](written, [*wanted[:2], "wizards"]) == pytest.approx(1 / 3)


class Counting(Evaluation):
    """Counts its calls, and draws random numbers, which must not change the training.

    Args:
        first: The first number.
    """

    def __init__(self, *, first: int = 1) -> None:
        self.first, self.calls = first, 0

    def better(self, figure: str) -> Any:
        return min

    def prepare(self, subject: Subject) -> None:
        random.seed(7)

    def __call__(self, subject: Subject) -> Outcome:
        import torch

        assert not subject.model.training
        self.calls += 1
        return Outcome({"calls": self.first + self.calls - 1, "noise": float(torch.rand(3)[0])})


BLOCKS = {"counting": Counting}


@pytest.mark.slow
def test_one_of_ones_own_is_an_option_like_others(fit: Fit, pairs: list[str]) -> None:
    run = fit("--evaluations.mine.type", "counting", "--evaluations.mine.first", "5", name="own", given=pairs)
    rows = [row for row in read_rows(run / "metrics.jsonl") if "val/loss" in row]
    assert [row["eval/mine/calls"] for row in rows] == [5, 6, 7]
    without = fit(name="own-without", given=pairs)
    assert same(state(run), state(without))
    assert "tests" in (run / "config.yaml").read_text().partition("plugin:")[2]


@pytest.mark.slow  # the harness takes seconds to load
def test_a_task_of_the_harness_has_the_figures_of_the_command(
    fit: Fit, pairs: list[str], runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_DATASETS_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "1")
    rows = [{"question": "abc"[: 1 + n % 3], "choices": ["yes", "no"], "answer": n % 2} for n in range(8)]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {"data_files": {"test": str(tmp_path / "questions.jsonl")}}
    task = {"task": "own", "dataset_path": "json", "dataset_kwargs": files, "test_split": "test"}
    task |= {"output_type": "multiple_choice", "doc_to_text": "{{question}}", "doc_to_choice": "{{choices}}"}
    task |= {"doc_to_target": "answer", "metric_list": [{"metric": "acc"}]}
    (tmp_path / "own.yaml").write_text(json.dumps(task))
    chosen = {"tasks": {"type": "harness", "tasks": ["own"], "include": str(tmp_path), "every": 6}}
    options = ["--evaluations", json.dumps(chosen), "--run.monitor", "eval/tasks/own/acc"]
    with pytest.raises(UserError, match=r"own/acccc: .* does not know which values of 'acccc' are better"):
        fit(*options[:-1], "eval/tasks/own/acccc", name="no-metric", given=pairs)
    with pytest.raises(UserError, match=r"tasks/own/f1: evaluations\.tasks has no figure 'own/f1'; it has own/acc$"):
        fit(*options[:-1], "eval/tasks/own/f1", name="no-figure", given=pairs)
    assert not (runs / "no-figure" / "config.yaml").exists()
    run = fit(*options, name="harness", given=pairs)
    row = read_rows(run / "metrics.jsonl")[-1]
    command = ["evaluate", str(run / "checkpoints" / "last.ckpt"), "--tasks", "own", "--include", str(tmp_path)]
    assert main([*command, "--device", "cpu", "--out", str(tmp_path / "found.json")]) == 0
    assert row["eval/tasks/own/acc"] == json.loads((tmp_path / "found.json").read_text())["own"]["acc"]
    assert read_metadata(run / "checkpoints" / "best.ckpt")["step"] == 6
    with pytest.raises(UserError, match=r"tasks.include is not taken from a checkpoint: give --evaluations"):
        fit("--ckpt_path", "last", "--trainer.max_steps", "8", name="harness", given=["--run.wandb", "disabled"])


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes_share_them(
    strategy: str, together: Callable[..., Any], pairs: list[str], whole: Path, runs: Path
) -> None:
    options = ["--run.root", str(runs), "--run.name", strategy, "--evaluations", json.dumps(CHOSEN)]
    process = together("fit", *pairs, *options, *two(strategy))
    output, _ = process.communicate(timeout=600)
    if strategy == "fsdp2":
        assert process.returncode == 2, output
        assert "evaluations need the whole model in each process, which trainer.strategy divides: use ddp" in output
        return
    assert process.returncode == 0, output
    ours, theirs = (
        {row["step"]: row for row in read_rows(run / "metrics.jsonl") if "val/loss" in row}
        for run in (runs / strategy, whole)
    )
    assert ours.keys() == theirs.keys()
    for step, row in ours.items():
        assert row.keys() == theirs[step].keys()
    for label in ("greedy", "beam", "rows"):
        mine, other = generated(runs / strategy, label), generated(whole, label)
        assert {step: [row.get("source", row.get("prompt")) for row in rows] for step, rows in mine.items()} == {
            step: [row.get("source", row.get("prompt")) for row in rows] for step, rows in other.items()
        }
