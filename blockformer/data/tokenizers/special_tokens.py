"""Which tokens of a tokenizer from elsewhere begin, end, fill and hide: by its files, or by their usual names."""

from collections.abc import Mapping
from typing import Any

from tokenizers import Tokenizer as Library

from blockformer.data.tokenizer import SpecialTokens
from blockformer.errors import DataError
from registry.errors import quoted

Hints = Mapping[str, str | int]
"""Names or ids of tokens by what they are for: `bos`, `cls`, `decoder_start`, `eos`, `sep`, `pad`, `mask`."""
STAND_INS = {
    "bos": ("decoder_start", "bos", "cls", "eos", "sep"),
    "eos": ("eos", "sep", "bos", "cls"),
    "pad": ("pad", "eos", "sep", "bos"),
    "mask": ("mask",),
}
"""What is taken for each, the first that there is. GPT-2 begins texts with its end token, and BERT with `[CLS]`; the
decoder of T5 begins with the token that fills up."""
USUAL = {
    "bos": ("<bos>", "<s>", "<|begin_of_text|>", "<|startoftext|>", "[BOS]"),
    "cls": ("[CLS]", "<cls>"),
    "eos": ("<eos>", "</s>", "<|end_of_text|>", "<|endoftext|>", "[EOS]"),
    "sep": ("[SEP]", "<sep>"),
    "pad": ("<pad>", "[PAD]", "<|pad|>"),
    "mask": ("<mask>", "[MASK]"),
}
SHOWN = 12


def hints_of(*settings: Mapping[str, Any]) -> dict[str, str | int]:
    """What configurations of Hugging Face say, the first that says it: `bos_token`, or `bos_token_id`."""
    found: dict[str, str | int] = {}
    for role in ("bos", "cls", "decoder_start", "eos", "sep", "pad", "mask"):
        for values in settings:
            token = values.get(f"{role}_token")
            name = token.get("content") if isinstance(token, dict) else token
            ids = values.get(f"{role}_token_id")
            number = ids[0] if isinstance(ids, list) and ids else ids
            said = name if isinstance(name, str) else number
            if isinstance(said, str | int) and not isinstance(said, bool):
                found[role] = said
                break
    return found


def find_special(library: Library, said: Mapping[str, str | None], hints: Hints) -> SpecialTokens:
    """The special tokens of a tokenizer.

    Args:
        library: the tokenizer.
        said: names that the user gives for `bos`, `eos`, `pad` and `mask`.
        hints: what the files say.

    Raises:
        DataError: a name that was given is no token, or no token begins or ends a text.
    """
    usual = {added.content for added in library.get_added_tokens_decoder().values() if added.special}
    known: dict[str, int] = {}
    for role in {*USUAL, *hints}:
        names = [hints[role]] if role in hints else [name for name in USUAL[role] if name in usual]
        ids = [name if isinstance(name, int) else library.token_to_id(name) for name in names]
        if fits := [one for one in ids if one is not None and library.id_to_token(one) is not None]:
            known[role] = fits[0]
    chosen: dict[str, int] = {}
    for role, name in said.items():
        if name is not None:
            if (number := library.token_to_id(name)) is None:
                raise DataError(f"data.{role}_token {quoted(name)} is no token of the tokenizer; {_listed(usual)}")
            chosen[role] = number
    known |= chosen
    found = {
        role: chosen.get(role, next((known[one] for one in others if one in known), None))
        for role, others in STAND_INS.items()
    }
    if found["bos"] is None or found["eos"] is None or found["pad"] is None:
        raise DataError(f"the tokenizer has no token that ends a text: name one by --data.eos_token; {_listed(usual)}")
    return SpecialTokens(found["pad"], found["bos"], found["eos"], found["mask"])


def _listed(names: set[str]) -> str:
    shown = sorted(names)[:SHOWN]
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return f"its special tokens are {', '.join(map(quoted, shown))}{more}" if shown else "it has no special tokens"
