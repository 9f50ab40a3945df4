"""Small tokenizers built as those of published models are, with the files that lie beside them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXTS = [
    "The cat sat on the mat, and the dog didn't.\nIt's 1234 o'clock!",
    "Übung macht den Meister: äöü ß, naïve façade",
    "日本語のテキスト and 🙂 emoji",
] * 8
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)


def gpt2() -> tuple[Tokenizer, dict[str, Any]]:
    """Byte-level BPE with one special token, which begins, ends and fills."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.ByteLevel(trim_offsets=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"], show_progress=False
    )
    made.train_from_iterator(TEXTS, trainer)
    return made, {"tokenizer_config.json": {"eos_token": "<|endoftext|>", "bos_token": {"content": "<|endoftext|>"}}}


def llama3() -> tuple[Tokenizer, dict[str, Any]]:
    """Byte-level BPE with a pattern, NFC, and a token before each text."""
    made = Tokenizer(models.BPE())
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    names = ["<|begin_of_text|>", "<|end_of_text|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, special_tokens=names, show_progress=False)
    made.train_from_iterator(TEXTS, trainer)
    made.post_processor = processors.TemplateProcessing(
        single=f"{names[0]} $A", pair=f"{names[0]} $A {names[0]} $B", special_tokens=[(names[0], 0)]
    )
    return made, {"config.json": {"bos_token_id": 0, "eos_token_id": [1, 0]}}


def llama2() -> tuple[Tokenizer, dict[str, Any]]:
    """BPE of characters with bytes for the others, and a space before each text."""
    made = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    names = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=[*names, *(f"<0x{n:02X}>" for n in range(256))], show_progress=False
    )
    made.train_from_iterator([text.replace("ß", "") for text in TEXTS], trainer)
    content = json.loads(made.to_str())
    content["added_tokens"] = [one for one in content["added_tokens"] if one["content"] in names]
    made = Tokenizer.from_str(json.dumps(content))
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return made, {}


def bert() -> tuple[Tokenizer, dict[str, Any]]:
    """WordPiece without case."""
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    made.train_from_iterator(
        TEXTS, trainers.WordPieceTrainer(vocab_size=300, special_tokens=names, show_progress=False)
    )
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return made, {"tokenizer_config.json": {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}}


def t5() -> tuple[Tokenizer, dict[str, Any]]:
    """Unigram after NFKC, with an end token, and a decoder that begins with the token that fills."""
    made = Tokenizer(models.Unigram())
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    names = ["<pad>", "</s>", "<unk>"]
    made.train_from_iterator(
        TEXTS,
        trainers.UnigramTrainer(vocab_size=300, special_tokens=names, unk_token="<unk>", show_progress=False),
    )
    made.add_special_tokens([AddedToken("<extra_id_0>", special=True)])
    made.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return made, {"config.json": {"decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}}


PUBLISHED: dict[str, Callable[[], tuple[Tokenizer, dict[str, Any]]]] = {
    made.__name__: made for made in (gpt2, llama3, llama2, bert, t5)
}


def write_published(name: str, folder: Path) -> Path:
    """Write the tokenizer and the files beside it into a new folder."""
    made, files = PUBLISHED[name]()
    folder.mkdir()
    made.save(str(folder / "tokenizer.json"))
    for file, content in files.items():
        (folder / file).write_text(json.dumps(content))
    return folder
