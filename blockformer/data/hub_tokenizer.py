"""Tokenizers in the format of transformers: tokenizer.json and tokenizer_config.json."""

import contextlib
import json
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Library
from tokenizers import processors

from blockformer.data.tokenizer import Tokenizer
from blockformer.data.tokenizers.file import TOKENS, FileTokenizer
from blockformer.data.tokenizers.wordpiece import UNKNOWN, WordPieceTokenizer
from blockformer.errors import DataError
from blockformer.files import write_text
from registry.text import shortened

if sys.platform != "win32":
    import resource

SETTINGS = "tokenizer_config.json"
ROLES = ("pad", "bos", "eos", "mask")
TIMEOUT = 300  # seconds
MEMORY = 2**33
"""Bytes of data of the process that compares a tokenizer from elsewhere."""
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
        kind: of the model, or ``pooled``; it decides which special tokens are added to a text.
        length: the model's max_length.
        folder: where to write.
    """
    roles: dict[str, Any] = special_roles(tokenizer)
    if tokenizer.chat is not None:
        roles["chat_template"] = tokenizer.chat.text
    if isinstance(tokenizer, FileTokenizer):
        write_text(folder / TOKENS, tokenizer.text)
        write_settings(folder, roles | {"model_max_length": length})
        return
    library, names = tokenizer.library(), tokenizer.names
    before, after = tokenizer.around(kind)
    if before or after:
        begins, ends = [names[token] for token in before], [names[token] for token in after]
        library.post_processor = processors.TemplateProcessing(
            single=[*begins, "$A", *ends],
            pair=[*begins, "$A", *ends, "$B:1", *(f"{name}:1" for name in ends)],
            special_tokens=[(names[token], token) for token in {*before, *after}],
        )
    library.save(str(folder / TOKENS))
    # Masked language models need <mask> in their texts, and chat templates write special tokens; for others, "<eos>" in
    # a text is five characters.
    more = {"model_max_length": length, "split_special_tokens": kind != "encoder_only" and tokenizer.chat is None}
    if kind == "decoder_only":  # texts of a batch are continued from their ends
        more["padding_side"] = "left"
    write_settings(folder, roles | more)


def special_roles(tokenizer: Tokenizer) -> dict[str, str]:
    """The names of the special tokens, by their keys in a tokenizer_config.json."""
    names = dict(tokenizer.token_names)
    if tokenizer.chat is not None:  # the template names tokens that there are, not those that take their places
        own = tokenizer.chat.tokens
        names = {key: name for key, name in names.items() if key in own or key == "pad_token"} | dict(own)
    return names | ({"unk_token": UNKNOWN} if isinstance(tokenizer, WordPieceTokenizer) else {})


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
    """Settings with the names of special tokens, from their ids in a config and the folder's tokenizer.json.

    Raises:
        DataError: the file is no tokenizer.
    """
    try:
        content = json.loads((folder / TOKENS).read_text(encoding="utf-8"))
        vocabulary = content["model"]["vocab"]
        named = (
            vocabulary.items() if isinstance(vocabulary, dict) else ((row[0], i) for i, row in enumerate(vocabulary))
        )
        names = {number: name for name, number in named} | {
            one["id"]: one["content"] for one in content["added_tokens"]
        }
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DataError(f"{TOKENS} is not a valid tokenizer: {type(error).__name__}: {error}") from None
    roles = {f"{role}_token" for role in (*ROLES, "sep", "cls", "unk")}
    ids = {key[:-3]: value for key, value in tokens.items() if type(value) is int and value in names}
    return {key: str(names[value]) for key, value in ids.items() if key in roles}


def verify_copy(folder: Path) -> int:
    """:func:`verify` for a tokenizer from elsewhere: its own file against what transformers loads from the folder.

    In a process of its own with limits of time and memory, as patterns and ids of a stranger can stop the library or
    take its time.

    Returns:
        Number of texts compared.

    Raises:
        DataError: transformers or the library cannot use it, or they encode a text differently.
    """
    command = [sys.executable, "-P", "-m", "blockformer.data.hub_tokenizer", str(folder), str(MEMORY)]
    try:
        result = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        raise DataError(f"{TOKENS}: took more than {TIMEOUT} seconds to encode a few texts") from None
    if result.returncode:
        reason = (result.stderr.strip().splitlines() or [f"status {result.returncode}"])[-1]
        raise DataError(f"{TOKENS}: cannot be used: {shortened(reason)}")
    return int(result.stdout.split()[-1])


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
    except Exception as error:  # transformers raises errors of any class
        raise DataError(f"transformers cannot load the tokenizer: {shortened(str(error) or repr(error))}") from None
    texts = [*SAMPLES, *_random_texts()]
    for text in texts:
        if (found := theirs(text)["input_ids"]) != (wanted := list(encode(text))):
            raise DataError(f"transformers' tokenizer encodes {text!r} as {found}, and the original as {wanted}")
    return len(texts)


def _random_texts() -> list[str]:
    draw = random.Random(0)
    alphabets = (range(32, 127), range(0x20, 0x250), range(0x20, 0xD800), range(0x1F300, 0x1FAFF))
    return ["".join(chr(draw.choice(alphabet)) for _ in range(40)) for alphabet in alphabets for _ in range(8)]


def _verify_argument() -> None:
    """Verify the folder that the command line names, in as much memory as it allows, and print the number of texts."""
    folder, memory = Path(sys.argv[1]), int(sys.argv[2])
    if sys.platform != "win32":
        with contextlib.suppress(ValueError, OSError):  # a smaller limit is set already
            resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    library = Library.from_file(str(folder / TOKENS))
    try:
        print(verify(folder, lambda text: library.encode(text).ids))
    except DataError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    _verify_argument()
