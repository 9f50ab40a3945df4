"""Fill in blanked letters."""

from collections.abc import Sequence

import torch
from rich.text import Text

from blockformer.demo.runs import Run, console, fit, prepare, say_where
from blockformer.generation.text_model import TextModel

BLANK = "_"
PROMPTS = (
    "Return the num_er of elements in the li_t.",
    "If the f_le does not ex_st, an exc_ption is ra_sed.",
    "Read the fi_e and ret_rn its cont_nts as a st_ing.",
    "The default va__e is None.",
)


def main(further: Sequence[str]) -> None:
    """Train an encoder on bytes, and let it fill in what is missing."""
    prepare("masked.yaml")
    run = fit("demo_masked", "masked.yaml", further)
    accuracy, chance = run.validation["val/accuracy"], majority(run)
    console.print(
        f"\nmasked bytes of the validation text: {accuracy:.1%} correct; "
        f"always predicting the most common byte: {chance:.1%}\n"
    )
    model = TextModel.load(run.folder)
    for prompt in PROMPTS:
        filled, blanks = model.fill_masks(prompt, BLANK)
        line = Text(f"{prompt}\n").append(filled)
        for blank in blanks:
            line.stylize("bold green", len(prompt) + 1 + blank.position, len(prompt) + 2 + blank.position)
        console.print(line)
    say_where(run)


def majority(run: Run) -> float:
    """The share of the validation's targets that are the most common one."""
    batches = (batch["targets"] for batch in run.data().loader("validation"))
    counts = sum(targets[targets >= 0].bincount(minlength=run.facts["recipe"]["vocab_size"]) for targets in batches)
    assert isinstance(counts, torch.Tensor)
    return (counts.max() / counts.sum()).item()
