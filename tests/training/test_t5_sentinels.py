"""Span corruption with the tokenizer of a T5: its own sentinels, as transformers has them."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from blockformer.data.module import TextData
from blockformer.training.init_from import matching_tokens
from blockformer.training.objectives import MixtureOfDenoisers, Objective, SpanCorruption
from tests.conftest import WORDS

hf = pytest.importorskip("transformers")
SENTINELS = 4


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Path]:
    """A tiny T5 of random weights, its tokenizer, and the folder of both."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((f"\u2581{word}", -3.0) for word in WORDS)]
    pieces += [(letter, -9.0) for letter in "\u2581abcdefghijklmnopqrstuvwxyz"]
    pieces += [(f"<extra_id_{number}>", 0.0) for number in reversed(range(SENTINELS))]
    tokenizer = hf.T5Tokenizer(vocab=pieces, extra_ids=SENTINELS, model_max_length=64)
    config = hf.T5Config(
        vocab_size=len(tokenizer) + 4, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    folder = tmp_path_factory.mktemp("t5")
    model = hf.T5ForConditionalGeneration(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, tokenizer, folder


def data(folder: Path, objective: Objective, length: int = 24) -> TextData:
    draw, texts = random.Random(1), folder / "texts.txt"
    texts.write_text("\n\n".join(" ".join(draw.choices(WORDS, k=draw.randint(8, 20))) for _ in range(30)))
    settings: dict[str, Any] = {"tokenizer": "file", "tokenizer_path": str(folder), "length": length}
    return TextData("text", files=str(texts), objective=objective, **settings)


def test_sources_and_targets_are_those_of_transformers(published: tuple[Any, Any, Path]) -> None:
    model, theirs, folder = published
    text = data(folder, SpanCorruption())
    assert text.vocab_size == len(theirs)  # no ids are added
    assert text.extra_tokens == {name: theirs.convert_tokens_to_ids(name) for name in SpanCorruption().extra_tokens(24)}
    samples = text.samples("train")
    batch = samples.batch(np.arange(len(samples)), 0)
    for source, mask, labels in zip(batch["source"], batch["source_mask"], batch["targets"], strict=True):
        read, written = source[mask].tolist(), labels[labels != -100].tolist()
        sentinels = [token for token in read if theirs.convert_ids_to_tokens(token).startswith("<extra_id_")]
        assert sentinels == theirs.convert_tokens_to_ids([f"<extra_id_{n}>" for n in range(len(sentinels))])
        assert [token for token in written if token in sentinels] == sentinels
        for ids in (read, written):  # what a user of transformers would write by hand
            words = theirs.decode(ids).replace("</s>", "")
            assert theirs(words).input_ids[-1] == ids[-1] == theirs.eos_token_id
            assert [token for token in theirs(words).input_ids if token in sentinels] == sentinels
    shifted = model.prepare_decoder_input_ids_from_labels(labels=batch["targets"])
    assert torch.equal(batch["target"][batch["target_mask"]], shifted[batch["target_mask"]])


def test_sentinels_that_it_lacks_come_after_its_ids(published: tuple[Any, Any, Path]) -> None:
    _, theirs, folder = published
    text = data(folder, MixtureOfDenoisers(), length=64)
    names = MixtureOfDenoisers().extra_tokens(64)
    new = [name for name in names if name not in theirs.get_vocab()]
    assert {"<R>", "<S>", "<X>"} < {*new} < {*names}
    assert sorted(text.extra_tokens[name] for name in new) == list(range(len(theirs), len(theirs) + len(new)))
    assert text.vocab_size == len(theirs) + len(new)
    tokenizer = text.tokenizer
    assert tokenizer is not None
    begun = matching_tokens(tokenizer, text.extra_tokens, tokenizer, {})  # the imported model knows its own
    assert begun == [*range(len(theirs)), *[-1] * len(new)]
