"""`cldr`: English to another language, from the Unicode locale data (CLDR) in Babel.

Dates, times, amounts, lists and names are drawn at random and written by Babel in both languages, so translations are
exact. All single names are in the training split; combinations are split, so validation and test contain only
combinations that are not in training, though their parts are.
"""

import random
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial

import babel
from babel import Locale

from blockformer.data.corpora.corpus import Corpus, Pair, Source, cached_corpus, held_out
from blockformer.data.corpora.phrases import KINDS, Phrase, common_names, single
from blockformer.errors import DataError

_SEED = 0  # fixed: no setting but the number of pairs decides which text is validated on
_TRIES = 30  # draws for each pair wanted; kinds with few combinations yield repeated pairs


def source(locale: str, pairs: int, shares: Mapping[str, float]) -> Source:
    """Random pairs of an English text and its translation.

    Args:
        locale: The language to translate to, as in "de", "fr" or "zh_Hans".
        pairs: Number of different pairs, names included.
        shares: The share of combinations for "validation" and for "test".

    Raises:
        DataError: Babel has no such locale or too little of it, or there are fewer different pairs than wanted.
    """
    target = _parse(locale)
    key = {"babel": babel.__version__, "locale": str(target), "pairs": pairs, "shares": dict(shares)}
    key, make = {**key, "format": 2}, partial(_make, target, pairs, shares)
    return Source({"dataset": "cldr", **key}, partial(cached_corpus, "cldr", key, make))


def _parse(locale: str) -> Locale:
    try:
        target = Locale.parse(locale.replace("-", "_"))
    except (ValueError, babel.UnknownLocaleError):
        raise DataError(f"cldr: no locale {locale!r}; give one such as de, fr, ja or zh_Hans") from None
    if target.language == "en":
        raise DataError(
            f"cldr: locale {locale!r} is English, which is the source language; give the language to translate to"
        )
    return target


def _make(target: Locale, pairs: int, shares: Mapping[str, float]) -> Corpus:
    languages = Locale("en"), target
    names = common_names(*languages)
    if few := [name for name, found in asdict(names).items() if len(found) < 3]:
        raise DataError(f"cldr: Babel has too few {' and '.join(few)} in locale {str(target)!r}; choose another")
    taught = dict(pair for phrase in single(names) for pair in _written(phrase, languages))
    if pairs <= len(taught):
        raise DataError(
            f"cldr: pairs {pairs:,} is not more than the {len(taught):,} single names and amounts, all of which are in "
            "the training split: raise pairs"
        )
    draw, drawn = random.Random(_SEED), {}
    for _ in range(_TRIES * pairs):
        if len(taught) + len(drawn) >= pairs:
            break
        phrase = draw.choice(KINDS)(draw, names)
        for source, translation in _written(phrase, languages):
            if source not in taught:
                drawn.setdefault(source, (phrase.slots, translation))
    if len(taught) + len(drawn) < pairs:
        raise DataError(
            f"cldr: only {len(taught) + len(drawn)} different pairs were found, but {pairs} are wanted: lower pairs"
        )
    split = held_out(list(drawn.items()), shares, key=lambda item: item[1][0])
    splits: dict[str, list[Pair]] = {name: [(s, t) for s, (_, t) in items] for name, items in split.items()}
    splits["train"] = [*taught.items(), *splits["train"]]
    facts = {"dataset": "cldr", "locale": str(target), "versions": {"babel": babel.__version__}}
    return Corpus(splits, paired=True, facts=facts)


def _written(phrase: Phrase, languages: tuple[Locale, Locale]) -> list[Pair]:
    """The phrase in both languages with plain spaces; nothing if the data of one language is incomplete."""
    try:
        source, target = (" ".join(phrase.write(language).split()) for language in languages)
    except KeyError:
        return []
    return [(source, target)] if source and target else []
