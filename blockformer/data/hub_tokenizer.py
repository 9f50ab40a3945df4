"""Tokenizers in the format of transformers: tokenizer.json and tokenizer_config.json."""

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Library
from tokenizers import processors

from blockformer.data.tokenizer import SPECIAL, Tokenizer
from blockformer.errors import DataError

TOKENS, SETTINGS = "tokenizer.json", "tokenizer_config.json"
ROLES = dict(zip(("pad", "bos", "eos", "mask"), SPECIAL, strict=True))
TEMPLATES = {
    "decoder_only": ("<bos> $A", "<bos> $A $B:1"),
    "encoder_decoder": ("$A <eos>", "$A <eos> $B:1 <eos>:1"),
}
"""Special tokens around one text and around a pair, by kind of model; the same as in `TextModel`."""
SAMPLES = (
    "The quick brown fox jumps over 13 lazy dogs; isn't it 5.70 €?",
    "  two  spaces, a\ttab\nand\r\nbreaks \n\n",
    "Zażółć gęślą jaźń · Größe naïve façade · ελληνικά · русский · العربية · हिन्दी",
    "日本語のテキスト 中文文本 한국어 ไทย",
    "emoji 👩‍👩‍👧‍👦 🏳️‍🌈 e\u0301 \u200b \ufeff \u00a0 \x00 \x7f",
    "def f(x):\n    return {'a': [x ** 2, \"b\\n\"]}  # <html> </html> </s> [CLS] <|endoftext|>",
)


def write(tokenizer: Tokenizer, kind: str, length: int, folder: Path) -> None:
    """Write a tokenizer so that transformers encodes as `TextModel` does.

    Args:
        tokenizer: the tokenizer that the model was trained with.
        kind: of the model; it decides which special tokens are added to a text.
        length: the model's max_length.
        folder: where to write.
    """
    library = tokenizer.library()
    if kind in TEMPLATES:
        single, pair = TEMPLATES[kind]
        library.post_processor = processors.TemplateProcessing(
            single=single, pair=pair, special_tokens=list(tokenizer.special.items())
        )
    library.save(str(folder / TOKENS))
    # Masked language models need <mask> in their texts; for other kinds, "<eos>" in a text is five characters.
    roles = {f"{role}_token": name for role, name in ROLES.items()}
    write_settings(folder, roles | {"model_max_length": length, "split_special_tokens": kind != "encoder_only"})


def write_settings(folder: Path, more: dict[str, Any]) -> None:
    """Write a tokenizer_config.json for a tokenizer.json, with further settings."""
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        **more,
    }
    (folder / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def special_names(folder: Path, tokens: dict[str, Any]) -> dict[str, str]:
    """Settings with the names of special tokens, from their ids in a config and the folder's tokenizer.json."""
    library = Library.from_file(str(folder / TOKENS))
    found = {key: library.id_to_token(value) for key, value in tokens.items() if isinstance(value, int)}
    roles = {f"{role}_token" for role in (*ROLES, "sep", "cls", "unk")}
    return {key[:-3]: name for key, name in found.items() if name is not None and key[:-3] in roles}


def verify(folder: Path, encode: Callable[[str], Sequence[int]]) -> int:
    """Compare the tokenizer that transformers loads from a folder with the original, special tokens included.

    Args:
        folder: contains the tokenizer's files.
        encode: the original's function from a text to ids.

    Returns:
        Number of texts compared.

    Raises:
        DataError: transformers cannot load it, or encodes a text differently.
    """
    import transformers

    transformers.logging.set_verbosity_error()
    try:  # trust_remote_code=False: code of a custom model in the folder must not run
        theirs = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, AttributeError, ImportError) as error:
        raise DataError(f"transformers cannot load the tokenizer: {str(error).splitlines()[0]}") from None
    texts = [*SAMPLES, *_random_texts()]
    for text in texts:
        if (found := theirs(text)["input_ids"]) != (wanted := list(encode(text))):
            raise DataError(f"transformers' tokenizer encodes {text!r} as {found}, and the original as {wanted}")
    return len(texts)


def _random_texts() -> list[str]:
    draw = random.Random(0)
    alphabets = (range(32, 127), range(0x20, 0x250), range(0x20, 0xD800), range(0x1F300, 0x1FAFF))
    return ["".join(chr(draw.choice(alphabet)) for _ in range(40)) for alphabet in alphabets for _ in range(8)]
