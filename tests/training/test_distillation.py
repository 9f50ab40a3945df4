"""Distillation: the loss against independent references, what it refuses, and runs from the command line."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.distributions import Categorical, kl_divergence
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import blockformer as bf
from blockformer.assembly.checkpoint import model_weights, read_checkpoint, read_metadata
from blockformer.cli.main import main
from blockformer.data.module import TextData
from blockformer.data.tokenizers.bytes import ByteTokenizer
from blockformer.errors import UserError
from blockformer.training.loggers.file_logger import read_rows
from blockformer.training.objectives import CausalLM, Distillation, ObjectiveSettings, check_kind
from blockformer.training.objectives.distillation import Divergence, divergence
from blockformer.training.score import Score
from blocks.models.base import Model
from tests.data.chats import SYSTEM, conversations, write_chats
from tests.training.test_distributed import check_alike, two

Fit = Callable[..., Path]
KINDS: tuple[Divergence, ...] = ("forward_kl", "reverse_kl", "jensen_shannon")
SMALL = {"vocab_size": 40, "max_length": 16}
OF = {"tiny_decoder": "causal_lm", "tiny_encoder": "masked_lm", "tiny_encoder_decoder": "seq2seq"}


def written(recipe: str, folder: Path, seed: int = 1, **overrides: Any) -> Path:
    """A folder with a model, as `blockformer import` writes it."""
    from safetensors.torch import save_file

    made = bf.load_recipe(recipe, SMALL | overrides)
    folder.mkdir()
    (folder / "recipe.yaml").write_text(made.to_yaml())
    save_file(
        {name: one.clone() for name, one in bf.build(made, seed=seed).state_dict().items()},
        folder / "model.safetensors",
    )
    return folder


def batch_for(model: Model) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    targets = torch.randint(40, (3, 8))
    targets[0, 2:5] = -100
    keys = ("source", "target") if model.kind == "encoder_decoder" else ("tokens",)
    return {"targets": targets, **{key: torch.randint(40, (3, 8)) for key in keys}}


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("kind", KINDS)
def test_divergences_are_those_of_torch(kind: Divergence, temperature: float) -> None:
    teacher, student = torch.randn(2, 5, 7)
    p, q = (Categorical(logits=logits / temperature) for logits in (teacher, student))
    m = Categorical(probs=(p.probs + q.probs) / 2)
    known = {
        "forward_kl": kl_divergence(p, q),
        "reverse_kl": kl_divergence(q, p),
        "jensen_shannon": (kl_divergence(p, m) + kl_divergence(q, m)) / 2,
    }
    torch.testing.assert_close(divergence(teacher, student, temperature, kind), known[kind])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("recipe", OF)
def test_the_loss_is_the_weighted_sum_of_both_with_the_same_gradients_in_parts(
    recipe: str, kind: Divergence, tmp_path: Path
) -> None:
    folder = written(recipe, tmp_path / "teacher", dim=24)  # of another width than the student
    student = bf.build(recipe, SMALL).train()
    for module in student.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    batch, teacher = batch_for(student), bf.load(folder)

    def trained(chunk: int) -> tuple[torch.Tensor, Score, list[torch.Tensor]]:
        of = {"type": OF[recipe], "loss_chunk": chunk}
        settings = {"teacher": str(folder), "of": of, "weight": 0.3, "temperature": 2.0, "divergence": kind}
        objective = ObjectiveSettings("distillation", **settings).objective
        loss, sums = objective(student, batch)
        student.zero_grad()
        loss.backward()
        return loss, Score.of(sums), [one.grad for one in student.parameters() if one.grad is not None]

    objective = ObjectiveSettings(OF[recipe]).objective
    ours, theirs = (objective.logits(model, batch)[batch["targets"] != -100] for model in (student, teacher))
    targets = batch["targets"][batch["targets"] != -100]
    hard = -ours.log_softmax(-1)[torch.arange(len(targets)), targets].sum()
    p, q = (logits.div(2).softmax(-1).clamp(min=1e-30) for logits in (theirs.detach(), ours))
    m = (p + q) / 2
    apart = {
        "forward_kl": (p * (p / q).log()).sum(),
        "reverse_kl": (q * (q / p).log()).sum(),
        "jensen_shannon": ((p * (p / m).log()).sum() + (q * (q / m).log()).sum()) / 2,
    }[kind]
    wanted = 0.7 * hard + 0.3 * 4 * apart
    gradients = torch.autograd.grad(wanted, [one for one in student.parameters() if one.requires_grad])
    for chunk in (0, 5):
        loss, score, found = trained(chunk)
        torch.testing.assert_close(loss, wanted, rtol=1e-5, atol=1e-5)
        assert score.loss == pytest.approx(wanted.item(), rel=1e-5)
        assert score.nll == pytest.approx(hard.item(), rel=1e-5)
        torch.testing.assert_close(found, list(gradients), rtol=1e-4, atol=1e-5)


def test_of_conversations_answers_alone_count_with_the_teacher_too(tmp_path: Path) -> None:
    (template := tmp_path / "own.jinja").write_text(SYSTEM, encoding="utf-8")
    files = write_chats(tmp_path / "chats.jsonl", conversations(12))
    given = {"tokenizer": "bytes", "length": 48, "batch_size": 4, "validation": 0.0, "test": 0.0}
    data = TextData("chat", files=str(files), chat_template=str(template), objective=CausalLM(), **given)
    sizes = {"vocab_size": 260, "max_length": 48}
    folder = written("tiny_decoder", tmp_path / "teacher", **sizes)
    student, teacher, batch = bf.build("tiny_decoder", sizes).train(), bf.load(folder), data.loader("train").batch(0)
    for module in student.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    loss, sums = ObjectiveSettings("distillation", teacher=str(folder), weight=0.3).objective(student, batch)
    answers = batch["targets"] != -100
    assert 0 < answers.sum() < answers.numel() / 2
    ours, theirs = (CausalLM().logits(model, batch)[answers] for model in (student, teacher))
    hard = torch.nn.functional.cross_entropy(ours, batch["targets"][answers], reduction="sum")
    apart = kl_divergence(Categorical(logits=theirs), Categorical(logits=ours)).sum()
    torch.testing.assert_close(loss, 0.7 * hard + 0.3 * apart, rtol=1e-5, atol=1e-4)
    assert Score.of(sums).targets == answers.sum()


def test_no_more_logits_than_those_of_a_part_exist_of_either_model(tmp_path: Path) -> None:
    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            for one in tree_leaves(out):
                if (
                    isinstance(one, torch.Tensor)
                    and one.ndim
                    and one.shape[-1] == 5003
                    and func is not torch.ops.aten.t.default
                ):
                    self.size = max(self.size, one.numel() // 5003)
            return out

    folder = written("tiny_decoder", tmp_path / "teacher", vocab_size=5003)
    student = bf.build("tiny_decoder", SMALL | {"vocab_size": 5003}).train()
    of = {"of": {"type": "causal_lm", "loss_chunk": 3}}
    objective = ObjectiveSettings("distillation", teacher=str(folder), **of).objective
    with Largest() as seen:
        objective(student, batch_for(student))[0].backward()
    assert seen.size == 3


def test_validation_scores_the_targets_alone_and_needs_no_teacher() -> None:
    model = bf.build("tiny_decoder", SMALL).eval()
    batch = batch_for(model)
    plain = ObjectiveSettings("causal_lm").objective(model, batch)[1]
    assert torch.equal(ObjectiveSettings("distillation").objective(model, batch)[1], plain)


def test_the_teacher_is_no_part_of_the_student(tmp_path: Path) -> None:
    folder = written("tiny_decoder", tmp_path / "teacher")
    model = bf.build("tiny_decoder", SMALL).train()
    names, before = [name for name, _ in model.named_parameters()], bf.load(folder).state_dict()
    objective = Distillation(teacher=str(folder))
    for _ in range(2):
        objective(model, batch_for(model))[0].backward()
    teacher = objective._known().model(model.table)
    assert objective._known().model(model.table) is teacher, "it is loaded once"
    assert not teacher.training
    assert all(one.grad is None and not one.requires_grad for one in teacher.parameters())
    torch.testing.assert_close(teacher.state_dict(), before)
    assert [name for name, _ in model.named_parameters()] == names


def test_a_teacher_with_another_vocabulary_kind_or_length_is_refused_with_both(tmp_path: Path) -> None:
    folder = written("tiny_decoder", tmp_path / "teacher")
    data = SimpleNamespace(form="documents", length=16, tokenizer=None)

    def refused(message: str, model: Model, data: Any = data, of: str = "causal_lm") -> None:
        objective = ObjectiveSettings("distillation", teacher=str(folder), of=of).objective
        with pytest.raises(UserError, match=message):
            objective.check(model, data)

    student = bf.build("tiny_decoder", SMALL)
    ObjectiveSettings("distillation", teacher=str(folder)).objective.check(student, data)
    refused(
        "has 40 token ids, and the student 41: set --recipe.vocab_size 40", bf.build("tiny_decoder", {"vocab_size": 41})
    )
    refused("is a decoder_only model, and the student is encoder_only", bf.build("tiny_encoder", SMALL), of="masked_lm")
    data = SimpleNamespace(form="documents", length=17, tokenizer=None)
    refused("reads at most 16 tokens, and rows have 17: lower --data.length", student, data)
    data = SimpleNamespace(form="documents", length=16, tokenizer=ByteTokenizer())
    refused("has no tokenizer, and the data have a tokenizer bytes of 260 ids", student, data)


def test_what_cannot_be_distilled_is_refused(tmp_path: Path) -> None:
    model = bf.build("tiny_decoder", SMALL).train()
    with pytest.raises(UserError, match=r"objective\.teacher: .*give --objective.teacher a run's folder"):
        ObjectiveSettings("distillation").objective(model, batch_for(model))
    with pytest.raises(UserError, match=r"objective\.of: distillation cannot be distilled"):
        ObjectiveSettings("distillation", of="distillation")
    with pytest.raises(
        UserError, match=r"objective\.of causal_lm trains decoder_only models, and this one is encoder_onl"
    ):
        check_kind(Distillation(), "encoder_only")
    with pytest.raises(UserError, match=r"objective\.teacher: .*there is no such file"):
        Distillation(teacher=str(tmp_path / "none")).check(model, None)
    with pytest.raises(UserError, match=r"objective\.teacher: .*`blockformer import`"):
        Distillation(teacher=str(tmp_path)).check(model, None)
    with pytest.raises(UserError, match=r"objective\.of: no objective is called .* did you mean 'masked_lm'"):
        ObjectiveSettings("distillation", of="masked")
    with pytest.raises(
        UserError, match=r"^objective\.of\.mask_rat: there is no such setting; see `blockformer blocks obj"
    ):
        ObjectiveSettings("distillation", of={"type": "masked_lm", "mask_rat": 0.1})
    with pytest.raises(UserError, match=r"^objective\.of\.mask_rate must be less than or equal to 1, not 2\.0$"):
        ObjectiveSettings("distillation", of={"type": "masked_lm", "mask_rate": 2.0})


@pytest.fixture(scope="module")
def teacher(fit: Fit) -> Path:
    """A run that has learned something."""
    return fit(
        "--trainer.max_steps", "60", "--optimizer.lr", "1e-2", "--trainer.limit_val_batches", "2", name="teacher"
    )


def distilled(fit: Fit, teacher: Path, *more: str, name: str) -> Path:
    options = ["--objective.type", "distillation", "--objective.teacher", str(teacher)]
    return fit(*options, "--trainer.limit_val_batches", "2", *more, name=name)


def distance(one: Path, other: Path, text: Path) -> float:
    """Mean KL of the probabilities of a model from another's, on a text."""
    tokens = torch.tensor([[1, *ByteTokenizer().encode(text.read_text()[:600])]])[:, :512].reshape(16, 32)
    with torch.no_grad():
        ours, theirs = (bf.load(path)(tokens) for path in (one, other))
    return divergence(theirs.flatten(0, 1), ours.flatten(0, 1), 1.0, "forward_kl").mean().item()


