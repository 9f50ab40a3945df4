"""A study's results in words."""

from collections.abc import Mapping
from typing import Any

from blockformer.studies.study import BASE

LONGEST_LIST = 8
SMALLEST_P = 1e-4


def verdict_sentence(name: str, verdict: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    """The verdict on one variant in a sentence, with its figures.

    Args:
        name: the variant.
        verdict: its entry in `verdicts`.
        results: the whole `results.json`.
    """
    figure, kind = results["figure"], verdict["verdict"]
    if kind == "identical":
        return f"{name} builds the same model as the base; nothing was trained."
    lost = ""
    if verdict["diverged"]:
        lost = f" {verdict['diverged']} of its {verdict['diverged'] + verdict['seeds']} runs diverged."
    if verdict["difference"] is None or verdict["low"] is None:
        return f"{name} is {kind}: too few finished runs to compare.{lost}"
    interval = f"{verdict['low']:+.4f} to {verdict['high']:+.4f}"
    tested = f"95 % interval {interval}, p {p_value(verdict['p'])}, {verdict['seeds']} seeds"
    if over := results.get("documents", {}).get(name):
        tested += f"; over {over['documents']:.0f} documents {over['low']:+.4f} to {over['high']:+.4f}"
    size = f"{figure} {verdict['difference']:+.4f} ({tested})"
    if kind == "equivalent":
        return f"{name} is equivalent to the base within {results['smallest']:g}: {size}.{lost}"
    if kind == "undecided":
        return f"{name} cannot be distinguished from the base: {size}.{lost}{_needed(verdict, results)}"
    return f"{name} is {kind} than the base: {size}.{lost}{_worth(name, results)}"


def _worth(name: str, results: Mapping[str, Any]) -> str:
    """What the difference is worth in steps of the base."""
    of = results.get("exchange", {}).get("worth", {}).get(name)
    if not of:
        return ""
    curve = results["exchange"]["base"]
    if of["steps"] is None:
        return f" The base does not reach this with {curve[0][0]:g} to {curve[-1][0]:g} times its steps."
    ends = [f"{end:.2f}" if end is not None else "beyond the budgets" for end in (of["low"], of["high"])]
    return f" The base would reach this with {of['steps']:.2f} times its steps ({ends[0]} to {ends[1]})."


def p_value(p: float) -> str:
    """A probability with its sign: `= 0.013`, or that it is too small for its digits to mean anything."""
    return f"= {p:.2g}" if p >= SMALLEST_P else f"< {SMALLEST_P:g}"


def _needed(verdict: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    if not verdict["needed"]:
        return ""
    few, many = verdict["needed"]
    count = f"{few} seeds" if few == many else f"{few} to {many} seeds"
    effect = results["smallest"] or abs(verdict["difference"])
    return f" About {count} would be needed to find a difference of {effect:.3g}."


def answer(results: Mapping[str, Any]) -> str:
    """The answer to the study's question in one sentence."""
    words = {
        "better": "better than the base",
        "worse": "worse than the base",
        "equivalent": "equivalent to the base",
        "undecided": "not distinguishable from the base with these seeds",
        "identical": "the same model as the base",
    }
    found = results["verdicts"].items()
    groups = {kind: [name for name, verdict in found if verdict["verdict"] == kind] for kind in words}
    parts = [
        f"{_listed(names)} {'is' if len(names) == 1 else 'are'} {words[kind]}"
        for kind, names in groups.items()
        if names
    ]
    return ("; ".join(parts) or "there is nothing to compare") + f" (by {results['figure']})."


def noise_sentence(results: Mapping[str, Any]) -> str:
    """What the verdicts rest on: the method, the noise and the number of looks."""
    if results["noise"] is None:
        return "One seed: the noise is unknown, so there is no verdict." + _edge_sentences(results)
    methods = {
        "dunnett": "Dunnett's test with the noise pooled over all variants",
        "paired": "paired t tests with Holm's correction, as the noise of the variants differs strongly",
    }
    looks = len(results["looks"])
    again = ""
    if looks > 1:
        again = f" Seeds were added {looks - 1} times after a first look, so p and the intervals are too small."
    noise = f"a run varies by {results['noise']:.4g} ({results['degrees']} degrees of freedom)"
    return f"{methods[results['method']]}; {noise}.{again}{_edge_sentences(results)}"


def _edge_sentences(results: Mapping[str, Any]) -> str:
    """Which variants' best learning rates lie at the edge of what was tried, so that better ones may exist."""
    edges: dict[str, list[str]] = {}
    for name, edge in results.get("rates_at_edge", {}).items():
        edges.setdefault(edge, []).append(f"{name} ({results['learning_rates'][name]:g})")
    return "".join(
        f" The {edge} learning rate that was tried is the best of {_listed(names)}: a better one may lie beyond it."
        for edge, names in edges.items()
    )


def speed_sentence(results: Mapping[str, Any]) -> str:
    """How fast the variants train in terms of the base, and where that was measured."""
    there, here = results["speed_environment"], results["environment"]
    speeds = [
        f"{name} {of['relative']:.2f} ({of['relative_low']:.2f} to {of['relative_high']:.2f})"
        for name, of in results["speed"].items()
        if name != BASE
    ]
    device = there["device"] if there["device"] != "CPU" else there["processor"]
    how = f"medians of {there['rounds']} rounds in turns, {there['steps of a turn']} steps each, on {device}"
    differs = [key for key in ("device", "processor", "torch") if there[key] != here[key]]
    elsewhere = f" The verdicts were computed elsewhere (another {' and '.join(differs)})." if differs else ""
    return f"Speed of training in terms of the base: {_listed(speeds) if speeds else 'nothing else'}; {how}.{elsewhere}"


def _listed(names: list[str]) -> str:
    shown = names[:LONGEST_LIST]
    more = [f"{len(names) - len(shown)} more"] if len(names) > len(shown) else []
    *first, last = [*shown, *more]
    return f"{', '.join(first)} and {last}" if first else last
