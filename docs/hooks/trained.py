"""A small model that is trained in seconds when the site is built, and what it computes for a sentence."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer as Library
from tokenizers import models, pre_tokenizers

import blockformer as bf
from blockformer.data.tokenizer import SpecialTokens, Tokenizer
from blockformer.demo.sentences import pairs
from blockformer.explanation import Explanation, Subject, explain_subject
from blockformer.explanation.page import as_html
from registry import load_recipe

RECIPE, SENTENCE = "tiny_decoder", "cat sees dog and eats fish"
STEPS, BATCH, RATE = 150, 64, 5e-3
# As in `make explain`. With initial values of standard deviation 0.02, which suit wide models, the heads of so narrow a
# model begin to differ late: whether it has learned in 150 steps, and what its heads attend to, depends on the seed.
INIT = "xavier"
NOTHING = -100


class Words(Tokenizer):
    """One token for each known word, and one for the end of a sentence."""

    kind = "words"

    def __init__(self, words: list[str]) -> None:
        known = {word: number for number, word in enumerate(["<end>", *words])}
        library = Library(models.WordLevel(known, unk_token="<end>"))
        library.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        library.add_special_tokens(["<end>"])
        super().__init__(library, SpecialTokens(pad=0, bos=0, eos=0, mask=None))
        self.words = words

    def around(self, kind: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return (), ()

    @classmethod
    def rebuild(cls, dumped: Mapping[str, Any]) -> "Words":
        return cls(dumped["words"])

    def dump(self) -> dict[str, Any]:
        return super().dump() | {"words": self.words}


@cache
def explained() -> Explanation:
    """What the model of the recipe computes for the sentence, after it has learned those of `make explain`."""
    sentences = [english for english, _ in pairs()]
    tokenizer = Words(sorted({word for one in sentences for word in one.split()}))
    recipe = load_recipe(RECIPE, {"vocab_size": tokenizer.vocab_size, "init": INIT})
    model = bf.build(recipe, seed=0)
    rows = [[*tokenizer.encode(one), tokenizer.eos] for one in sentences]
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[NOTHING] * (longest - len(row))] for row in rows])
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    generator = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        batch = ids[torch.randint(len(ids), (BATCH,), generator=generator)]
        logits = model(batch[:, :-1].clamp(min=0))
        optimizer.zero_grad()
        F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), ignore_index=NOTHING).backward()
        optimizer.step()
    return explain_subject(Subject(RECIPE, model, tokenizer, recipe), SENTENCE)


def page(language: str) -> str:
    """The page of `blockformer explain` for this model and sentence."""
    return as_html(explained(), language=language)