@pytest.mark.slow
def test_a_student_gets_nearer_to_its_teacher_than_without_it(fit: Fit, teacher: Path, text: Path) -> None:
    steps = ("--trainer.max_steps", "150", "--optimizer.lr", "1e-2")
    near = distilled(fit, teacher, *steps, "--objective.weight", "1", name="student")
    alone = fit(*steps, "--trainer.limit_val_batches", "2", name="alone")
    begun = distilled(fit, teacher, "--trainer.max_steps", "1", "--optimizer.lr", "1e-9", name="begun")
    assert distance(near, teacher, text) < 0.5 * distance(alone, teacher, text) < distance(begun, teacher, text)
    weights = model_weights(read_checkpoint(near / "checkpoints" / "last.ckpt"))
    assert sum(tensor.numel() for tensor in weights.values()) == bf.load(near).size
    facts = json.loads((near / "facts.json").read_text())
    assert facts["model"]["parameters"] == bf.load(near).size
    assert facts["objective"]["teacher"] == str(teacher)
    assert facts["objective_facts"]["teacher"]["path"] == str(teacher / "checkpoints" / "best.ckpt")
    assert facts["objective"]["of"]["type"] == "causal_lm"


@pytest.mark.slow
def test_a_run_continues_with_the_same_teacher_only(
    fit: Fit, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "own"
    shutil.copytree(teacher, own)
    whole = distilled(fit, own, "--trainer.max_steps", "6", "--trainer.val_check_interval", "3", name="whole")
    stopped = ("--trainer.max_steps", "3", "--trainer.val_check_interval", "3", "--optimizer.decay_steps", "6")
    half = distilled(fit, own, *stopped, name="half")
    given = ["--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu", "--run.wandb=disabled"]
    further = ["--ckpt_path", "last", "--trainer.max_steps", "6"]
    fit(*further, name="half", given=given)
    ours, theirs = (model_weights(read_checkpoint(run / "checkpoints" / "last.ckpt")) for run in (half, whole))
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    other = distilled(fit, own, *stopped, name="other")
    shutil.copy(own / "checkpoints" / "last.ckpt", own / "checkpoints" / "best.ckpt")
    capsys.readouterr()
    command = ["fit", *given, *further, "--run.root", str(other.parent), "--run.name", "other"]
    assert main(command) == 2
    sha = read_metadata(other / "checkpoints" / "last.ckpt")["objective_facts"]["teacher"]["sha256"]
    assert f"has changed: the checkpoint was trained with sha256 {sha[:16]}" in capsys.readouterr().err
    shutil.rmtree(own)
    assert main(command) == 2
    assert "objective.teacher" in capsys.readouterr().err
    assert main(["validate", "--ckpt_path", str(other / "checkpoints" / "last.ckpt")]) == 0, "needs no teacher"


@pytest.mark.slow
def test_a_teacher_named_by_another_user_is_not_read(
    fit: Fit,
    teacher: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    text: Path,
) -> None:
    run = distilled(fit, teacher, "--trainer.max_steps", "1", name="mine")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))  # where another user has another key
    command = ["fit", "--ckpt_path", str(run / "checkpoints" / "last.ckpt"), "--trainer.max_steps", "2"]
    command += ["--data.files", str(text), "--run.root", str(tmp_path), "--trainer.accelerator", "cpu"]
    assert main(command) == 2
    assert "its path in a checkpoint from elsewhere is not read): give --objective.teacher" in capsys.readouterr().err
    assert main([*command, "--objective.teacher", str(teacher), "--trainer.enable_progress_bar", "false"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2", "tensor_parallel"])
def test_two_processes_distil_like_one(
    strategy: str, fit: Fit, together: Callable[..., Any], teacher: Path, arguments: list[str], runs: Path
) -> None:
    given = [*arguments, "--recipe.embedding.dropout", "0", "--objective.type", "distillation"]
    given += ["--objective.teacher", str(teacher), "--objective.of.loss_chunk", "7", "--trainer.max_steps", "3"]
    given += ["--optimizer.eps", "1e-4", "--trainer.limit_val_batches", "1"]
    process = together("fit", *given, "--run.root", str(runs), "--run.name", strategy, *two(strategy))
    alone = fit(name=f"before-{strategy}", given=given)
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output
    check_alike(runs / strategy, alone)
    assert all(math.isfinite(row["train/loss"]) for row in read_rows(alone / "metrics.jsonl") if "train/loss" in row)
