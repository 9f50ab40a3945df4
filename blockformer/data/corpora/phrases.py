"""Phrases of `cldr`: dates, times, amounts, names and lists, which Babel writes in any language."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, time, timedelta
from functools import partial
from random import Random

from babel import Locale, dates, lists, numbers, units

_FIRST_DAY = date(1900, 1, 1).toordinal()
_LAST_DAY = date(2099, 12, 31).toordinal()


@dataclass(frozen=True)
class Phrase:
    """A phrase that can be written in any language.

    Args:
        slots: Its content, independent of wording; phrases with equal slots belong to the same split.
        write: Writes it in a language.
    """

    slots: str
    write: Callable[[Locale], str]


@dataclass(frozen=True)
class Names:
    """CLDR codes that have a name in both languages."""

    countries: Sequence[str]
    languages: Sequence[str]
    currencies: Sequence[str]
    units: Sequence[str]


def common_names(source: Locale, target: Locale) -> Names:
    """Find the codes with names in both languages: countries, their currencies, languages with two letters, units."""

    def common(field: str) -> list[str]:
        return sorted(set(getattr(source, field)) & set(getattr(target, field)))

    countries = [code for code in common("territories") if len(code) == 2]
    current = {code for country in countries for code in numbers.get_territory_currencies(country)}
    return Names(
        countries=countries,
        languages=[code for code in common("languages") if len(code) == 2],
        currencies=[code for code in common("currencies") if code in current],
        units=[unit for unit in common("unit_display_names") if _has_unit(unit, source) and _has_unit(unit, target)],
    )


def _has_unit(unit: str, locale: Locale) -> bool:
    try:
        return units.format_unit(7, unit, "long", locale=locale) not in ("", "7")
    except units.UnknownUnitError:
        return False


def single(names: Names) -> Iterator[Phrase]:
    """Every single name, and every unit and currency with the amounts 1 and 2."""
    yield from (Phrase(code, partial(_name, "territories", code)) for code in names.countries)
    yield from (Phrase(code, partial(_name, "languages", code)) for code in names.languages)
    yield from (Phrase(unit, partial(_quantity, count, unit)) for unit in names.units for count in (1, 2))
    yield from (Phrase(code, partial(_money, count, code)) for code in names.currencies for count in (1, 2))


def _name(field: str, code: str, locale: Locale) -> str:
    return getattr(locale, field)[code]


def _quantity(count: float, unit: str, locale: Locale) -> str:
    return units.format_unit(count, unit, "long", locale=locale)


def _money(amount: float, code: str, locale: Locale) -> str:
    return numbers.format_currency(amount, code, locale=locale, format_type="name")


def _amount(draw: Random) -> float:
    """A random number, more often small than large, sometimes with a decimal."""
    number = draw.randrange(1, 10 ** draw.randint(1, 5))
    return number + draw.randrange(1, 10) / 10 if draw.random() < 0.25 else number


def _a_quantity(draw: Random, names: Names) -> Phrase:
    count, unit = _amount(draw), draw.choice(names.units)
    return Phrase(f"{count} {unit}", partial(_quantity, count, unit))


def _some_money(draw: Random, names: Names) -> Phrase:
    amount, code = _amount(draw), draw.choice(names.currencies)
    return Phrase(f"{amount} {code}", partial(_money, amount, code))


def _a_number(draw: Random, names: Names) -> Phrase:
    count, digits = draw.randrange(1, 10_000) / 10, draw.randint(4, 10)
    large = partial(numbers.format_compact_decimal, int(count * 10**digits), format_type="long", fraction_digits=1)
    return Phrase(f"{count} {digits}", lambda locale: large(locale=locale))


def _a_day(draw: Random) -> date:
    return date.fromordinal(draw.randint(_FIRST_DAY, _LAST_DAY))


def _a_date(draw: Random, names: Names) -> Phrase:
    day, style = _a_day(draw), draw.choice(("full", "full", "long", "medium"))
    return Phrase(str(day), lambda locale: dates.format_date(day, style, locale))


def _a_period(draw: Random, names: Names) -> Phrase:
    start = _a_day(draw)
    end = start + timedelta(days=draw.randint(1, 400))
    return Phrase(f"{start} {end}", lambda locale: dates.format_interval(start, end, "yMMMd", locale=locale))


def _a_time(draw: Random, names: Names) -> Phrase:
    day, moment = _a_day(draw), time(draw.randrange(24), draw.randrange(60))

    def write(locale: Locale) -> str:
        return (
            f"{dates.format_skeleton('yMMMd', day, locale=locale)}, {dates.format_time(moment, 'short', locale=locale)}"
        )

    return Phrase(f"{day} {moment}", write)


def _a_distance(draw: Random, names: Names) -> Phrase:
    unit, count = (
        draw.choice(("year", "month", "week", "day", "hour", "minute")),
        draw.choice((-1, 1)) * draw.randint(1, 999),
    )
    days = {"year": 365, "month": 30.5, "week": 7, "day": 1, "hour": 1 / 24, "minute": 1 / 1440}[unit]
    distance = timedelta(days=count * days)

    def write(locale: Locale) -> str:
        return dates.format_timedelta(distance, unit, threshold=1e9, add_direction=True, locale=locale)

    return Phrase(f"{count} {unit}", write)


def _a_list(field: str, codes: str, draw: Random, names: Names) -> Phrase:
    members = draw.sample(getattr(names, codes), draw.choice((2, 2, 3)))
    style = draw.choice(("standard", "or"))
    slots = " ".join((style, *sorted(members)))
    return Phrase(slots, lambda locale: lists.format_list([_name(field, m, locale) for m in members], style, locale))


KINDS: tuple[Callable[[Random, Names], Phrase], ...] = (
    _a_date,
    _a_period,
    _a_time,
    _a_distance,
    _a_quantity,
    _a_quantity,
    _some_money,
    _a_number,
    partial(_a_list, "territories", "countries"),
    partial(_a_list, "languages", "languages"),
)
