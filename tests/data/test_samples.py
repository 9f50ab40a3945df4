from pathlib import Path

import numpy as np
import pytest
import torch

from blockformer.data import sequences
from blockformer.data.samples import UNSCORED, TokenizedText
from blockformer.data.sequences import Sequences, SequenceWriter
from blockformer.data.tokenizer import Tokenizer
from blockformer.data.tokenizers.bpe import BPE
from blockformer.data.tokenizers.bytes import ByteTokenizer
from blockformer.training.objectives.causal_lm import PackedRows, PromptedPairs
from blockformer.training.objectives.masked_lm import MaskedRows
from blockformer.training.objectives.seq2seq import PaddedPairs
from tests.data.encoded import encoded

TEXTS = ["first document", "2nd", "a third one with ümläuts", "x", "the last document of these is the longest of all"]
TOKENIZERS = {"bytes": ByteTokenizer(), "bpe": BPE(vocab_size=290).learn(lambda: TEXTS * 5)}
each = pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS.keys())


def _documents(tokenizer: Tokenizer, texts: list[str] = TEXTS) -> Sequences:
    return encoded(texts, tokenizer, before=tokenizer.bos)


def _everything(samples) -> dict[str, torch.Tensor]:
    return samples.batch(np.arange(len(samples)), epoch=0)


@each
@pytest.mark.parametrize("length", [2, 7, 16, 500])
def test_packing_predicts_each_token_and_each_end_once(tokenizer: Tokenizer, length: int) -> None:
    batch = _everything(PackedRows(_documents(tokenizer), tokenizer, length))
    assert batch["tokens"].shape[1] == length
    scored = batch["targets"] != -100
    asked = list(zip(batch["tokens"][scored].tolist(), batch["targets"][scored].tolist(), strict=True))
    ids = [tokenizer.encode(text) for text in TEXTS]
    assert asked == [pair for i in ids for pair in zip([tokenizer.bos, *i], [*i, tokenizer.eos], strict=True)]
    assert batch["bytes"].sum() == sum(len(text.encode()) for text in TEXTS)


def test_bytes_of_a_row_are_those_of_its_own_targets() -> None:
    tokenizer = ByteTokenizer()
    batch = _everything(PackedRows(_documents(tokenizer), tokenizer, 7))
    for targets, size in zip(batch["targets"], batch["bytes"], strict=True):
        assert size == sum(target >= 4 for target in targets.tolist())


def test_documents_differ_where_documents_do() -> None:
    tokenizer = ByteTokenizer()
    batch = _everything(PackedRows(_documents(tokenizer, ["ab", "c", "defg"]), tokenizer, 6))
    assert batch["documents"].tolist() == [[1, 1, 1, 2, 2, 3], [0, 0, 0, 0, 7, 7]]
    assert batch["tokens"][1, 4:].tolist() == [tokenizer.pad] * 2
    assert batch["targets"][1, 3:].tolist() == [tokenizer.eos, -100, -100]


def test_documents_are_left_out_where_they_mean_nothing() -> None:
    tokenizer = ByteTokenizer()
    assert "documents" not in _everything(PackedRows(_documents(tokenizer, ["only one"]), tokenizer, 4))
    assert "documents" not in _everything(PackedRows(_documents(tokenizer), tokenizer, 4, separate=False))


def _masked(texts: list[str], length: int = 16, **settings) -> MaskedRows:
    tokenizer = ByteTokenizer()
    shares = {key: settings.pop(key) for key in ("share", "span") if key in settings}
    return MaskedRows(TokenizedText((_documents(tokenizer, texts),), tokenizer, length, **settings), **shares)


def test_masked_rows_hold_all_text_and_never_two_documents() -> None:
    tokenizer = ByteTokenizer()
    batch = _everything(_masked(TEXTS))
    text = torch.where(batch["targets"] == -100, batch["tokens"], batch["targets"])
    assert tokenizer.decode(text[batch["attention_mask"]].tolist()) == "".join(TEXTS)
    assert ((text == tokenizer.bos).sum(1) <= 1).all()
    assert ((text == tokenizer.bos).nonzero()[:, 1] == 0).all()
    assert ((text == tokenizer.pad) == ~batch["attention_mask"]).all()


def test_blanks_are_80_10_10_of_the_share_asked_for() -> None:
    batch = _everything(_masked(["abcdefghijklmnopqrstuvwxyz" * 4000], length=101, share=0.2))
    chosen = batch["targets"] != -100
    assert set(chosen[1:-1].sum(1).tolist()) == {20}, "a fifth of 101, rounded"
    tokens, targets = batch["tokens"][chosen], batch["targets"][chosen]
    masked, kept = (tokens == ByteTokenizer().mask).float().mean(), (tokens == targets).float().mean()
    assert masked == pytest.approx(0.8, abs=0.015)
    assert kept == pytest.approx(0.1, abs=0.015)
    random = tokens[(tokens != targets) & (tokens != ByteTokenizer().mask)]
    assert random.min() >= 4
    assert random.unique().numel() > 200, "random tokens come from the whole vocabulary"
    where = chosen[1:-1].float().mean(0)
    assert (where - 20 / 101).abs().max() < 0.08, "no place is preferred"


def test_special_tokens_are_never_blanked_and_each_row_has_a_blank() -> None:
    tokenizer = ByteTokenizer()
    for share in (0.01, 1.0):
        batch = _everything(_masked(TEXTS, share=share))
        assert (batch["tokens"][:, 0] == tokenizer.bos).sum() == len(TEXTS)
        scored = batch["targets"][batch["targets"] != -100]
        assert (scored >= 4).all()
        assert ((batch["targets"] != -100).sum(1) >= 1).all()
        if share == 1.0:
            assert len(scored) == sum(len(text.encode()) for text in TEXTS)


