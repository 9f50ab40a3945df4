"""Objectives that score one row of outputs for each text: references, refusals, and runs from the command line."""

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import scipy.stats
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor

import blockformer as bf
from blockformer.assembly.checkpoint import read_metadata
from blockformer.cli.main import main
from blockformer.data.module import TextData
from blockformer.errors import UserError
from blockformer.generation import fill_masks
from blockformer.generation.session import DecodingSession
from blockformer.training.compatibility import MismatchError, check_batch, check_data
from blockformer.training.objectives import Classification, Contrastive, MaskedLM, Objective, Regression, check_kind
from blockformer.training.score import TARGETS
from blocks.heads.pooled import PooledHead
from tests.data.published import write_published

Fit = Callable[..., Path]


def pooled(**head: Any) -> Any:
    """A model in double precision that pools."""
    torch.manual_seed(0)
    return bf.build("tiny_encoder", {"head": {"type": "pooled", **head}, "embedding.segments": 2}).double()


def texts(count: int = 6, length: int = 9) -> dict[str, Tensor]:
    torch.manual_seed(1)
    mask = torch.arange(length) < torch.randint(2, length + 1, (count, 1))
    return {"tokens": torch.randint(4, 260, (count, length)), "attention_mask": mask}


def alone(model: Any, tokens: Tensor, mask: Tensor) -> Tensor:
    """The outputs of each text without padding, one at a time."""
    return torch.cat([model(row[real][None]) for row, real in zip(tokens, mask, strict=True)])


def test_classification_is_the_cross_entropy_of_each_text_alone() -> None:
    model, batch = pooled(outputs=3), texts()
    batch["targets"] = torch.tensor([0, 2, -100, 1, 1, 0])
    logits, kept = alone(model, batch["tokens"], batch["attention_mask"]), batch["targets"] >= 0
    for training in (True, False):
        loss, sums = Classification(label_smoothing=0.2)(model.train(training), batch)
        share = 0.2 if training else 0.0
        wanted = F.cross_entropy(logits[kept].float(), batch["targets"][kept], reduction="sum", label_smoothing=share)
        torch.testing.assert_close(loss, wanted)
        assert sums[TARGETS] == 5
    right = (logits.argmax(-1) == batch["targets"])[kept].float().mean().item()
    found = Classification().figures(sums, model)
    assert found == {"loss": pytest.approx(loss.item() / 5), "accuracy": pytest.approx(right)}


def test_f1_is_the_mean_over_the_classes_of_all_batches() -> None:
    model, objective = pooled(outputs=3), Classification()
    metrics, wanted, predicted = objective.metrics(model.eval()), list[int](), list[int]()
    for seed in range(4):
        batch = texts() | {"tokens": torch.randint(260, (6, 9), generator=torch.Generator().manual_seed(seed))}
        batch["targets"] = torch.tensor([0, 1, 2, 1, 1, -100])
        objective.evaluate(model, batch, metrics)
        wanted += batch["targets"][:5].tolist()
        predicted += objective.logits(model, batch).argmax(-1)[:5].tolist()
    scores: list[float] = []
    for one in range(3):
        both = sum(p == w == one for p, w in zip(predicted, wanted, strict=True))
        scores.append(2 * both / (predicted.count(one) + wanted.count(one)))
    assert metrics["f1"].compute().item() == pytest.approx(sum(scores) / 3)


def test_regression_is_the_squared_error_and_has_the_correlations_of_scipy() -> None:
    model, batch, objective = pooled(outputs=1).eval(), texts(), Regression()
    batch["targets"] = torch.tensor([0.5, -2.0, math.nan, -100.0, 3.0, 0.0])
    predicted = alone(model, batch["tokens"], batch["attention_mask"])[:, 0].float()
    kept = ~batch["targets"].isnan()
    loss, sums = objective(model, batch)
    torch.testing.assert_close(loss, ((predicted - batch["targets"])[kept] ** 2).sum())
    figures = objective.figures(sums, model)
    assert figures == {"loss": pytest.approx(loss.item() / 5), "rmse": pytest.approx(math.sqrt(loss.item() / 5))}
    metrics = objective.metrics(model)
    objective.evaluate(model, batch, metrics)
    pair = predicted[kept].detach().numpy(), batch["targets"][kept].numpy()
    assert metrics["pearson"].compute().item() == pytest.approx(scipy.stats.pearsonr(*pair)[0], rel=1e-4)
    assert metrics["spearman"].compute().item() == pytest.approx(scipy.stats.spearmanr(*pair)[0], rel=1e-4)


