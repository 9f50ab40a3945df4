import copy
import hashlib
import json
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch.callbacks import ModelCheckpoint

from blockformer.data import cache
from blockformer.data.datasets.base import COMMON, TextDataset
from blockformer.data.module import TextData
from blockformer.data.settings import data_class, settings_of
from blockformer.errors import DataError
from blockformer.training.objectives import CausalLM, MaskedLM, Objective, SequenceToSequence
from registry import RegistrationError, entries

PAIRS = {"dataset": "pairs", "objective": SequenceToSequence()}


@pytest.fixture
def text(tmp_path: Path) -> str:
    """Thirty small files; the pattern that finds them."""
    for number in range(30):
        words = hashlib.sha256(bytes([number])).hexdigest() * 4
        (tmp_path / f"{number}.txt").write_text("\n".join(words[i : i + 9] for i in range(0, 256, 9)))
    return str(tmp_path / "*.txt")


def _data(text: str, **settings: Any) -> TextData:
    usual = {"dataset": "text", "files": text, "tokenizer": "bytes", "length": 32, "batch_size": 8}
    return TextData(**{**usual, "objective": CausalLM(), **settings})


class Recorder(L.LightningModule):
    """Trains nothing and remembers which samples it saw."""

    def __init__(self, ask_for_length: bool = False) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.ask_for_length = ask_for_length
        self.seen: list[str] = []

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        self.seen.append(hashlib.sha256(b"".join(v.numpy().tobytes() for v in batch.values())).hexdigest()[:8])
        return self.weight * 0

    def validation_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        if self.ask_for_length:
            assert self.trainer.estimated_stepping_batches > 0
        return torch.optim.SGD(self.parameters(), lr=0.1)


