"""A model of SentencePiece as the tokenizer.json that encodes the same.

Kudo and Richardson 2018, arXiv:1808.06226. Its own library is needed to read the model, and to compare the two.
"""

import json
from typing import Any

from tokenizers import Regex, decoders, models, normalizers, processors
from tokenizers import Tokenizer as Library

from blockformer.data.tokenizers.tokenizer_json import MAX_TOKENS
from blockformer.errors import DataError

SPACE = "\u2581"
NORMAL, UNKNOWN, CONTROL, NAMED, UNUSED, BYTE = range(1, 7)  # types of pieces
UNIGRAM, BPE = 1, 2  # types of models
LONGEST = 1_000
"""Characters of a piece; finding its merges takes their square in time. Published ones have up to 31."""
TRIED = (
    "The quick brown fox jumps over 13 lazy dogs; isn't it 5.70 €?",
    "  two  spaces, a\ttab\nand\r\nbreaks \n\n",
    "Zażółć gęślą jaźń, Größe, naïve, e\u0301, ﬁ Å Ａ ½, ελληνικά, русский",
    "日本語のテキスト 中文文本 한국어 🙂 ▁x▁",
    "",
    " ",
)
"""Texts that both libraries have to encode alike."""


def as_tokenizer_json(data: bytes) -> tuple[str, dict[str, int]]:
    """The tokenizer.json of a SentencePiece model, and the ids of its special tokens by what they are for.

    Raises:
        DataError: sentencepiece is not installed, or the model cannot be read or is of a kind that has no counterpart.
    """
    try:
        from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2
    except ImportError:
        raise DataError(
            "is a SentencePiece model, which the package sentencepiece reads: pip install 'blockformer[sentencepiece]'"
        ) from None
    try:
        proto: Any = sentencepiece_model_pb2.ModelProto.FromString(data)  # pyright: ignore[reportAttributeAccessIssue]
    except Exception as error:  # protobuf's errors are of several classes
        raise DataError(f"is no SentencePiece model: {' '.join(str(error).split())}") from None
    _check(proto)
    library = _converted(proto)
    theirs = SentencePieceProcessor(model_proto=data)
    library.encode_special_tokens = True
    named = [piece.piece for piece in proto.pieces if piece.type == NAMED]
    for text in (*TRIED, *(f"a {name} b{name}" for name in named[:8])):
        if (ours := library.encode(text, add_special_tokens=False).ids) != (wanted := theirs.encode(text)):
            raise DataError(f"cannot be converted: {text!r} would be encoded as {ours}, and SentencePiece has {wanted}")
    ids = {role: getattr(proto.trainer_spec, f"{role}_id") for role in ("bos", "eos", "pad")}
    return library.to_str(), {role: number for role, number in ids.items() if 0 <= number < len(proto.pieces)}


def _check(proto: Any) -> None:
    """Refuse what has no counterpart.

    Raises:
        DataError: the reason.
    """
    trainer, normalizer, types = proto.trainer_spec, proto.normalizer_spec, {piece.type for piece in proto.pieces}
    problems = {
        "has no pieces": not proto.pieces,
        f"has {len(proto.pieces):,} pieces; at most {MAX_TOKENS:,} are allowed": len(proto.pieces) > MAX_TOKENS,
        "is no model of type unigram or bpe": trainer.model_type not in (UNIGRAM, BPE),
        "has pieces that are not used": UNUSED in types,
        f"has a piece of more than {LONGEST:,} characters": any(len(piece.piece) > LONGEST for piece in proto.pieces),
        "has two pieces of one name": len({piece.piece for piece in proto.pieces}) < len(proto.pieces),
        "has no unknown piece": [piece.type for piece in proto.pieces].count(UNKNOWN) != 1,
        "writes spaces after words": bool(trainer.treat_whitespace_as_suffix),
        "does not write spaces as a character": not normalizer.escape_whitespaces,
    }
    for problem, present in problems.items():
        if present:
            raise DataError(problem)


def _converted(proto: Any) -> Library:
    pieces, trainer, normalizer = proto.pieces, proto.trainer_spec, proto.normalizer_spec
    unknown = next(number for number, piece in enumerate(pieces) if piece.type == UNKNOWN)
    if trainer.model_type == UNIGRAM:
        rows = [(piece.piece, piece.score) for piece in pieces]
        model: models.Model = models.Unigram(rows, unknown, trainer.byte_fallback)
    else:
        vocabulary = {piece.piece: number for number, piece in enumerate(pieces)}
        model = models.BPE(
            vocabulary,
            _merges(pieces),
            unk_token=pieces[unknown].piece,
            fuse_unk=True,
            byte_fallback=trainer.byte_fallback,
        )
    library = Library(model)
    steps: list[Any] = []
    if normalizer.precompiled_charsmap:
        steps.append(normalizers.Precompiled(normalizer.precompiled_charsmap))
    if normalizer.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex("^ +| +$"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    first = normalizer.add_dummy_prefix
    steps += [*([normalizers.Prepend(SPACE)] if first else []), normalizers.Replace(" ", SPACE)]
    library.normalizer = normalizers.Sequence(steps)
    written: list[Any] = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    library.decoder = decoders.Sequence([*written, *([decoders.Strip(" ", 1, 0)] if first else [])])
    return _with_special(library, proto)


def _with_special(library: Library, proto: Any) -> Library:
    """The special tokens, and the template: BOS before a text, or EOS after it where there is no BOS (as in T5)."""
    content = json.loads(library.to_str())
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    content["added_tokens"] = [
        {"id": number, "content": piece.piece, **plain, "special": piece.type != NAMED}
        for number, piece in enumerate(proto.pieces)
        if piece.type in (UNKNOWN, CONTROL, NAMED)
    ]
    made = Library.from_str(json.dumps(content))
    bos, eos = proto.trainer_spec.bos_id, proto.trainer_spec.eos_id
    token = bos if 0 <= bos < len(proto.pieces) else eos
    if 0 <= token < len(proto.pieces):
        name = proto.pieces[token].piece
        parts = [(name, 0), ("$A", 0)] if token == bos else [("$A", 0), (name, 0)]
        single = [part for part, _ in parts]
        made.post_processor = processors.TemplateProcessing(
            single=single,
            pair=[*single, *(f"{part.replace('$A', '$B')}:1" for part in single)],
            special_tokens=[(name, token)],
        )
    return made


def _merges(pieces: Any) -> list[tuple[str, str]]:
    """The pairs that make a piece, best piece first; SentencePiece merges whatever pair makes the best one."""
    scores = {piece.piece: piece.score for piece in pieces if piece.type == NORMAL}
    known = {piece.piece: number for number, piece in enumerate(pieces) if piece.type == NORMAL}
    pairs = [
        (name[:place], name[place:])
        for name in scores
        for place in range(1, len(name))
        if name[:place] in known and name[place:] in known
    ]
    return sorted(pairs, key=lambda pair: (-scores["".join(pair)], known[pair[0]], known[pair[1]]))


def is_sentencepiece(name: str) -> bool:
    """Whether a file is a SentencePiece model, by the ending of its name."""
    return name.endswith(".model")
