r"""Formulas in a line of text, typeset as MathML, which browsers draw without any help.

``Q K^T * 1/sqrt(64)``: names beside each other are multiplied, ``/`` makes a fraction of what is before it back to the
last operator and of what comes next, ``^`` and ``_`` take one name or a bracket.
"""

import re
from html import escape

TOKEN = re.compile(r"\s*(\d+(?:\.\d+)?(?:e[+-]?\d+)?|[^\W\d_]+'*|\.\.\.|[()\[\]|,=+*/^_<-])")
SIGNS = {"*": "⋅", "-": "−", "...": "…"}
NAMES = {
    "alpha": "α",
    "beta": "β",
    "gamma": "γ",
    "delta": "δ",
    "Delta": "Δ",
    "theta": "θ",
    "mu": "μ",
    "sigma": "σ",
    "inf": "∞",
    "sum": "∑",
}
CLOSING = {"(": ")", "[": "]", "|": "|"}


def mathml(formula: str) -> str:
    """The formula as a ``<math>`` element; what is no formula in this notation is shown as text."""
    formula = formula.removesuffix(" * 1")
    try:
        tokens = _tokens(formula)
        parser = _Parser(tokens)
        inner = parser.expression()
        if parser.place != len(tokens):
            raise ValueError(f"a bracket is closed twice: {formula}")
    except ValueError:
        inner = f"<mtext>{escape(formula)}</mtext>"
    return f'<math display="block" aria-label="{escape(formula)}"><mrow>{inner}</mrow></math>'


def _tokens(formula: str) -> list[str]:
    found, at = list[str](), 0
    while at < len(formula.rstrip()):
        match = TOKEN.match(formula, at)
        if match is None:
            raise ValueError(f"an unknown sign: {formula[at:]}")
        found.append(match[1])
        at = match.end()
    return found


class _Parser:
    """Reads tokens from left to right."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens, self.place = tokens, 0

    @property
    def next(self) -> str:
        return self.tokens[self.place] if self.place < len(self.tokens) else ""

    def take(self) -> str:
        token = self.next
        if not token:
            raise ValueError("the formula ends too early")
        self.place += 1
        return token

    def expression(self, closing: str = "") -> str:
        """Products joined by operators, up to a closing bracket."""
        done, product = list[str](), list[str]()
        while self.next and self.next != closing and self.next not in (")", "]"):
            if self.next == "/":
                self.take()
                below = _bare(self.factor())
                above = _bare(product[0]) if len(product) == 1 else "".join(product)
                product = [f"<mfrac><mrow>{above}</mrow><mrow>{below}</mrow></mfrac>"]
            elif self.next in "=+-*<,":
                sign = self.take()
                done += [*product, f"<mo>{SIGNS.get(sign, escape(sign))}</mo>"]
                product = []
            else:
                product.append(self.factor())
        return "".join([*done, *product])

    def factor(self) -> str:
        """An atom with what stands above and below it."""
        base, below, above = self.atom(), "", ""
        while self.next in ("_", "^"):
            if self.take() == "_":
                below = f"<mrow>{_bare(self.atom())}</mrow>"
            else:
                above = f"<mrow>{_bare(self.atom())}</mrow>"
        if below and above:
            return f"<msubsup>{base}{below}{above}</msubsup>"
        if below or above:
            return f"<{'msub' if below else 'msup'}>{base}{below or above}</{'msub' if below else 'msup'}>"
        return base

    def atom(self) -> str:
        token = self.take()
        if token in CLOSING:
            inner = self.expression(CLOSING[token])
            if self.take() != CLOSING[token]:
                raise ValueError("a bracket is not closed")
            return f"<mrow><mo>{token}</mo>{inner}<mo>{CLOSING[token]}</mo></mrow>"
        if token == "-":
            return f"<mrow><mo>−</mo>{self.atom()}</mrow>"
        if token[0].isdigit():
            return f"<mn>{token}</mn>"
        if token == "sqrt" and self.next == "(":
            return f"<msqrt>{_bare(self.atom())}</msqrt>"
        if not token[0].isalpha():
            if token == "...":
                return f"<mo>{SIGNS[token]}</mo>"
            raise ValueError(f"a sign without anything before it: {token}")
        name = NAMES.get(token.rstrip("'"), token.rstrip("'"))
        primes = "′" * token.count("'")
        element = f"<mo>{name}</mo>" if name == "∑" else f"<mi>{name}</mi>"
        return f"<msup>{element}<mo>{primes}</mo></msup>" if primes else element


def _bare(element: str) -> str:
    """What is in brackets, without them."""
    start, end = "<mrow><mo>(</mo>", "<mo>)</mo></mrow>"
    return element[len(start) : -len(end)] if element.startswith(start) and element.endswith(end) else element
