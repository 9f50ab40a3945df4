import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from blockformer.data.corpora import cldr, docstrings, phrases
from blockformer.data.corpora.corpus import SPLITS, Corpus, held_out
from blockformer.data.module import TextData
from blockformer.errors import DataError
from blockformer.training.objectives import SequenceToSequence

SHARES = {"validation": 0.1, "test": 0.1}


def _all(corpus: Corpus) -> list:
    return [document for split in SPLITS for document in corpus.splits[split]]


@pytest.mark.slow
def test_docstrings_are_read_once_each_and_nothing_is_imported(package: str) -> None:
    corpus = docstrings.source([package], None, SHARES).read()
    text = "\n".join(_all(corpus))
    assert text.count("naïve") == 12
    assert text.count("what every other module") == 1, "repeated docstrings are dropped"
    assert "Short." not in text
    assert "No test's" not in text
    assert "no Python" not in text
    assert corpus.facts["versions"] == {package: "unknown"}


@pytest.mark.slow
def test_docstrings_of_validation_and_test_are_of_other_modules(package: str) -> None:
    splits = docstrings.source([package], None, SHARES).read().splits
    assert [len(splits[split]) for split in SPLITS] == [8, 2, 2]
    assert len(set(splits["train"]) | set(splits["validation"]) | set(splits["test"])) == 12


@pytest.mark.slow
def test_docstrings_stop_after_max_bytes(package: str) -> None:
    part = _all(docstrings.source([package], 500, SHARES).read())
    assert sum(len(text.encode()) for text in part[:-1]) < 500 <= sum(len(text.encode()) for text in part)
    assert set(part) < set(_all(docstrings.source([package], None, SHARES).read()))


@pytest.mark.slow
def test_docstrings_are_the_same_from_the_cache_and_without(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, cached = (docstrings.source([package], None, SHARES).read() for _ in range(2))
    monkeypatch.setenv("BLOCKFORMER_CACHE", str(tmp_path / "another"))
    anew = docstrings.source([package], None, SHARES).read()
    assert first == cached == anew
    assert first.sha256() == cached.sha256() == anew.sha256()


def test_docstrings_name_the_package_that_is_missing() -> None:
    with pytest.raises(DataError, match="no package 'nonesuch' is installed"):
        docstrings.source(["nonesuch"], None, SHARES).read()


def test_the_language_reference_comes_with_python() -> None:
    corpus = docstrings.source(["python"], 300_000, SHARES).read()
    assert any("compound statement" in text for text in _all(corpus))
    assert sum(len(text.encode()) for text in _all(corpus)) >= 300_000


def test_cldr_translates_with_babels_words() -> None:
    pairs = dict(_all(cldr.source("de", 3000, SHARES).read()))
    assert len(pairs) == 3000, "no source twice"
    assert pairs["1 kilometer"] == "1 Kilometer"
    assert pairs["Germany"] == "Deutschland"
    assert all(text == " ".join(text.split()) != "" for pair in pairs.items() for text in pair)


def _cldr(seed: int) -> TextData:
    objective = SequenceToSequence()
    return TextData("cldr", pairs=2000, length=64, tokenizer="bytes", seed=seed, objective=objective)


def test_a_seed_decides_the_order_of_cldr_and_not_which_pairs_are_validated_on() -> None:
    first, other = (_cldr(seed) for seed in (0, 1))
    assert first.facts()["sha256"] == other.facts()["sha256"]
    for split, same in (("validation", True), ("test", True), ("train", False)):
        ours, theirs = (data.loader(split).batch(0)["target"] for data in (first, other))
        assert torch.equal(ours, theirs) == same


def test_cldr_asks_for_unseen_combinations_of_seen_names() -> None:
    splits = cldr.source("de", 6000, SHARES).read().splits
    sources = {split: {source for source, _ in pairs} for split, pairs in splits.items()}
    assert not sources["test"] & (sources["train"] | sources["validation"])
    taught = {word for source in sources["train"] for word in source.replace(",", " ").split() if word.isalpha()}
    asked = {word for source in sources["test"] for word in source.replace(",", " ").split() if word.isalpha()}
    assert asked <= taught


def test_cldr_holds_a_date_out_in_every_style(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phrases, "_LAST_DAY", phrases._FIRST_DAY + 364)
    splits = cldr.source("de", 6000, SHARES).read().splits
    date = re.compile(r"(?:\w+day, )?(\w{3,9} \d+, 1900)")
    found = {split: [match[1] for s, _ in pairs if (match := date.fullmatch(s))] for split, pairs in splits.items()}
    assert len(set(found["train"])) < len(found["train"]), "the same day comes in several styles"
    assert found["test"]
    assert not set(found["test"]) & set(found["train"])


@pytest.mark.parametrize("locale", ["fr", "zh-Hans", "ja", "ar", "hi"])
def test_cldr_speaks_other_languages(locale: str) -> None:
    assert len(_all(cldr.source(locale, 2000, SHARES).read())) == 2000


@pytest.mark.slow
def test_babel_is_imported_for_cldr_only() -> None:
    code = "import sys, blockformer.data.module; sys.exit('babel' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(("locale", "said"), [("xx", "no locale 'xx'"), ("", "no locale"), ("en", "is English")])
def test_cldr_refuses_a_locale_that_cannot_be(locale: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        cldr.source(locale, 100, SHARES).read()


def test_documents_with_equal_keys_stay_together_in_any_order() -> None:
    documents = [f"{letter}{number}" for number in range(3) for letter in "abcdefghij"]
    splits = held_out(documents, SHARES, key=lambda document: document[0])
    assert {split: len({d[0] for d in found}) for split, found in splits.items()} == {
        "train": 8,
        "validation": 1,
        "test": 1,
    }
    reverse = held_out(documents[::-1], SHARES, key=lambda document: document[0])
    assert {split: found[::-1] for split, found in reverse.items()} == splits


def test_the_hash_notices_where_a_text_ends_and_which_split_it_is_in() -> None:
    def corpus(*train: str, validation: tuple[str, ...] = ()) -> str:
        return Corpus({"train": train, "validation": validation, "test": ()}, paired=False, facts={}).sha256()

    assert len({corpus("ab", "c"), corpus("a", "bc"), corpus("abc"), corpus("ab", validation=("c",))}) == 4


@pytest.mark.parametrize("locale", ["aa", "ii", "root", "vo"])
def test_a_locale_with_too_little_data_is_refused(locale: str) -> None:
    with pytest.raises(DataError, match=rf"Babel has too few .* in locale '{locale}'; choose another"):
        cldr.source(locale, 3000, SHARES).read()


def test_fewer_pairs_than_names_are_refused() -> None:
    with pytest.raises(
        DataError, match=r"pairs 600 is not more than the 1,\d\d\d single names and amounts, .*: raise pairs"
    ):
        cldr.source("de", 600, SHARES).read()


@pytest.mark.parametrize(("packages", "said"), [([], "packages is empty"), (["__main__"], "'__main__' is installed")])
def test_what_is_no_package_is_refused(packages: list[str], said: str) -> None:
    with pytest.raises(DataError, match=said):
        docstrings.source(packages, 1000, SHARES)