def test_blanks_depend_on_seed_epoch_and_sample_alone() -> None:
    rows = _masked(TEXTS * 5)
    chosen = np.array([3, 1, 4])
    batch = rows.batch(chosen, epoch=2)
    for place, sample in enumerate(chosen):
        alone = rows.batch(np.array([sample]), epoch=2)
        assert torch.equal(alone["tokens"][0], batch["tokens"][place])
    assert not torch.equal(rows.batch(chosen, epoch=3)["tokens"], batch["tokens"])
    assert not torch.equal(_masked(TEXTS * 5, seed=1).batch(chosen, epoch=2)["tokens"], batch["tokens"])


def test_blanks_of_evaluation_are_the_same_in_every_epoch() -> None:
    rows = _masked(TEXTS, evaluates=True)
    for name, value in _everything(rows).items():
        assert torch.equal(value, rows.batch(np.arange(len(rows)), epoch=5)[name])


@each
def test_pairs_are_shifted_and_padded(tokenizer: Tokenizer) -> None:
    sources, targets = TEXTS[:3], TEXTS[2:]
    pairs = PaddedPairs(
        encoded(sources, tokenizer, after=tokenizer.eos),
        encoded(targets, tokenizer, before=tokenizer.bos),
        tokenizer,
    )
    batch = _everything(pairs)
    for row in range(3):
        source = batch["source"][row][batch["source_mask"][row]].tolist()
        assert source == [*tokenizer.encode(sources[row]), tokenizer.eos]
        target = batch["target"][row][batch["target_mask"][row]].tolist()
        assert target == [tokenizer.bos, *tokenizer.encode(targets[row])]
        assert batch["targets"][row][batch["target_mask"][row]].tolist() == [*target[1:], tokenizer.eos]
        assert (batch["targets"][row][~batch["target_mask"][row]] == -100).all()
    assert batch["bytes"].tolist() == [len(text.encode()) for text in targets]
    assert pairs.lengths(np.arange(3)).tolist() == (batch["source_mask"].sum(1) + batch["target_mask"].sum(1)).tolist()


def written(folder: Path, name: str, sequences: list[list[int]], vocab_size: int = 300) -> Sequences:
    writer = SequenceWriter(folder, name, vocab_size)
    writer.write(np.array(one, np.int64) for one in sequences)
    writer.close()
    assert (writer.count, writer.tokens) == (len(sequences), sum(map(len, sequences)))
    return Sequences.open(folder, name)


@pytest.mark.parametrize("shard", [2, 6, 7, 1 << 30])
@pytest.mark.parametrize("vocab_size", [300, 100_000])
def test_sequences_survive_the_disk_in_files_of_bounded_size(
    shard: int, vocab_size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sequences, "SHARD", max(shard, 4 if vocab_size > 2**16 else 2))
    draw = np.random.default_rng(0)
    for name, lengths in {"some": [3, 0, 5, 1, 17], "none": [], "empty": [0, 0]}.items():
        wanted = [draw.integers(0, vocab_size, size).tolist() for size in lengths]
        again = written(tmp_path, name, wanted, vocab_size)
        assert [again[index].tolist() for index in range(len(again))] == wanted
        assert again.lengths(np.arange(len(again))).tolist() == lengths
        padded, real = again.padded(np.arange(len(again)), 7)
        assert [row[mask].tolist() for row, mask in zip(padded, real, strict=True)] == wanted
    assert max(path.stat().st_size for path in tmp_path.glob("*.tokens.*")) <= sequences.SHARD
    assert isinstance(Sequences.open(tmp_path, "some").offsets, np.memmap)


def test_large_vocabularies_do_not_overflow(tmp_path: Path) -> None:
    assert written(tmp_path, "x", [[70_000]], 70_260)[0].tolist() == [70_000]


def test_prompted_pairs_score_the_same_tokens_as_padded_pairs() -> None:
    """Each row is source, EOS, BOS and target; the answers, their order and their bytes are those of the pairs."""
    tokenizer = ByteTokenizer()
    texts = [("a bc", "xyz"), ("d", "w"), ("efghij", "k")]
    sources = [[*tokenizer.encode(source), tokenizer.eos] for source, _ in texts]
    targets = [[tokenizer.bos, *tokenizer.encode(target)] for _, target in texts]
    asked = encoded([source for source, _ in texts], tokenizer, after=tokenizer.eos)
    given = (asked, encoded([target for _, target in texts], tokenizer, before=tokenizer.bos), tokenizer)
    chosen = np.array([2, 0, 1])
    padded, prompted = PaddedPairs(*given).batch(chosen, 0), PromptedPairs(*given).batch(chosen, 0)
    assert torch.equal(padded["bytes"], prompted["bytes"])
    for row, number in enumerate(chosen):
        real = prompted["attention_mask"][row]
        assert prompted["tokens"][row][real].tolist() == sources[number] + targets[number]
        answers = prompted["targets"][row]
        assert answers[answers != UNSCORED].tolist() == [*targets[number][1:], tokenizer.eos]
        first = int((answers != UNSCORED).nonzero()[0])
        assert prompted["tokens"][row][first] == tokenizer.bos
        assert (prompted["tokens"][row][~real] == tokenizer.pad).all()
