"""The page's words in each language, from one table."""

from functools import cache
from pathlib import Path
from typing import Any

from registry.strict_yaml import read_yaml

LANGUAGES = ("en", "zh")
TABLE, CAPTIONS = (Path(__file__).with_name(name) for name in ("words.yaml", "captions.yaml"))


@cache
def tables() -> dict[str, dict[str, dict[str, str]]]:
    """The words by table (``page``, ``names``), key and language."""
    found: dict[str, Any] = read_yaml(TABLE)
    return found


@cache
def captions() -> dict[str, str]:
    """The Chinese of the captions of the blocks of this project, by the English."""
    found: dict[str, str] = read_yaml(CAPTIONS)
    return found


class Words:
    """The words of one language.

    Args:
        language: one of ``LANGUAGES``.
    """

    def __init__(self, language: str) -> None:
        self.language = language
        self.page, self.names = (
            {key: words[language] for key, words in tables()[table].items()} for table in ("page", "names")
        )

    def __call__(self, key: str, **values: object) -> str:
        """A text with its values filled in."""
        text = self.page[key]
        for name, value in values.items():
            text = text.replace(f"{{{name}}}", str(value))
        return text

    def caption(self, text: str) -> str:
        """A caption in this language; that of a plug-in is shown as it is written."""
        return text if self.language == "en" else _chinese().get(text, text)


@cache
def _chinese() -> dict[str, str]:
    """The Chinese of all captions by the English: of blocks, and of steps that no block declares."""
    return captions() | {words["en"]: words["zh"] for words in tables()["page"].values()}
