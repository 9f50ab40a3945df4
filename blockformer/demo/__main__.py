"""Run a demonstration: `python -m blockformer.demo lm`."""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from blockformer import signals
from blockformer.errors import UserError

DEMOS = {
    "lm": "a small language model, and the same without feed-forward layers",
    "translation": "the article's encoder-decoder translates English to German",
    "explain": "a model of each architecture, trained in a minute, and a page that shows what it computes",
    "masked": "an encoder fills in blanked letters",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one demonstration; arguments that are not its own go to every `blockformer fit` that it starts."""
    parser = argparse.ArgumentParser(
        prog="python -m blockformer.demo",
        description="Train something small and show what it learned, in about four minutes on two CPU cores.",
        epilog="further arguments go to `blockformer fit`, as in: python -m blockformer.demo lm --trainer.max_steps 50",
        allow_abbrev=False,
    )
    parser.add_argument("demo", choices=DEMOS, help="; ".join(f"{name}: {what}" for name, what in DEMOS.items()))
    options, further = parser.parse_known_args(arguments)
    # Threads that spin while they wait make a busy machine many times slower, and an idle one hardly faster.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        with signals.stopping("python -m blockformer.demo"):
            import_module(f"blockformer.demo.{options.demo}").main(further)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except signals.Stopped as stopped:
        return stopped.status  # the run has said that it was stopped
    return 0


if __name__ == "__main__":
    sys.exit(main())