def test_contrastive_is_the_mean_of_two_choices_among_the_scored_pairs_by_cosine() -> None:
    model, first, second = pooled(pooling="max").train(), texts(), texts(length=5)
    batch = first | {"positive": second["tokens"], "positive_mask": second["attention_mask"]}
    batch["targets"] = torch.tensor([0, 0, -100, 0, 0, 0])
    sides = [alone(model, one["tokens"], one["attention_mask"])[batch["targets"] == 0] for one in (first, second)]
    cosine = torch.tensor([[F.cosine_similarity(a, b, dim=0).item() for b in sides[1]] for a in sides[0]])
    chosen = [-math.log((row / 0.1).softmax(0)[i]) for table in (cosine, cosine.T) for i, row in enumerate(table)]
    objective = Contrastive(temperature=0.1)
    loss, sums = objective(model, batch)
    assert loss.item() == pytest.approx(sum(chosen) / 2, rel=1e-4)
    right = sum(int(row.argmax()) == i for i, row in enumerate(cosine)) / 5
    assert objective.figures(sums, model) == {"loss": pytest.approx(loss.item() / 5), "accuracy": right}
    assert objective.tokens(batch) == first["attention_mask"].sum() + second["attention_mask"].sum()
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.encoder.parameters())
    nothing = objective(model, batch | {"targets": torch.full((6,), -100)})
    assert nothing[0].item() == nothing[1][TARGETS].item() == 0


@pytest.mark.parametrize("objective", [Classification(), Regression(), Contrastive()], ids=lambda one: one.name)
def test_more_padding_changes_no_loss(objective: Objective) -> None:
    model = pooled(outputs=1 if isinstance(objective, Regression) else 4).eval()
    batch = texts() | {"targets": torch.zeros(6, dtype=torch.long)}
    batch |= {"positive": batch["tokens"].flip(1), "positive_mask": batch["attention_mask"].flip(1)}
    wider = {key: F.pad(value, (0, 4)) if value.ndim == 2 else value for key, value in batch.items()}
    for one, other in zip(objective(model, batch), objective(model, wider), strict=True):
        torch.testing.assert_close(one, other)


def test_segments_reach_a_model_that_has_several() -> None:
    model, batch = pooled(outputs=2).eval(), texts()
    segments = (torch.arange(9) > 3).long().expand(6, 9)
    found = Classification().logits(model, batch | {"segments": segments})
    torch.testing.assert_close(found, model(**batch, segments=segments))
    assert not torch.equal(found, model(**batch))
    plain = bf.build("tiny_decoder", {"head": {"type": "pooled", "pooling": "last", "outputs": 2}}).eval()
    torch.testing.assert_close(Classification().logits(plain, batch | {"segments": segments}), plain(**batch))


def test_objectives_and_heads_that_do_not_fit_are_refused_with_the_remedy() -> None:
    with pytest.raises(
        UserError, match=r"classification scores one row .* set --recipe\.head\.type pooled, or use masked"
    ):
        check_kind(Classification(), "encoder_only")
    with pytest.raises(
        UserError, match=r"masked_lm scores predictions of tokens.* use classification or contrastive or r"
    ):
        check_kind(MaskedLM(), "encoder_only", PooledHead)
    check_kind(Contrastive(), "decoder_only", PooledHead)
    assert "head gives 4 outputs: set --recipe.head.outputs 1" in str(Regression().refusal(pooled(outputs=4), ()))
    assert "all texts have the class 'a'" in str(Classification().refusal(pooled(outputs=1), ["a"]))
    assert Classification().refusal(pooled(outputs=2), ["a", "b"]) is None
    batch = texts() | {"targets": torch.tensor([0, 1, 2, 3, 0, 1])}
    with pytest.raises(
        MismatchError, match=r"class 3, and the recipe's head gives 3 outputs: set --recipe\.head\.outputs 4"
    ):
        check_batch(batch, pooled(outputs=3), Classification())
    check_batch(batch, pooled(outputs=4), Classification())
    with pytest.raises(MismatchError, match=r"targets of the first batch has the shape \(6, 9\), and \(6,\) is needed"):
        check_batch(batch | {"targets": batch["tokens"]}, pooled(outputs=300), Classification())


def test_a_model_that_pools_neither_generates_nor_fills_in() -> None:
    with pytest.raises(ValueError, match="cannot predict masked tokens"):
        fill_masks(pooled().eval(), [5, 6], 6)
    with pytest.raises(ValueError, match="gives one row for each text and cannot generate"):
        DecodingSession(bf.build("tiny_decoder", {"head": "pooled"}).eval(), [[1]])


