"""Begin a run with what another has learned."""

import json
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from blockformer import assembly
from blockformer.assembly.checkpoint import PREFIX
from blockformer.assembly.recipe_diff import Change, compare
from blockformer.assembly.warm_start import WarmStartError, WarmStartReport
from blockformer.data import tokenizer as tokenizers
from blockformer.data.tokenizer import Tokenizer
from blockformer.errors import UserError
from blockformer.files import write_text
from blockformer.training.callbacks.step_callback import is_dry_run
from blockformer.training.init_from import matching_ids, read_source

REPORT = "init.json"
DIFFERENCES = 6  # settings to name on the terminal; the file has all


class WarmStart(Callback):
    """Gives the model its first weights, once it has parameters and the data's tokenizer is known, and reports.

    Args:
        source: an imported folder, a checkpoint, or a run's folder.
        folder: the run's own, for `init.json`.
    """

    def __init__(self, source: Path, folder: Path) -> None:
        self.source, self.folder = source, folder

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do it in every process alike, with the whole model, of which the strategy takes this process's part.

        Raises:
            UserError: there is no such model, or it has nothing that this one could begin with.
        """
        module: Any = pl_module
        old, recipe, metadata = read_source(self.source)
        tokens, about_tokens = _tokens(getattr(trainer, "datamodule", None), metadata)
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
            "loss": metadata.get("evaluation", {}).get("val/loss"),
            "sizes": dict(report.sizes),
        }
        module.provenance["warm_start"] = facts
        if trainer.is_global_zero:
            settings = [_in_words(change) for change in compare(old, whole)]
            print(*_said(facts, report, about_tokens, settings), sep="\n", flush=True)
            if not is_dry_run(trainer):
                content = facts | {"tokens": about_tokens, "settings": settings, **report.dump()}
                write_text(self.folder / REPORT, json.dumps(content, indent=1))


def _tokens(data: Any, metadata: dict[str, Any]) -> tuple[list[int] | None, str]:
    """The old ids of the data's tokens, if they are others, and what to say about that."""
    tokenizer: Tokenizer | None = getattr(data, "tokenizer", None)
    if tokenizer is None:
        return None, ""
    known = metadata.get("tokenizer")
    if known is None:
        return None, "its tokenizer is not known: tokens are matched by id, right only if ids mean the same in both"
    if known == tokenizer.dump():
        return None, ""
    tokens = matching_ids(tokenizer, tokenizers.load(known))
    found = sum(token >= 0 for token in tokens)
    words = f"its tokenizer is another: of {len(tokens)} tokens {found} are in it too, and keep what it learned"
    return tokens, words


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
