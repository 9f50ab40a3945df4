"""`--init-from`: start a run from the weights of a trained model."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from blockformer import assembly
from blockformer.assembly.checkpoint import PREFIX
from blockformer.assembly.recipe_diff import Change, compare
from blockformer.assembly.warm_start import WarmStartError, WarmStartReport
from blockformer.data.tokenizer import Tokenizer
from blockformer.data.tokenizers.file import has_tokenizer
from blockformer.errors import UserError
from blockformer.files import as_json, write_text
from blockformer.generation.trained_folder import imported_tokenizer, stored_tokenizer
from blockformer.training.callbacks.step_callback import is_dry_run
from blockformer.training.init_from import matching_tokens, read_source
from registry.text import printable

REPORT = "init.json"
DIFFERENCES = 6  # of recipe settings that are printed; init.json has all


class WarmStart(Callback):
    """Sets the initial weights, when the model has parameters and the data a tokenizer, and reports what it did.

    Args:
        source: an imported folder, a checkpoint, or a run's folder.
        folder: the new run's folder, for `init.json`; None: nothing is written.
    """

    def __init__(self, source: Path, folder: Path | None) -> None:
        self.source, self.folder = source, folder

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Build the whole model in every process; the strategy takes this process's part of it.

        Raises:
            UserError: the model cannot be read, or none of its parameters can be used.
        """
        module: Any = pl_module
        old, recipe, metadata = read_source(self.source)
        tokens, about_tokens = _tokens(getattr(trainer, "datamodule", None), metadata, self.source)
        try:
            whole = assembly.build(module.recipe, seed=module.seed)
            report = assembly.warm_start(whole, old, tokens=tokens)
        except WarmStartError as error:
            raise UserError(f"--init-from {self.source}: {error}") from error
        state = {f"{PREFIX}{name}": tensor for name, tensor in whole.state_dict().items()}
        trainer.strategy.load_model_state_dict({"state_dict": state})
        facts = {
            "source": str(self.source),
            "recipe_hash": recipe.hash,
            "step": metadata.get("step"),
            "loss": (metadata.get("evaluation") or {}).get("val/loss"),
            "sizes": dict(report.sizes),
        }
        module.provenance["warm_start"] = facts
        if trainer.is_global_zero:
            settings = [_in_words(change) for change in compare(old, whole)]
            print(*map(printable, _said(facts, report, about_tokens, settings)), sep="\n", flush=True)
            if self.folder is not None and not is_dry_run(trainer):
                content = facts | {"tokens": about_tokens, "settings": settings, **report.dump()}
                write_text(self.folder / REPORT, as_json(content, indent=1))


def _tokens(data: Any, metadata: dict[str, Any], source: Path) -> tuple[list[int] | None, str]:
    """The old id of each token, unless all ids are the same, and a note about it."""
    tokenizer: Tokenizer | None = getattr(data, "tokenizer", None)
    known = metadata.get("tokenizer")
    if tokenizer is None:
        return None, "" if known is None else "it was trained on text: rows of token ids are kept by id"
    old, reason = None, ""
    if known is not None:
        old = stored_tokenizer(source, metadata)
    elif has_tokenizer(source):
        try:
            old = imported_tokenizer(source)
        except UserError as error:
            reason = f"is not used: {error}"
    extra, before = getattr(data, "extra_tokens", {}), metadata.get("extra_tokens") or {}
    tokens, words = matching_tokens(tokenizer, extra, old, before), list[str]()
    if old is None:
        reason = reason or "is unknown"
        words.append(
            f"its tokenizer {reason}: tokens are matched by id, which is right only if both tokenizers are the same"
        )
    elif not old.encodes_as(tokenizer):
        found, number = sum(token >= 0 for token in tokens[: tokenizer.vocab_size]), tokenizer.vocab_size
        words.append(f"its tokenizer differs: {found} of {number} tokens are in both and keep their rows")
    if extra:
        found = sum(tokens[token] >= 0 for token in extra.values())
        words.append(f"{found} of {len(extra)} tokens of the objective are in both and keep their rows")
    return (None if tokens == list(range(len(tokens))) else tokens), "; ".join(words)


def _in_words(change: Change) -> str:
    where = ", ".join(change.places) or "the model"
    key = f" {change.key}" if change.key else ""
    return f"{where}:{key} {change.old or 'nothing'} -> {change.new or 'nothing'}"


def _said(facts: dict[str, Any], report: WarmStartReport, about_tokens: str, settings: list[str]) -> list[str]:
    step = f", step {facts['step']}" if facts["step"] is not None else ""
    loss = f", val/loss {facts['loss']:.4f}" if facts["loss"] is not None else ""
    sizes = ", ".join(f"{size:,} {kind}" for kind, size in report.sizes.items() if size)
    lines = [f"warm start from {facts['source']}{step}{loss}: {sizes}", *report.lines()]
    if settings:
        more = f", and {len(settings) - DIFFERENCES} more in {REPORT}" if len(settings) > DIFFERENCES else ""
        lines.append(f"  the recipes differ: {'; '.join(settings[:DIFFERENCES])}{more}")
    return [*lines, f"  {about_tokens}"] if about_tokens else lines
