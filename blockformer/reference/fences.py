"""Formulas in Markdown, for pymdownx: a fence ```formula, and `#!formula x^2` inside a line.

markdown_extensions:
  - pymdownx.superfences:
      custom_fences:
        - name: formula
          class: formula
          format: !!python/name:blockformer.reference.fences.fence
  - pymdownx.inlinehilite:
      custom_inline:
        - name: formula
          class: formula
          format: !!python/name:blockformer.reference.fences.inline
"""

import xml.etree.ElementTree as ET
from typing import Any

from registry.formula import inline_mathml, mathml


def fence(source: str, language: str, css_class: str, options: Any, md: Any, **kwargs: Any) -> str:
    """The HTML of a fence of formulas; it scrolls where it is wider than the page."""
    return f'<div class="{css_class}" tabindex="0">{mathml(source)}</div>'


def inline(source: str, language: str, css_class: str, md: Any) -> Any:
    """The element of a formula inside a line."""
    return ET.fromstring(inline_mathml(source))
