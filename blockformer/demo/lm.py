"""Compare a small language model with a variant of it."""

from collections.abc import Sequence

import torch
from rich.table import Table

from blockformer.demo.runs import Run, console, fit, prepare, say_where
from blockformer.generation import sampler
from blockformer.generation.text_model import TextModel

RECIPES = ("demo_lm", "demo_lm_no_feedforward")
PROMPT = "Return the number of"


def main(further: Sequence[str]) -> None:
    """Train both on the same batches, put their figures side by side, and let each continue a prompt."""
    prepare("lm.yaml")
    runs = [fit(recipe, "lm.yaml", further) for recipe in RECIPES]
    console.print()
    console.print(table(runs))
    for run in runs:
        continue_prompt(run)
    say_where(*runs)


def table(runs: Sequence[Run]) -> Table:
    """A row for each run, and one for a compressor that looks at the same text."""
    result = Table(title="English about programming: the validation text", title_justify="left")
    result.add_column("model")
    for name in ("bits per byte", "parameters", "tokens/s", "peak memory"):
        result.add_column(name, justify="right")
    for run in runs:
        result.add_row(
            run.facts["variant"],
            f"{run.validation['val/bits_per_byte']:.3f}",
            f"{run.facts['model']['parameters']:,}",
            f"{run.tokens_per_second:,.0f}",
            f"{run.peak_memory:,.0f} MiB",
        )
    result.add_row("xz", f"{runs[0].facts['data']['xz_bits_per_byte']:.3f}", style="dim")
    return result


def continue_prompt(run: Run) -> None:
    """Show what a run's model writes after the prompt."""
    console.print(f"\n[bold]{run.facts['variant']}[/bold] continues [bold]{PROMPT!r}[/bold]:")
    choose = sampler(temperature=0.8, top_p=0.95, generator=torch.Generator().manual_seed(0))
    text = "".join(TextModel.load(run.folder).stream(PROMPT, max_new_tokens=80, choose=choose))
    console.print(f"{PROMPT}{text}", markup=False)
