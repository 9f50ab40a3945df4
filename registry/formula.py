"""Formulas of blocks: written as plain text, as in docstrings, and typeset as MathML, which browsers draw.

    y = x / sqrt(mean(x^2) + eps) ⊙ w

Formulas are separated by semicolons or new lines. ``a b`` is a product, ``a * b`` one with a dot, ``a / b`` a
fraction of the two products beside it, ``x_t`` and ``x^2`` set a letter low and high, ``(...)`` groups what is there.
``sqrt(x)`` is drawn as a root; ``sum_t``, ``sum_(t<=n)`` and ``max_i`` have their index below. Greek letters are named.
"Text" in quotes stays text, and names of parameters such as ``base_width`` stay whole.
"""

import re
from dataclasses import dataclass
from html import escape

TOKEN = re.compile(
    r"\s+|[^\W\d_]{2,}(?:_[^\W\d_]{2,})+|[^\W\d_]+\d*['′]*|\d+(?:\.\d+)?|\"[^\"]*\"|<=|>=|!=|->|\.\.\.|\S"
)
GREEK: dict[str, str] = dict(
    zip(
        ("alpha", "beta", "gamma", "delta", "eps", "theta", "lambda", "mu", "pi", "rho", "sigma", "tau", "phi", "Phi"),
        "αβγδεθλμπρστφΦ",
        strict=True,
    )
) | {"Delta": "Δ", "inf": "∞"}
SIGNS = {"<=": "≤", ">=": "≥", "!=": "≠", "->": "→", "*": "⋅", "...": "…", "-": "−", "~": "∼"}
RELATIONS = {"=", "<", ">", "~", "<=", ">=", "!=", "->", "∈", "∣", ",", ":"}
SUMS = {"+", "-", "±"}
PRODUCTS = {"*", "⊙", "×", "⊗"}
LARGE = {"sum": "∑", "prod": "∏"}
BELOW = {"max", "min", "mean", "argmax"}
THIN = '<mspace width="0.18em"/>'
CLOSING = {"(": ")", "[": "]", "{": "}"}


class FormulaError(ValueError):
    """A formula that cannot be read."""


@dataclass
class _Words:
    """The words of one formula, the place of the next, and how many indices or powers it stands in."""

    text: str
    found: list[str]
    at: int = 0
    small: int = 0

    def next(self) -> str:
        """The next word that is not white space; empty at the end."""
        while self.at < len(self.found) and self.found[self.at].isspace():
            self.at += 1
        return self.found[self.at] if self.at < len(self.found) else ""

    def take(self, *expected: str) -> str:
        word = self.next()
        if not word or (expected and word not in expected):
            wanted = f"{expected[0]!r} is missing before" if expected else "something is missing before"
            raise FormulaError(f"{self.text!r}: {wanted} {word!r}" if word else f"{self.text!r}: {wanted} the end")
        self.at += 1
        return word

    def touches(self, word: str) -> bool:
        """Whether this word comes next, without white space before it."""
        return self.at < len(self.found) and self.found[self.at] == word


def mathml(text: str) -> str:
    """The formulas of a text, one below another, as a MathML element on one line.

    Raises:
        FormulaError: one of them cannot be read.
    """
    lines = [line for line in re.split(r"\s*[;\n]\s*", text.strip()) if line]
    rows = [_whole(line) for line in lines]
    if not rows:
        raise FormulaError("a formula is empty")
    table = f'<mtable displaystyle="true">{"".join(map(_line, rows))}</mtable>'
    body = rows[0] if len(rows) == 1 else table
    return f'<math display="block" aria-label="{escape("; ".join(lines), quote=True)}">{body}</math>'


def inline_mathml(text: str) -> str:
    """One formula, to stand inside a line of text.

    Raises:
        FormulaError: it cannot be read.
    """
    return f'<math aria-label="{escape(text, quote=True)}">{_whole(text)}</math>'


def _line(row: str) -> str:
    return f'<mtr><mtd style="text-align: left">{row}</mtd></mtr>'


def _whole(line: str) -> str:
    words = _Words(line, TOKEN.findall(line))
    row = _row(words, "")
    if words.next():
        raise FormulaError(f"{line!r}: {words.next()!r} closes nothing")
    return row


def _row(words: _Words, end: str) -> str:
    """Terms and the signs between them, up to a closing word."""
    parts: list[str] = []
    while (word := words.next()) and word != end and word not in CLOSING.values():
        if word in RELATIONS or word in SUMS:
            parts.append(_sign(words.take(), prefix=not parts or parts[-1].startswith("<mo")))
        else:
            parts.append(_term(words))
    return f"<mrow>{''.join(parts)}</mrow>"


