"""Tokenizers as transformers reads them: tokenizer.json, and tokenizer_config.json beside it."""

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, pre_tokenizers, processors

from blockformer.data.tokenizer import SPECIAL, Tokenizer, byte_characters
from blockformer.errors import DataError

TOKENS, SETTINGS = "tokenizer.json", "tokenizer_config.json"
ROLES = dict(zip(("pad", "bos", "eos", "mask"), SPECIAL, strict=True))
TEMPLATES = {
    "decoder_only": ("<bos> $A", "<bos> $A $B:1"),
    "encoder_decoder": ("$A <eos>", "$A <eos> $B:1 <eos>:1"),
}
"""What a model of each kind begins and ends a text with, as `TextModel` does."""
SAMPLES = (
    "The quick brown fox jumps over 13 lazy dogs; isn't it 5.70 €?",
    "  two  spaces, a\ttab\nand\r\nbreaks \n\n",
    "Zażółć gęślą jaźń · Größe naïve façade · ελληνικά · русский · العربية · हिन्दी",
    "日本語のテキスト 中文文本 한국어 ไทย",
    "emoji 👩‍👩‍👧‍👦 🏳️‍🌈 e\u0301 \u200b \ufeff \u00a0 \x00 \x7f",
    "def f(x):\n    return {'a': [x ** 2, \"b\\n\"]}  # <html> </html> </s> [CLS] <|endoftext|>",
)


def write(tokenizer: Tokenizer, kind: str, length: int, folder: Path) -> None:
    """Write a tokenizer of ours so that transformers encodes as we do.

    Args:
        tokenizer: what the model was trained with.
        kind: of the model; it decides which special tokens begin and end a text.
        length: most tokens that the model takes.
        folder: where to write.
    """
    library = _library(tokenizer)
    library.add_special_tokens(list(SPECIAL))
    if kind in TEMPLATES:
        single, pair = TEMPLATES[kind]
        ids = [(name, number) for number, name in enumerate(SPECIAL)]
        library.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=ids)
    library.save(str(folder / TOKENS))
    # In a text that is to be continued, "<eos>" is five characters; one to be filled in has to be able to say <mask>.
    roles = {f"{role}_token": name for role, name in ROLES.items()}
    write_settings(folder, roles | {"model_max_length": length, "split_special_tokens": kind != "encoder_only"})


def write_settings(folder: Path, more: dict[str, Any]) -> None:
    """Write a tokenizer_config.json that takes all from tokenizer.json."""
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        **more,
    }
    (folder / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def special_names(folder: Path, tokens: dict[str, Any]) -> dict[str, str]:
    """The settings that name special tokens, from their ids in a config and the folder's tokenizer.json."""
    library = Library.from_file(str(folder / TOKENS))
    found = {key: library.id_to_token(value) for key, value in tokens.items() if isinstance(value, int)}
    roles = {f"{role}_token" for role in (*ROLES, "sep", "cls", "unk")}
    return {key[:-3]: name for key, name in found.items() if name is not None and key[:-3] in roles}


def verify(folder: Path, encode: Callable[[str], Sequence[int]]) -> int:
    """Compare what transformers reads from a folder with the original, special tokens included.

    Args:
        folder: with the tokenizer's files.
        encode: a text to ids, as the original does it.

    Returns:
        How many texts were compared.

    Raises:
        DataError: transformers cannot read it, or encodes a text differently.
    """
    import transformers

    transformers.logging.set_verbosity_error()
    try:  # a tokenizer is data: where the model beside it has code of its own, that stays unread
        theirs = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, AttributeError, ImportError) as error:
        raise DataError(f"transformers cannot read the tokenizer: {str(error).splitlines()[0]}") from None
    texts = [*SAMPLES, *_drawn()]
    for text in texts:
        if (found := theirs(text)["input_ids"]) != (wanted := list(encode(text))):
            raise DataError(f"transformers' tokenizer encodes {text!r} as {found}, and the original as {wanted}")
    return len(texts)


def _drawn() -> list[str]:
    draw = random.Random(0)
    kinds = (range(32, 127), range(0x20, 0x250), range(0x20, 0xD800), range(0x1F300, 0x1FAFF))
    return ["".join(chr(draw.choice(kind)) for _ in range(40)) for kind in kinds for _ in range(8)]


def _library(tokenizer: Tokenizer) -> Library:
    """The byte-level BPE of a tokenizer, with our ids; one of bytes is a BPE without merges."""
    special = {name: number for number, name in enumerate(SPECIAL)}
    if "bpe" in (dumped := tokenizer.dump()):
        content = dumped["bpe"]
        vocabulary = {token: number + len(SPECIAL) for token, number in content["model"]["vocab"].items()}
        model = {**content["model"], "vocab": special | vocabulary}
        return Library.from_str(json.dumps({**content, "model": model}))
    characters = byte_characters()
    library = Library(models.BPE(special | {characters[value]: value + len(SPECIAL) for value in range(256)}, []))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    return library