def _fit(folder: Path, data: TextData, ckpt_path: str | None = None, **settings: Any) -> list[str]:
    model = Recorder(settings.pop("ask_for_length", False))
    saving = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1, save_on_train_epoch_end=False)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 1}
    trainer = L.Trainer(accelerator="cpu", callbacks=[saving], **{"max_epochs": 3, **quiet, **settings})
    trainer.fit(model, data, ckpt_path=ckpt_path, weights_only=True)
    return model.seen


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "settings", [{}, {"ask_for_length": True}, {"limit_train_batches": 10}, {"max_steps": 50, "max_epochs": -1}]
)
@pytest.mark.parametrize("objective", [CausalLM(), MaskedLM()], ids=["causal", "masked"])
def test_a_resumed_run_sees_what_an_uninterrupted_one_does(
    text: str, tmp_path: Path, objective: Objective, settings: dict
) -> None:
    whole = _fit(tmp_path / "whole", _data(text, objective=objective), **copy.copy(settings))
    assert len(set(whole)) == len(whole) >= 30, "epochs differ"
    for step in (1, 7, len(whole) // 3, len(whole) - 3):
        again = _data(text, objective=objective)
        rest = _fit(tmp_path / f"{step}", again, str(tmp_path / "whole" / f"step={step}.ckpt"), **copy.copy(settings))
        assert rest == whole[step:]


def test_a_second_fit_begins_at_the_beginning(text: str, tmp_path: Path) -> None:
    data = _data(text)
    assert _fit(tmp_path / "1", data, max_epochs=1) == _fit(tmp_path / "2", data, max_epochs=1)


def test_rank_and_world_are_the_trainers(text: str) -> None:
    data, alone = _data(text), _data(text)
    data.trainer = SimpleNamespace(global_rank=1, world_size=2, strategy=None, state=SimpleNamespace(fn="fit"))  # type: ignore[assignment]
    own, whole = data.train_dataloader().batch(0), alone.train_dataloader().batch(0)
    assert own["index"].tolist() == whole["index"].tolist()[1::2]
    assert len(next(iter(data.val_dataloader()))["index"]) == 4


def test_a_plain_loop_needs_no_trainer(text: str) -> None:
    data = _data(text)
    loader = data.loader("train")
    assert sum(1 for _ in loader) == len(loader)
    assert data.tokenizer.decode(loader.batch(0)["tokens"][0].tolist())
    assert data.vocab_size == 260


def test_facts_are_json_and_complete(text: str) -> None:
    data = _data(text)
    facts = data.facts()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["train"] == {"documents": 26, "tokens": facts["train"]["bytes"] + 26, "bytes": facts["train"]["bytes"]}
    assert 0 < facts["xz_bits_per_byte"] < 20
    assert len(facts["sha256"]) == 64
    assert facts["vocab_size"] == 260


def test_bits_per_byte_of_bytes_and_bpe_are_over_the_same_bytes(text: str) -> None:
    sums = []
    for settings in (
        {"tokenizer": "bytes"},
        {"tokenizer": "bpe", "vocab_size": 300},
        {"tokenizer": "bytes", "length": 7},
    ):
        data = _data(text, **settings)
        sums.append(sum(int(batch["bytes"].sum()) for batch in data.loader("validation")))
        assert sums[-1] == data.facts()["validation"]["bytes"]
    assert len(set(sums)) == 1


def test_bpe_learns_nothing_from_validation(tmp_path: Path) -> None:
    (tmp_path / "train").write_text("abab " * 200)
    (tmp_path / "held").write_text("xyxy " * 200)
    held = str(tmp_path / "held")
    data = TextData("text", files=str(tmp_path / "train"), validation_files=held, test_files=held, vocab_size=400)
    pieces = [piece for piece in data.tokenizer.pieces if len(piece) > 1]
    assert any(b"ab" in piece for piece in pieces)
    assert not any(b"xy" in piece for piece in pieces)


def test_the_second_preparation_comes_from_the_cache(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = _data(text, tokenizer="bpe").prepared
    monkeypatch.setattr("blockformer.data.tokenizers.bpe.BPE.learn", lambda *_: pytest.fail("learned again"))
    again = _data(text, tokenizer="bpe").prepared
    assert again.folder == first.folder
    assert again.facts == first.facts


def test_unchanged_files_are_not_read_again(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = _data(text).prepared
    monkeypatch.setattr(Path, "read_bytes", _only_in_the_cache(Path.read_bytes))
    again = _data(text).prepared
    assert (again.folder, again.facts) == (first.folder, first.facts)


def _only_in_the_cache(read: Callable[[Path], bytes]) -> Callable[[Path], bytes]:
    return lambda path: read(path) if cache.root() in path.parents else pytest.fail(f"{path} was read")


def test_the_same_text_in_rewritten_files_is_not_encoded_again(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = _data(text).prepared
    (tmp_path / "0.txt").write_text((tmp_path / "0.txt").read_text())
    monkeypatch.setattr("blockformer.data.prepared.encode", lambda *_: pytest.fail("encoded again"))
    assert _data(text).prepared.folder == first.folder


def test_damaged_tokens_are_rebuilt_though_the_files_are_unchanged(text: str) -> None:
    first = _data(text).prepared
    (first.folder / "train.tokens.npy").write_bytes(b"damaged")
    assert len(_data(text).prepared.documents("train")) == first.facts["train"]["documents"]


def test_only_the_process_that_prepares_verifies_the_cache(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[Path] = []
    intact = cache.intact
    monkeypatch.setattr(cache, "intact", lambda place: checked.append(place) or intact(place))
    tokens = _data(text).prepared.folder
    for method, verifies in (("prepare_data", True), ("setup", False)):
        checked.clear()
        getattr(_data(text), method)()
        assert (tokens in checked) == verifies


def test_the_state_is_that_of_the_loader_in_use(text: str) -> None:
    data = _data(text)
    next(iter(data.train_dataloader()))
    assert data.batches_per_epoch() == len(data.train_dataloader())
    next(iter(data.loader("train")))
    assert data.state_dict() == {"step": 1}


def test_changed_text_is_prepared_anew(text: str, tmp_path: Path) -> None:
    first = _data(text).facts()
    (tmp_path / "0.txt").write_text("something else entirely\n" * 10)
    assert _data(text).facts()["sha256"] != first["sha256"]


def test_the_objective_of_the_model_makes_the_rows(text: str) -> None:
    data, masked = _data(text), MaskedLM()
    assert "documents" in data.loader().batch(0)
    data.configure(objective=masked)
    assert data.objective is masked
    assert "attention_mask" in data.loader().batch(0)
    with pytest.raises(
        DataError, match="objective seq2seq cannot use dataset text: choose cldr, hub, mixture, pairs or table_pairs"
    ):
        data.configure(objective=SequenceToSequence())
    assert data.objective is masked


def test_without_an_objective_there_are_no_rows(text: str) -> None:
    data = _data(text, objective=None)
    assert data.facts()["train"]["documents"] > 20
    with pytest.raises(DataError, match=r"give one, such as TextData\(objective=CausalLM\(\)\)"):
        data.loader()


def test_long_pairs_are_left_out_and_counted(tmp_path: Path) -> None:
    lines = [f"{n}\t{'x' * n}\n" for n in range(1, 41)]
    (tmp_path / "a.tsv").write_text("".join(lines))
    data = _data(str(tmp_path / "a.tsv"), **PAIRS, length=31, validation=0.0, test=0.0, batch_size=5)
    assert data.facts()["train"] == {
        "pairs": 30,
        "too_long": 10,
        "tokens": data.facts()["train"]["tokens"],
        "bytes": 465,
    }
    assert max(batch["target"].shape[1] for batch in data.loader()) == 31
    assert data.notes("train", "validation") == [
        "10 of 40 training pairs are longer than data.length 31 and are left out"
    ]


def test_where_too_many_pairs_are_too_long_the_length_that_keeps_all_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("".join(f"{n}\t{'x' * (20 + n)}\n" for n in range(20)))
    settings = {"files": str(tmp_path / "a.tsv"), "tokenizer": "bytes", "batch_size": 8, **PAIRS}
    for length, said in (
        (9, "18 of 18 training pairs are longer than data.length 9: raise --data.length; 40 keeps all"),
        (
            25,
            "13 of 18 training pairs are longer than data.length 25, and batch_size is 8: raise --data.length; 40",
        ),
    ):
        data = TextData(**settings, length=length)
        for ask in (data.batches_per_epoch, data.loader):
            with pytest.raises(DataError, match=said):
                ask()
    data = TextData(**settings, length=9)
    with pytest.raises(DataError, match=r"1 of 1 test pairs are longer than data\.length 9: raise --data\.length; "):
        data.loader("test")
    assert data.notes("train", "validation") == [
        "18 of 18 training pairs and 1 of 1 validation pairs are longer than data.length 9 and are left out",
        "there is nothing to validate on",
    ]
    with pytest.raises(DataError, match=r"makes 18 rows, fewer than batch_size 64: lower batch_size$"):
        TextData(**settings | {"batch_size": 64}, length=40).loader()


def test_xz_compresses_the_pairs_that_are_scored(tmp_path: Path) -> None:
    short, long = ["a" * 50] * 20, "".join(map(chr, range(33, 120)))
    for name, targets in (("with", [*short, long]), ("without", short)):
        (tmp_path / name).write_text("".join(f"{n}\t{target}\n" for n, target in enumerate(targets)))
    (tmp_path / "train").write_text("x\ty\n")
    facts = [
        TextData(
            "pairs",
            files=str(tmp_path / "train"),
            validation_files=str(tmp_path / name),
            test=0.0,
            tokenizer="bytes",
            length=60,
        ).facts()
        for name in ("with", "without")
    ]
    assert facts[0]["xz_bits_per_byte"] == facts[1]["xz_bits_per_byte"]
    assert facts[0]["validation"]["bytes"] == facts[1]["validation"]["bytes"] == 1000


def test_notes_on_files_come_from_the_cache_too(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text\n" * 100)
    path = str(tmp_path / "a.txt")
    for _ in range(2):
        (note,) = TextData("text", files=path, validation_files=path, tokenizer="bytes").notes("train", "validation")
        assert "is the training file" in note


def test_without_held_out_text_there_is_no_validation_and_testing_says_why(text: str) -> None:
    data = _data(text, validation=0.0, test=0.0)
    assert data.val_dataloader() == []
    with pytest.raises(DataError, match="the test split is empty"):
        data.test_dataloader()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"dataset": "text"}, "dataset text needs files"),
        ({"files": "a.txt"}, r"'table_pairs', 'table_scores', 'text' and 'token_files', and has no"),
        ({"dataset": "texts"}, r"there is no dataset \"texts\"; did you mean 'text'\?"),
        ({"max_bites": 9}, r"there is no setting data\.max_bites; did you mean 'max_bytes'\?"),
        ({"batchsize": 9}, r"there is no setting data\.batchsize; did you mean 'batch_size'\?"),
        ({"max_bytes": "9"}, 'data.max_bytes must be an integer, not "9"'),
        ({"length": 1}, r"data\.length must be at least 2, not 1"),
        ({"batch_size": 0}, r"data\.batch_size must be at least 1, not 0"),
        (
            {"validation": 0.5, "test": 0.5},
            r"data\.validation 0\.5 and data\.test 0\.5 must be .* leave some training data",
        ),
        ({"validation": -0.1}, "leave some training data"),
        (
            {"tokenizer": "bytes", "vocab_size": 300},
            r"vocab_size is a setting of .* tokenizer 'bpe', .* 'bytes'",
        ),
        ({"tokenizer": "byte"}, r"there is no tokenizer \"byte\"; did you mean 'bytes'\?"),
        ({"tokenizer": "bpe", "vocab_size": 100}, "vocab_size 100 is too small"),
        ({"dataset": "cldr", "packages": ["numpy"]}, "data.packages is a setting of dataset 'docstrings'"),
        ({"dataset": "cldr", "objective": MaskedLM()}, "choose docstrings, hub, mixture, table or text"),
        ({"objective": SequenceToSequence()}, "choose cldr, hub, mixture, pairs or table_pairs"),
        ({"dataset": "cldr", "pairs": 0}, "pairs must be greater than 0, not 0"),
        ({"dataset": "cldr", "pairs": 10**9}, "pairs must be less than or equal to 1000000"),
        ({"validation": float("nan")}, "leave some training data"),
        (
            {"dataset": "text", "files": "a", "locale": "fr"},
            r"data\.locale is a setting of dataset 'cldr', and has no effect with dataset 'text'; remove it",
        ),
        ({"dataset": "pairs", "files": "a", "pairs": 9}, r"data\.pairs .*no effect with dataset 'pairs'; remove it"),
        ({"dataset": "text", "files": "a", "max_bytes": 9}, r"data\.max_bytes .*has no effect with dataset 'text'"),
        ({"dataset": "cldr", "max_bytes": None}, r"data\.max_bytes .*has no effect with dataset 'cldr'"),
        ({"locale": "fr"}, r"data\.locale .*has no effect with dataset 'docstrings'"),
        (
            {"dataset": "text", "files": "a", "validation_files": "b", "validation": 0.2},
            "no effect with validation_files",
        ),
        ({"dataset": "text", "files": "a", "test_files": "b", "test": 0.2}, "data.test has no effect with test_files"),
        ({"max_bytes": 0}, "max_bytes must be"),
    ],
)
def test_impossible_settings_are_refused_before_any_work(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        TextData(**settings)
    assert "\n" not in str(caught.value)


def test_all_problems_are_named_at_once() -> None:
    with pytest.raises(DataError, match=r"data\.length .*; data\.batch_size "):
        TextData(length=0, batch_size=0)


@pytest.mark.parametrize("dataset", entries("dataset"))
def test_every_setting_is_a_flag_with_help(dataset: str) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(data_class({"dataset": dataset}), "data")
    names = {action.dest.removeprefix("data.") for action in parser._actions if action.dest.startswith("data.")}
    assert names - {"help"} == set(settings_of({"dataset": dataset})) >= set(entries("dataset")[dataset].parameters)
    undescribed = [action.dest for action in parser._actions if action.dest.startswith("data.") and not action.help]
    assert undescribed == []
    needed = {"files": "a.txt", "path": "folder", "sources": "{a: {dataset: docstrings}}"}
    own = {name: value for name, value in needed.items() if name in settings_of({"dataset": dataset})}
    own |= {"vocab_size": "9"} if dataset == "token_files" else {}
    given = parser.parse_args([f"--data.{name}={value}" for name, value in own.items()])
    made = parser.instantiate(given).data
    assert isinstance(made, TextData)
    assert (made.dataset, made.length) == (dataset, 128)


def test_options_of_a_dataset_are_read_by_their_types() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(data_class({"dataset": "text"}), "data")
    assert parser.parse_args(["--data.files=a.txt", "--data.vocab_size=512"]).data.vocab_size == 512
    assert parser.parse_args(['--data.files=["a.txt", "b.txt"]']).data.files == ["a.txt", "b.txt"]


def test_common_settings_are_those_of_the_signature_and_no_dataset_may_take_their_names(
    registry_of_a_test: Callable[..., Any],
) -> None:
    assert tuple(signature(TextData).parameters) == (*COMMON, "objective", "options")

    class Shadowing(TextDataset):
        """Nothing."""

        def __init__(self, *, length: int = 3) -> None: ...

    with pytest.raises(RegistrationError, match="recipe parameter 'length' has a reserved name; choose another"):
        registry_of_a_test("shadowing")(Shadowing)


def test_text_is_encoded_with_the_tokenizer_that_is_given(text: str, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x.txt").write_text("\n".join(f"quite another text, line {number}" for number in range(99)))
    learned = _data(text, tokenizer="bpe", vocab_size=300)
    other = _data(str(tmp_path / "other" / "x.txt"), tokenizer="bpe", vocab_size=300)
    assert other.tokenizer.dump() != learned.tokenizer.dump()
    other.use(learned.tokenizer)
    assert other.tokenizer.dump() == learned.tokenizer.dump()
    assert "another text" in learned.tokenizer.decode(other.loader("train").batch(0)["tokens"].flatten().tolist())


def test_the_tokenizer_that_a_text_taught_needs_no_second_copy_of_its_tokens(text: str) -> None:
    first, again = _data(text, tokenizer="bpe", vocab_size=300), _data(text, tokenizer="bpe", vocab_size=300)
    again.use(first.tokenizer)
    assert again.prepared.folder == first.prepared.folder