def _sign(word: str, *, prefix: bool = False) -> str:
    form = ' form="prefix"' if prefix and word in SUMS else ""
    return f"<mo{form}>{escape(SIGNS.get(word, word))}</mo>"


def _term(words: _Words) -> str:
    """Products by juxtaposition, joined by fraction bars and signs of multiplication, from the left."""
    joined, last = "", _product(words)
    while (word := words.next()) in PRODUCTS or word == "/":
        words.take()
        right = _product(words)
        if word == "/" and not words.small:
            last = f"<mfrac>{_bare(last)}{_bare(right)}</mfrac>"
        else:
            joined, last = f"{joined}{last}{_sign(word)}", right
    return f"<mrow>{joined}{last}</mrow>" if joined else last


def _product(words: _Words) -> str:
    factors: list[str] = []
    while (word := words.next()) and not _ends_product(word, words):
        factors.append(_scripted(words))
    if not factors:
        words.take("a factor")
    return factors[0] if len(factors) == 1 else f"<mrow>{THIN.join(factors)}</mrow>"


def _ends_product(word: str, words: _Words) -> bool:
    return word in {*RELATIONS, *SUMS, *PRODUCTS, "/", "_", "^", *CLOSING.values()} or (word == "|" and _closes(words))


def _closes(words: _Words) -> bool:
    """Whether a vertical bar ends an absolute value: it is the second, fourth, ... one."""
    return words.found[: words.at].count("|") % 2 == 1


def _scripted(words: _Words) -> str:
    """An atom with what is set low and high, and the brackets to which it is applied, with what is set high there."""
    name = words.next()
    base = _with_scripts(_atom(words), words, name in LARGE or name in BELOW)
    if name[0].isalpha() and name not in LARGE and words.touches("("):
        return _with_scripts(f"<mrow>{base}<mo>&#x2061;</mo>{_group(words)}</mrow>", words, limits=False)
    return base


def _with_scripts(base: str, words: _Words, limits: bool) -> str:
    low = high = ""
    words.small += 1
    while words.touches("_") or words.touches("^"):
        if words.take() == "_":
            low = _bare(_atom(words))
        else:
            high = _bare(_atom(words, power=not limits))
    words.small -= 1
    if low and high:
        tag = "munderover" if limits else "msubsup"
    elif low:
        tag = "munder" if limits else "msub"
    else:
        tag = "mover" if limits else "msup"
    return f"<{tag}>{base}{low}{high}</{tag}>" if low or high else base


def _atom(words: _Words, *, power: bool = False) -> str:
    word = words.next()
    if word in CLOSING:
        return _group(words)
    words.take()
    if word == "sqrt":
        return f"<msqrt>{_bare(_group(words))}</msqrt>"
    if word == "|":
        inner = _row(words, "|")
        words.take("|")
        return f"<mrow><mo>|</mo>{inner}<mo>|</mo></mrow>"
    if word == "-" and power:
        return f"<mrow>{_sign(word, prefix=True)}{_atom(words)}</mrow>"
    return _plain(word, words, power=power)


def _plain(word: str, words: _Words, *, power: bool) -> str:
    if word in LARGE:
        return f"<mo>{LARGE[word]}</mo>"
    if word.startswith('"'):
        return f"<mtext>{escape(word.strip(chr(34)))}</mtext>"
    if word[0].isdigit():
        return f"<mn>{word}</mn>"
    if word == "T" and power:
        return "<mo>⊤</mo>"
    if word[0].isalpha():
        name = word.rstrip("'′")
        shown, primes = GREEK.get(name, name), "′" * (len(word) - len(name))
        if primes and len(shown) == 1:  # in one element with its primes a letter would stand upright
            return f'<mrow><mi>{shown}</mi><mo lspace="0" rspace="0">{primes}</mo></mrow>'
        return f"<mi>{shown}{primes}</mi>"
    if word in SIGNS or word in "∞∂":
        return _sign(word)
    raise FormulaError(f"{words.text!r}: {word!r} is not expected")


def _group(words: _Words) -> str:
    """What stands in brackets, with them; no line is broken inside."""
    opening = words.take(*CLOSING)
    inner = _row(words, CLOSING[opening])
    closing = words.take(CLOSING[opening])
    whole = f'<mrow><mo fence="true">{opening}</mo>{inner}<mo fence="true">{closing}</mo></mrow>'
    return _Round(whole, inner) if opening == "(" else whole


class _Round(str):
    """An element in round brackets, and what is inside them."""

    __slots__ = ("inner",)
    inner: str

    def __new__(cls, whole: str, inner: str) -> "_Round":
        made = super().__new__(cls, whole)
        made.inner = inner
        return made


def _bare(element: str) -> str:
    """An element without its round brackets; one without them as it is."""
    return element.inner if isinstance(element, _Round) else element
