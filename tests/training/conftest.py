import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "while", "wizards", "brew", "potions"]
Fit = Callable[..., Path]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few kilobytes of text that a model can learn a little of."""
    draw = random.Random(0)
    documents = (" ".join(draw.choices(WORDS, k=draw.randint(10, 40))) for _ in range(60))
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(".\n\n".join(documents))
    return path


@pytest.fixture
def arguments(text: Path) -> list[str]:
    """What makes `fit` train a tiny model on that text, in epochs of a few steps."""
    return [
        *("--recipe", "tiny_decoder", "--recipe.decoder.depth", "1", "--recipe.embedding.dropout", "0.1"),
        *("--data.dataset", "text", f"--data.files={text}", "--data.tokenizer", "bytes"),
        *("--data.length", "32", "--data.batch_size", "16", "--data.validation", "0.1", "--data.test", "0.1"),
        *("--trainer.accelerator", "cpu", "--trainer.log_every_n_steps", "1", "--optimizer.warmup_steps", "2"),
        *("--trainer.enable_progress_bar", "false", "--run.wandb", "disabled"),
    ]


@pytest.fixture
def fit(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fit:
    """Run `blockformer fit` in this process and give the run's folder."""
    from training.cli.fit import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BLOCKFORMER_CACHE", str(tmp_path / "cache"))

    def run(*more: str, name: str, base: bool = True) -> Path:
        status = main(["fit", *(arguments if base else []), "--run.name", name, *more])
        assert status == 0
        return tmp_path / "runs" / name

    return run
