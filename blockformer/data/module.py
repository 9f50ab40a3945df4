"""The Lightning data module: settings of the data, and a loader for each split."""

from collections.abc import Mapping
from inspect import signature
from typing import Any, Literal

import lightning

from blockformer.data.datasets.base import Dataset, Form, TextDataset
from blockformer.data.loader import EvaluationLoader, TrainingLoader, batches_per_epoch
from blockformer.data.mixed_rows import MixedRows
from blockformer.data.mixed_samples import MixedEvaluationLoader, MixedSamples
from blockformer.data.options import DATA, chosen_components, class_of
from blockformer.data.prepared import Prepared
from blockformer.data.processes import data_processes
from blockformer.data.rows import make_rows
from blockformer.data.samples import SampleMaker, Samples
from blockformer.data.task_rows import TaskRows
from blockformer.data.text_rows import TextRows
from blockformer.data.token_rows import TokenRows
from blockformer.data.tokenizer import Tokenizer
from blockformer.errors import DataError
from blockformer.option_groups import in_words
from registry import entries

Split = Literal["train", "validation", "test"]
Loader = TrainingLoader | EvaluationLoader | MixedEvaluationLoader


class TextData(lightning.LightningDataModule):
    """Built-in text or the user's own, tokenized and cached, or a synthetic task, cut into batches.

    It also works without a Lightning trainer: `data = TextData(...)`, then `data.loader("train")`.

    Args:
        dataset: Name of a registered dataset: "docstrings" (English documentation of installed packages) and "cldr"
            (English to another language) are built in; "text" and "pairs" read your own files, "mixture" several
            datasets; see `blockformer blocks dataset`.
        validation: Share of documents or pairs held out for validation.
        test: Share of documents or pairs held out for the test.
        tokenizer: Name of a registered tokenizer: "bpe", "unigram" and "wordpiece" are learned from the training text,
            "bytes" needs none, "file" is one of your own; see `blockformer blocks tokenizer`.
        length: Tokens in a row; pairs with more tokens on a side are left out, and counted in a note and the log.
        batch_size: Rows in a batch, over all processes.
        seed: Decides the order and the masked tokens of the training text; never what is validated or tested on.
        objective: What the rows are for; None: that of the model that is trained.
        options: The parameters of the dataset and the tokenizer, such as `files` and `vocab_size`.

    Raises:
        DataError: A setting is out of its range or contradicts another, or no component has such an option.
    """

    def __init__(
        self,
        dataset: str = "docstrings",
        validation: float = 0.05,
        test: float = 0.05,
        tokenizer: str = "bpe",
        length: int = 128,
        batch_size: int = 32,
        seed: int = 0,
        objective: SampleMaker | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.settings: dict[str, Any] = {
            "dataset": dataset,
            "validation": validation,
            "test": test,
            "tokenizer": tokenizer,
            "length": length,
            "batch_size": batch_size,
            **options,
        }
        made = DATA.make(chosen_components({"dataset": dataset, "tokenizer": tokenizer}), options)
        chosen: Dataset = made["dataset"]
        self.dataset, self.objective = dataset, objective
        self.form: Form = chosen.form
        _check(self.settings, objective, chosen.form)
        self.length, self.batch_size, self.seed = length, batch_size, seed
        shares = {"validation": validation, "test": test}
        self.rows = make_rows(chosen, made.get("tokenizer"), length, shares=shares, objective=objective, seed=seed)
        self._samples: dict[Split, Samples] = {}
        self._training: TrainingLoader | None = None
        self._step = 0

    def configure(self, *, objective: SampleMaker) -> None:
        """Set what the rows are for.

        Raises:
            DataError: The objective cannot use the dataset.
        """
        _check(self.settings, objective, self.form)
        if objective is not self.objective:
            self.objective, self._samples = objective, {}
            self.rows.configure(objective)

    def use(self, tokenizer: Tokenizer) -> None:
        """Encode with this tokenizer, such as that of a trained model, instead of learning one.

        Raises:
            DataError: The token ids of the dataset are not text.
        """
        if isinstance(self.rows, TaskRows | TokenRows):
            raise DataError(
                f"dataset {self.dataset} has token ids of its own, and the model was trained on text: begin a run with "
                "--init-from"
            )
        self.rows.use(tokenizer)
        self._samples, self._training = {}, None

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer, which prepares the data at the first use; None: the token ids are not text."""
        return self.rows.tokenizer

    @property
    def vocab_size(self) -> int:
        """The number of token ids; those of a tokenizer may be fewer than asked for."""
        return self.rows.vocab_size

    @property
    def extra_tokens(self) -> Mapping[str, int]:
        """The ids of the objective's own tokens by name: special tokens of the tokenizer, or ids after its own."""
        return self.rows.extra_tokens

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of their numbers; of other data none."""
        return tuple(self.rows.facts()["classes"]) if self.form == "classes" else ()

    @property
    def longest(self) -> int:
        """Tokens in the longest row of any split."""
        return self.rows.longest

    @property
    def prepared(self) -> Prepared:
        """Tokens on disk, prepared at the first use.

        Raises:
            DataError: The dataset is not text, or a mixture, which has the tokens of each source.
        """
        if isinstance(self.rows, TextRows):
            return self.rows.prepared
        generated = f"the rows of {self.dataset} are generated on demand and never stored"
        raise DataError(generated if isinstance(self.rows, TaskRows) else f"dataset {self.dataset} is not one text")

    @property
    def sources(self) -> tuple[str, ...]:
        """The names of the sources of a mixture, each of which is scored by itself too; of other datasets none."""
        return self.rows.sources if isinstance(self.rows, MixedRows) else ()

    def source_epochs(self, batches: int) -> dict[str, float]:
        """How often each source of a mixture has been read after this many training batches."""
        samples = self.samples("train") if self.sources else None
        if not isinstance(self.rows, MixedRows) or not isinstance(samples, MixedSamples):
            return {}
        return self.rows.epochs(samples, batches * self.batch_size)

    def facts(self) -> dict[str, Any]:
        """Facts to log: of a text its origin, hash and sizes; of a task its options, chance and ceiling."""
        return self.rows.facts()

    def notes(self, *splits: Split) -> list[str]:
        """What a user should know about the rows of these splits, in sentences."""
        return self.rows.notes(*splits)

    def prepare_data(self) -> None:
        """Fill the cache and verify it, in one process of each machine."""
        self.rows.prepare(verify=True)

    def setup(self, stage: str | None = None) -> None:
        """Open the cache, which :meth:`prepare_data` has verified; a fit gets a new training loader."""
        self.rows.prepare(verify=False)
        if stage == "fit":
            self._training = None

    def samples(self, split: Split) -> Samples:
        """The samples of a split, as the objective needs them."""
        if split not in self._samples:
            self._samples[split] = self.rows.samples(split)
        return self._samples[split]

    def batches_per_epoch(self) -> int:
        """Training batches in an epoch; no loader is made to count them.

        Raises:
            DataError: The text is too short for one batch.
        """
        self.rows.check("train", self.batch_size)
        return batches_per_epoch(self.samples("train"), self.batch_size)

    def loader(self, split: Split = "train", *, rank: int = 0, world: int = 1) -> Loader:
        """A loader for one process: shuffled for "train", every sample once and in order for the others.

        Args:
            split: "train", "validation" or "test".
            rank: Which process this is.
            world: How many processes share each batch.

        Raises:
            DataError: The split is empty, or too small for one batch.
        """
        samples = self.samples(split)
        self.rows.check(split, self.batch_size if split == "train" else 1)
        if split == "train":
            order = None
            if isinstance(self.rows, MixedRows) and isinstance(samples, MixedSamples):
                order = self.rows.order(samples, self.batch_size, self.seed).chosen
            return TrainingLoader(samples, self.batch_size, seed=self.seed, rank=rank, world=world, order=order)
        if not len(samples):
            raise DataError(
                f"{self.dataset}: the {split} split is empty; give a share (--data.{split}) or files for it"
            )
        if isinstance(samples, MixedSamples):
            return MixedEvaluationLoader(samples, self.batch_size, rank=rank, world=world)
        return EvaluationLoader(samples, self.batch_size, rank=rank, world=world)

    def train_dataloader(self) -> TrainingLoader:
        """The training loader of this process, one for each fit; it starts at the step that a checkpoint has stored."""
        if self._training is None:
            loader = self.loader("train", **self._place())
            assert isinstance(loader, TrainingLoader)
            loader.step = self._step
            self._training = loader
        return self._training

    def val_dataloader(self) -> Loader | list[Any]:
        """The validation loader of this process; none for a fit if nothing is held out."""
        fits = self.trainer is None or self.trainer.state.fn != "validate"
        return [] if fits and not len(self.samples("validation")) else self.loader("validation", **self._place())

    def test_dataloader(self) -> Loader:
        """The test loader of this process."""
        return self.loader("test", **self._place())

    def predict_dataloader(self) -> Loader:
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


def idle_settings(given: Mapping[str, Any]) -> dict[str, str]:
    """Settings that were changed and have no effect, each with the setting that makes it so.

    Args:
        given: Values by the names of the parameters of :class:`TextData` and of the dataset; any of them.
    """
    dataset = class_of(given["dataset"])
    idle = dict.fromkeys(sorted(dataset.unused), f"dataset {given['dataset']!r}") | dict(dataset.idle(given))
    defaults = signature(TextData.__init__).parameters
    return {name: why for name, why in idle.items() if name in given and given[name] != defaults[name].default}


def _fitting(objective: SampleMaker) -> str:
    """The datasets for an objective."""
    known = {name: class_of(name) for name in entries("dataset")}
    fitting = [name for name, one in known.items() if {*(one.forms or (one.form,))} & {*objective.forms}]
    texts = [name for name in fitting if issubclass(class_of(name), TextDataset)]
    return in_words([*texts, "a task"] if len(texts) < len(fitting) else texts or ["none"], "or")


def _check(settings: Mapping[str, Any], objective: SampleMaker | None, form: Form) -> None:
    """Check the settings before any text is read."""
    length, batch_size, shares = settings["length"], settings["batch_size"], (settings["validation"], settings["test"])
    problems = {
        **{f"data.{name} has no effect with {why}; remove it": True for name, why in idle_settings(settings).items()},
        f"data.length must be at least 2, not {length}": length < 2,
        f"data.batch_size must be at least 1, not {batch_size}": batch_size < 1,
        f"data.validation {shares[0]} and data.test {shares[1]} must be shares of at least 0 that leave some training "
        "data": not (min(shares) >= 0 and sum(shares) < 1),
    }
    found = [problem for problem, present in problems.items() if present]
    if objective is not None and form not in objective.forms:
        wanted = f"choose {_fitting(objective)}"
        found.append(f"objective {objective.name} cannot use dataset {settings['dataset']}: {wanted}")
    if found:
        raise DataError("; ".join(found))
