"""The trained model whose predictions another model learns to imitate."""

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from blockformer import assembly
from blockformer.assembly.capabilities import blocks_without
from blockformer.assembly.checkpoint import LoadError, read_metadata
from blockformer.assembly.loading import RECIPE, WEIGHTS, load, stored_recipe
from blockformer.data.tokenizer import Tokenizer
from blockformer.data.tokenizers.file import has_tokenizer
from blockformer.errors import UserError
from blockformer.generation.trained_folder import find_checkpoint, imported_tokenizer, is_imported, stored_tokenizer
from blockformer.training.objectives.base import Objective
from blocks.models.base import Model
from registry import RecipeError, load_recipe

OPTION = "objective.teacher"


class Teacher:
    """A trained model, read once and never trained.

    Args:
        source: a run's folder (its best checkpoint, or else its last), a checkpoint, or an imported folder.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self._model: Model | None = None

    def facts(self) -> dict[str, Any]:
        """Its path, and the SHA-256 of its file; of an imported folder, that of its recipe and weights."""
        return {"path": str(self.path), "sha256": self.sha256}

    @cached_property
    def path(self) -> Path:
        """The checkpoint or the imported folder.

        Raises:
            UserError: there is none.
        """
        path = Path(self.source)
        try:
            if is_imported(path):
                return path
            if path.is_dir() and not (path / "checkpoints").is_dir():
                raise UserError(
                    f"{path} is neither a run nor an imported folder: convert a folder of Hugging Face with "
                    "`blockformer import`"
                )
            return find_checkpoint(path)
        except (UserError, OSError) as error:
            raise UserError(f"{OPTION}: {error}") from None

    @cached_property
    def sha256(self) -> str:
        """Of what it was read from."""
        if self.path.is_dir():
            return hashlib.sha256("".join(_sha256(self.path / name) for name in (RECIPE, WEIGHTS)).encode()).hexdigest()
        return _sha256(self.path)

    def check(self, model: Model, data: Any, objective: Objective) -> None:
        """Check, without reading its weights, that it predicts the same as a model that is to be trained.

        Args:
            model: the model to train.
            data: its data module.
            objective: what both predict.

        Raises:
            UserError: it cannot be read, or its kind, vocabulary, tokenizer, longest row or blocks do not fit.
        """
        try:
            self._check(model, data, objective)
        except (LoadError, RecipeError) as error:
            raise UserError(f"{OPTION}: {error}") from None

    def _check(self, model: Model, data: Any, objective: Objective) -> None:
        metadata = {} if self.path.is_dir() else read_metadata(self.path)
        recipe = load_recipe(self.path / RECIPE) if self.path.is_dir() else stored_recipe(self.path, metadata)
        own = assembly.check(recipe)
        where = f"{OPTION} {self.path}"
        if own.kind != model.kind:
            raise UserError(f"{where}: is a {own.kind} model, and the student is {model.kind}: choose one of that kind")
        if own.vocab_size != model.vocab_size:
            raise UserError(
                f"{where}: has {own.vocab_size} token ids, and the student {model.vocab_size}: "
                f"set --recipe.vocab_size {own.vocab_size}, with the teacher's tokenizer"
            )
        length = max(getattr(data, "length", 0), getattr(data, "longest", 0))
        if length > (longest := own.length_limit[1]):
            raise UserError(f"{where}: reads at most {longest} tokens, and rows have {length}: lower --data.length")
        for ability, why in objective.abilities(getattr(data, "form", "documents")).items():
            if blocks := blocks_without(own, ability):
                raise UserError(f"{where}: {why}, which is not supported by its {blocks}")
        ours: Tokenizer | None = getattr(data, "tokenizer", None)
        theirs = self._tokenizer(metadata)
        if ours is not None and _identity(ours) != _identity(theirs):
            folder = str(self.path) if self.path.is_dir() else "the folder that `blockformer export` makes of it"
            raise UserError(
                f"{where}: has {_named(theirs)}, and the data have {_named(ours)}, which is not the same: choose "
                f"--data.tokenizer file --data.tokenizer_path {folder}"
            )

    def _tokenizer(self, metadata: dict[str, Any]) -> Tokenizer | None:
        if self.path.is_dir():
            return imported_tokenizer(self.path) if has_tokenizer(self.path) else None
        return None if metadata.get("tokenizer") is None else stored_tokenizer(self.path, metadata)

    def model(self, like: Tensor) -> Model:
        """The model, on the device and in the data type of a tensor, in evaluation mode and without gradients.

        Raises:
            UserError: its weights cannot be read.
        """
        if self._model is None:
            try:
                self._model = load(self.path).requires_grad_(False)
            except (LoadError, RecipeError) as error:
                raise UserError(f"{OPTION}: {error}") from None
        if (self._model.table.device, self._model.table.dtype) != (like.device, like.dtype):
            self._model.to(like.device, like.dtype)
        return self._model


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _identity(tokenizer: Tokenizer | None) -> Any:
    """What each id stands for."""
    return None if tokenizer is None else (tokenizer.names, tokenizer.special)


def _named(tokenizer: Tokenizer | None) -> str:
    return "no tokenizer" if tokenizer is None else f"a tokenizer {tokenizer.kind} of {tokenizer.vocab_size} ids"
