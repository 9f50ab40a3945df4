"""The Lightning data module: settings of the data, and a loader for each split."""

from collections.abc import Mapping
from inspect import signature
from typing import Any, Literal, cast

import lightning

from blockformer.data.datasets.base import TextDataset
from blockformer.data.loader import EvaluationLoader, TrainingLoader, batches_per_epoch
from blockformer.data.options import SLOT, class_of, make_dataset
from blockformer.data.prepared import Prepared, prepare
from blockformer.data.processes import data_processes
from blockformer.data.samples import MaskedRows, PackedRows, PaddedPairs, PromptedPairs, Samples
from blockformer.data.tokenizer import LEAST, Tokenizer
from blockformer.errors import DataError
from registry import entries
from registry.text import shortened

Objective = Literal["causal_lm", "masked_lm", "seq2seq"]
Split = Literal["train", "validation", "test"]
_BPE_SIZE = 1024
_NAMES: dict[str, str] = {"train": "training", "validation": "validation", "test": "test"}


class TextData(lightning.LightningDataModule):
    """Built-in text or the user's own, tokenized, cached and cut into batches.

    It also works without a Lightning trainer: `data = TextData(...)`, then `data.loader("train")`.

    Args:
        dataset: Name of a registered dataset: "docstrings" (English documentation of installed packages) and "cldr"
            (English to another language) are built in; "text" and "pairs" read your own files; see `blockformer blocks
            dataset`.
        validation: Share of documents or pairs held out for validation.
        test: Share of documents or pairs held out for the test.
        tokenizer: "bytes", or "bpe" learned from the training text.
        vocab_size: Number of token ids of "bpe", special tokens included; null: 1024. A short text may yield fewer.
        objective: "causal_lm", "masked_lm" or "seq2seq"; null: by the kind of the model.
        length: Tokens in a row; pairs with more tokens on a side are left out, and counted in a note and the log.
        batch_size: Rows in a batch, over all processes.
        mask_rate: Share of tokens that a masked language model predicts.
        separate_documents: Limit attention to the token's document in rows with several.
        seed: Decides the order and the masked tokens of the training text; never what is validated or tested on.
        options: The parameters of the dataset, such as `files`.

    Raises:
        DataError: A setting is out of its range or contradicts another, or the dataset has no such option.
    """

    def __init__(
        self,
        dataset: str = "docstrings",
        validation: float = 0.05,
        test: float = 0.05,
        tokenizer: Literal["bytes", "bpe"] = "bpe",
        vocab_size: int | None = None,
        objective: Objective | None = None,
        length: int = 128,
        batch_size: int = 32,
        mask_rate: float = 0.15,
        separate_documents: bool = True,
        seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__()
        self.source = cast("TextDataset", make_dataset(dataset, options))
        self.dataset, self.objective = dataset, objective
        self.shares = {"validation": validation, "test": test}
        self.tokenizer_kind, self.wanted_vocab_size = tokenizer, vocab_size
        self.length, self.batch_size, self.mask_rate, self.seed = length, batch_size, mask_rate, seed
        self.separate_documents = separate_documents
        self._given: Tokenizer | None = None
        self._settings: dict[str, Any] = {
            "dataset": dataset,
            "validation": validation,
            "test": test,
            "mask_rate": mask_rate,
            "separate_documents": separate_documents,
            **options,
        }
        self._prepared: Prepared | None = None
        self._samples: dict[Split, Samples] = {}
        self._training: TrainingLoader | None = None
        self._step = 0
        _check(self)

    def configure(self, *, objective: Objective | None = None) -> None:
        """Set the objective of the model, unless the user has chosen one.

        Raises:
            DataError: The dataset does not fit the objective.
        """
        if self.objective is None:
            self.objective, self._samples, self._prepared = objective, {}, None
        _check(self)

    def use(self, tokenizer: Tokenizer) -> None:
        """Encode with this tokenizer, such as that of a trained model, instead of learning one."""
        self.tokenizer_kind, self._given = tokenizer.kind, tokenizer
        self._prepared, self._samples, self._training = None, {}, None

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer; prepares the data at the first use."""
        return self.prepared.tokenizer

    @property
    def vocab_size(self) -> int:
        """The number of token ids of the tokenizer, which may be fewer than asked for."""
        return self.tokenizer.vocab_size

    @property
    def prepared(self) -> Prepared:
        """Tokens on disk, prepared at the first use."""
        return self._prepare(verify=True)

    def _prepare(self, *, verify: bool) -> Prepared:
        if self._prepared is None:
            longest = self._longest_side if self.source.paired else None
            size = self.wanted_vocab_size or _BPE_SIZE
            self._prepared = prepare(
                self.source.source(self.shares), self.tokenizer_kind, size, longest, given=self._given, verify=verify
            )
        return self._prepared

    @property
    def _longest_side(self) -> int:
        """Tokens that a side of a pair may have; both sides stand in one row of a decoder-only model."""
        return self.length // 2 if self.objective == "causal_lm" else self.length

    @property
    def _limit(self) -> str:
        """That of the length of a side of a pair, in words."""
        return f"{'' if self._longest_side == self.length else 'half of '}data.length {self.length}"

    def facts(self) -> dict[str, Any]:
        """Facts to log: origin and hash of the text, and documents, tokens and bytes of each split."""
        return dict(self.prepared.facts)

    def notes(self, *splits: Split) -> list[str]:
        """What a user should know about the text of these splits, in sentences."""
        found = [note for split in splits for note in self.prepared.file_notes.get(split, ())]
        counts = ((split, self._left_out(split)) for split in splits)
        left = [f"{number:,} of {of:,} {_NAMES[split]} pairs" for split, (number, of) in counts if number]
        if left:
            found.append(f"{' and '.join(left)} are longer than {self._limit} and are left out")
        if "validation" in splits and self.shares["validation"] and not len(self.samples("validation")):
            found.append("there is nothing to validate on")
        return [shortened(note, 1000) for note in found]

    def _left_out(self, split: Split) -> tuple[int, int]:
        """How many pairs of a split are too long, and how many there are."""
        counts = self.prepared.facts[split]
        number = counts.get("too_long", 0)
        return number, number + counts.get("pairs", 0)

    def _check_left_out(self, split: Split, least: int) -> None:
        """Check that enough pairs are left, where some are too long.

        Raises:
            DataError: Fewer than `least` are left; the message names the length that keeps all.
        """
        number, of = self._left_out(split)
        if number and of - number < least:
            longest = self.prepared.longest[split] * (self.length // self._longest_side)
            few = f", and batch_size is {least}" if number < of else ""
            raise DataError(
                f"{number:,} of {of:,} {_NAMES[split]} pairs are longer than {self._limit}{few}: "
                f"raise --data.length; {longest} keeps all"
            )

    def prepare_data(self) -> None:
        """Fill the cache and verify it, in one process of each machine."""
        _ = self.prepared

    def setup(self, stage: str | None = None) -> None:
        """Open the cache, which :meth:`prepare_data` has verified; a fit gets a new training loader."""
        self._prepare(verify=False)
        if stage == "fit":
            self._training = None

    def samples(self, split: Split) -> Samples:
        """The samples of a split, as the objective needs them."""
        if split not in self._samples:
            self._samples[split] = self._make_samples(split)
        return self._samples[split]

    def _make_samples(self, split: Split) -> Samples:
        data, made = self.prepared, self.prepared.tokenizer
        objective = self.objective or self.source.objectives[0]
        if self.source.paired:
            return (PaddedPairs if objective == "seq2seq" else PromptedPairs)(*data.pairs(split), made)
        documents = data.documents(split)
        if objective == "causal_lm":
            return PackedRows(documents, made, self.length, separate=self.separate_documents)
        fixed = split != "train"
        return MaskedRows(
            documents, made, self.length, seed=0 if fixed else self.seed, share=self.mask_rate, fixed=fixed
        )

    def batches_per_epoch(self) -> int:
        """Training batches in an epoch; no loader is made to count them.

        Raises:
            DataError: The text is too short for one batch.
        """
        self._check_left_out("train", self.batch_size)
        return batches_per_epoch(self.samples("train"), self.batch_size)

    def loader(self, split: Split = "train", *, rank: int = 0, world: int = 1) -> TrainingLoader | EvaluationLoader:
        """A loader for one process: shuffled for "train", every sample once and in order for the others.

        Args:
            split: "train", "validation" or "test".
            rank: Which process this is.
            world: How many processes share each batch.

        Raises:
            DataError: The split is empty, or too small for one batch.
        """
        samples = self.samples(split)
        self._check_left_out(split, self.batch_size if split == "train" else 1)
        if split == "train":
            return TrainingLoader(samples, self.batch_size, seed=self.seed, rank=rank, world=world)
        if not len(samples):
            raise DataError(
                f"{self.dataset}: the {split} split is empty; give a share (--data.{split}) or files for it"
            )
        return EvaluationLoader(samples, self.batch_size, rank=rank, world=world)

    def train_dataloader(self) -> TrainingLoader:
        """The training loader of this process, one for each fit; it starts at the step that a checkpoint has stored."""
        if self._training is None:
            loader = self.loader("train", **self._place())
            assert isinstance(loader, TrainingLoader)
            loader.step = self._step
            self._training = loader
        return self._training

    def val_dataloader(self) -> EvaluationLoader | TrainingLoader | list[Any]:
        """The validation loader of this process; none for a fit if nothing is held out."""
        fits = self.trainer is None or self.trainer.state.fn != "validate"
        return [] if fits and not len(self.samples("validation")) else self.loader("validation", **self._place())

    def test_dataloader(self) -> EvaluationLoader | TrainingLoader:
        """The test loader of this process."""
        return self.loader("test", **self._place())

    def predict_dataloader(self) -> EvaluationLoader | TrainingLoader:
        """The test split, to predict on."""
        return self.test_dataloader()

    def state_dict(self) -> dict[str, Any]:
        """The step. Lightning saves the loader's too, but loses it where a schedule asks for the number of steps."""
        return {"step": self._training.step if self._training else self._step}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue training after the checkpoint's step."""
        self._step = int(state_dict["step"])
        if self._training is not None:
            self._training.step = self._step

    def _place(self) -> dict[str, int]:
        return data_processes(self.trainer)._asdict() if self.trainer else {}


def idle_settings(given: Mapping[str, Any], objective: str | None) -> dict[str, str]:
    """Settings that were changed and have no effect, each with the setting that makes it so.

    Args:
        given: Values by the names of the parameters of :class:`TextData` and of the dataset; any of them.
        objective: The objective that the model is trained with; None: not known yet.
    """
    dataset = class_of(given["dataset"])
    idle = dict.fromkeys(sorted(dataset.unused), f"dataset {given['dataset']!r}") | dict(dataset.idle(given))
    possible = dataset.objectives if objective is None else (objective,)
    cause = f"dataset {given['dataset']!r}" if objective is None else f"objective {objective!r}"
    needed = {"mask_rate": "masked_lm", "separate_documents": "causal_lm"}
    idle |= {name: cause for name, one in needed.items() if one not in possible}
    defaults = signature(TextData.__init__).parameters
    return {name: why for name, why in idle.items() if name in given and given[name] != defaults[name].default}


def _fitting(objective: str | None) -> str:
    """The datasets for an objective."""
    return " or ".join(name for name in entries(SLOT) if objective in class_of(name).objectives)


def _check(data: TextData) -> None:
    """Check the settings before any text is read."""
    objectives = data.source.objectives
    objective = data.objective or (objectives[0] if len(objectives) == 1 else None)
    problems = {
        **{
            f"data.{name} has no effect with {why}; remove it": True
            for name, why in idle_settings(data._settings, objective).items()
        },
        "length must be at least 2": data.length < 2,
        "batch_size must be at least 1": data.batch_size < 1,
        f"vocab_size {data.wanted_vocab_size} is too small for bpe: special tokens and bytes are {LEAST}": (
            data.tokenizer_kind == "bpe" and (data.wanted_vocab_size or LEAST) < LEAST
        ),
        "mask_rate must be above 0 and at most 1": not 0 < data.mask_rate <= 1,
        "validation and test must be shares of at least 0 that leave something to train on": (
            not (min(data.shares.values()) >= 0 and sum(data.shares.values()) < 1)
        ),
        "vocab_size is for tokenizer bpe; bytes always have 260 ids": (
            data.tokenizer_kind == "bytes" and data.wanted_vocab_size is not None
        ),
        f"objective {data.objective} cannot use dataset {data.dataset}: choose {_fitting(data.objective)}": (
            data.objective is not None and data.objective not in objectives
        ),
    }
    if found := [problem for problem, present in problems.items() if present]:
        raise DataError("; ".join(found))