GOOD, BAD = ["good", "great", "fine", "lovely"], ["bad", "poor", "awful", "dull"]


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table whose texts have a class and a score, and one of pairs that share a word."""
    draw, folder = random.Random(0), tmp_path_factory.mktemp("tables")
    rows: list[str] = []
    for _ in range(400):
        good = draw.random() < 0.5
        text = f"a {draw.choice(GOOD if good else BAD)} {draw.choice(['film', 'book', 'song'])} {draw.randint(0, 99)}"
        rows.append(json.dumps({"text": text, "label": "yes" if good else "no", "score": 2.5 if good else -1.5}))
    (folder / "labelled.jsonl").write_text("\n".join(rows))
    names = [f"{a}{b}" for a in "bdfgklmnprst" for b in ("an", "el", "im", "or", "us")]
    pairs = [(f"who is {name} {n}", f"{n} says {name}") for name in names for n in range(6)]
    draw.shuffle(pairs)
    (folder / "pairs.tsv").write_text("source\ttarget\n" + "".join(f"{a}\t{b}\n" for a, b in pairs))
    return folder


def of_texts(tables: Path, objective: str, dataset: str, file: str, *more: str) -> list[str]:
    """A command line for `fit`."""
    return [
        *("--recipe", "tiny_encoder", "--recipe.head.type", "pooled", "--objective.type", objective),
        *("--data.dataset", dataset, "--data.files", str(tables / file), "--data.tokenizer", "bytes"),
        *("--data.length", "32", "--data.batch_size", "16", "--trainer.max_steps", "250", "--optimizer.lr", "0.003"),
        *("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--run.wandb", "disabled"),
        *("--trainer.gradient_clip_val", "1.0", *more),
    ]


def outcome(run: Path) -> dict[str, float]:
    return read_metadata(run / "checkpoints" / "last.ckpt")["evaluation"]


@pytest.fixture(scope="module")
def classifier(tables: Path, fit: Fit) -> Path:
    head = ("--recipe.head.outputs", "2", "--run.monitor", "val/f1", "--data.test", "0.1")
    return fit(name="classes", given=of_texts(tables, "classification", "table_classes", "labelled.jsonl", *head))


@pytest.mark.slow
def test_classes_are_learned_in_bfloat16(tables: Path, fit: Fit) -> None:
    more = ("--recipe.head.outputs", "2", "--trainer.precision", "bf16-mixed")
    run = fit(name="half", given=of_texts(tables, "classification", "table_classes", "labelled.jsonl", *more))
    assert outcome(run)["val/accuracy"] > 0.95


@pytest.mark.slow
def test_a_classifier_is_scored_predicts_and_continues_with_the_order_of_its_classes(
    classifier: Path, tables: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = outcome(classifier)
    assert found["val/accuracy"] > 0.95
    assert found["val/f1"] > 0.95
    assert "val/perplexity" not in found
    best = str(classifier / "checkpoints" / "best.ckpt")
    quiet = ("--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu")
    only = tmp_path / "only.jsonl"
    only.write_text(
        "".join(json.dumps({"text": f"a {w} film {n}", "label": "yes"}) + "\n" for w in GOOD for n in range(9))
    )
    here = ("--data.files", str(only), "--data.validation_files", str(only))
    assert main(["validate", "--ckpt_path", best, *here, *quiet]) == 0
    assert "accuracy 1.000" in capsys.readouterr().out  # though all labels of this file are of class 1
    assert main(["predict", "--ckpt_path", best, *quiet]) == 0
    rows = [json.loads(line) for line in (classifier / "predictions.jsonl").read_text().splitlines()]
    assert {row["target"] for row in rows} == {"no", "yes"}
    assert all(row["correct"] == (row["predicted"] == row["target"]) for row in rows)
    assert main(["validate", "--ckpt_path", best, "--data.classes", '["maybe", "yes"]', *quiet]) == 2
    assert "was trained on the classes no and yes, in this order" in capsys.readouterr().err
    for command in (["generate", best, "--prompt", "a"], ["evaluate", best, "--tasks", "x"]):
        assert main(command) == 2
        assert "its head pools, so it gives one row of outputs for each text" in capsys.readouterr().err


@pytest.mark.slow
def test_another_number_of_outputs_is_refused_with_both_numbers(
    tables: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = of_texts(tables, "classification", "table_classes", "labelled.jsonl", "--run.root", str(runs))
    assert main(["fit", *given, "--recipe.head.outputs", "3"]) == 2
    said = capsys.readouterr().err
    assert (
        "the data have 2 classes (no, yes) and the recipe's head gives 3 outputs: set --recipe.head.outputs 2" in said
    )


@pytest.mark.slow
def test_scores_are_learned(tables: Path, fit: Fit) -> None:
    head = ("--recipe.head.outputs", "1", "--recipe.head.pooling", "attention")
    found = outcome(fit(name="scores", given=of_texts(tables, "regression", "table_scores", "labelled.jsonl", *head)))
    assert found["val/loss"] < 0.4  # the variance of the scores is 4
    assert found["val/pearson"] > 0.95
    assert found["val/spearman"] > 0.8


@pytest.mark.slow
def test_pairs_are_learned(tables: Path, fit: Fit) -> None:
    found = outcome(fit(name="pairs", given=of_texts(tables, "contrastive", "table_pairs", "pairs.tsv")))
    assert found["val/accuracy"] > 0.8  # by chance 1/16


@pytest.mark.slow
def test_a_classifier_begins_with_an_imported_encoder(
    tables: Path, fit: Fit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_published("bert", tmp_path / "hub")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    config = transformers.BertConfig(vocab_size=300, max_position_embeddings=64, **sizes)
    transformers.BertForMaskedLM(config).save_pretrained(folder)
    assert main(["import", str(folder), "--out", str(tmp_path / "bert")]) == 0
    given = of_texts(tables, "classification", "table_classes", "labelled.jsonl", "--init-from", str(tmp_path / "bert"))
    given = [
        word
        for number, word in enumerate(given)
        if number not in (0, 1, *map(given.index, ("--data.tokenizer", "bytes")))
    ]
    head = ("--recipe.head.pooling", "first", "--recipe.head.transform", "dense", "--recipe.head.outputs", "2")
    run = fit(*head, "--trainer.max_steps", "3", name="begun", given=given)
    report = json.loads((run / "init.json").read_text())
    fresh = {one["name"] for one in report["parameters"] if one["kind"] == "fresh"}
    assert fresh == {"head"}
    metadata = read_metadata(run / "checkpoints" / "last.ckpt")
    data = TextData(**{**metadata["config"]["data"], "objective": Classification()})
    batch = data.loader("validation").batch(0)
    first = [data.tokenizer.names[one] for one in batch["tokens"][0][batch["attention_mask"][0]].tolist()]
    assert (first[0], first[-1]) == ("[CLS]", "[SEP]")
    check_data(data, bf.load(run), Classification())


@pytest.mark.slow
@pytest.mark.parametrize("outputs", ["null", "3"])
def test_a_model_that_pools_is_shown_and_compared(outputs: str, capsys: pytest.CaptureFixture[str]) -> None:
    change = ("--set", "head.type=pooled", "--set", f"head.outputs={outputs}")
    shown: list[str] = []
    for more in ([], ["--memory"], ["--activations", "--length", "8"], ["--format", "diagram"]):
        assert main(["show", "tiny_encoder", *change, *more]) == 0
        shown.append(capsys.readouterr().out)
    assert "head: pooled" in shown[0]
    assert f"of a uniform prediction: {math.log(32 if outputs == 'null' else 3):.3f}" in shown[2]
    assert "pooled" in shown[3]
    assert main(["diff", "tiny_encoder", "head.type=pooled", f"head.outputs={outputs}"]) in (0, 1)
    assert "pooled" in capsys.readouterr().out
    token, text = (bf.build("tiny_encoder", {"head": head}).flops_per_token(16) for head in ("own", "pooled"))
    assert text < token


@pytest.mark.slow
def test_a_classifier_is_exported_with_the_names_of_its_classes(
    classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(classifier), "--to", "hf", "--custom", "--out", str(tmp_path / "out")]) == 0
    options = {"trust_remote_code": True, "local_files_only": True}
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out", **options).eval()
    assert theirs.config.id2label == {0: "no", 1: "yes"}
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out", local_files_only=True)
    inputs = tokenizer(["a lovely film 7", "a dull song"], return_tensors="pt", padding=True)
    assert theirs(**inputs).logits.argmax(-1).tolist() == [1, 0]
    labels = torch.tensor([1, 0])
    found = theirs(**inputs, labels=labels)
    torch.testing.assert_close(found.loss, F.cross_entropy(found.logits, labels))
