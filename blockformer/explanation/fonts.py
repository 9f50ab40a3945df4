"""Fonts of figures: the usual one, and installed ones for the characters that it lacks."""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

SCALABLE = 1  # a bit of a font's flags; bitmaps, such as coloured emoji, cannot be drawn at any size


class Fonts(NamedTuple):
    """What the texts of a figure are written with.

    Attributes:
        families: of fonts, in the order in which a character is looked for.
        missing: the characters that no installed font has.
    """

    families: list[str]
    missing: frozenset[str]

    def written(self, text: str) -> str:
        """The text, with the code point in place of each character that cannot be drawn."""
        return "".join(_escaped(one) if one in self.missing or not one.isprintable() else one for one in text)


def fonts_for(texts: Collection[str], files: Iterable[str] | None = None) -> Fonts:
    """The usual font, and as many others as it takes to write the texts.

    Args:
        texts: what is to be written.
        files: of fonts that may be taken; None: all that are installed.
    """
    from matplotlib import font_manager, rcParams

    families = [*rcParams["font.family"]]
    usual = font_manager.findfont(font_manager.FontProperties())
    missing = {one for text in texts for one in text if one.isprintable()} - _characters(usual)
    if missing:
        installed = font_manager.findSystemFonts() if files is None else files
        offered = {file: _characters(file) for file in sorted(installed)}
        kana = any("\u3040" <= one <= "\u30ff" for text in texts for one in text)
        while best := _best(offered, missing):
            families.append(_family(best, "JP" if kana else "SC"))
            missing -= offered[best]
    return Fonts(families, frozenset(missing))


def _characters(file: str) -> set[str]:
    """What a font has; nothing if it cannot be read or drawn."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(file)
    except (OSError, RuntimeError, ValueError):
        return set()
    flags: Any = font.face_flags  # an int before matplotlib 3.10
    return {chr(code) for code in font.get_charmap()} if getattr(flags, "value", flags) & SCALABLE else set()


def _best(offered: Mapping[str, set[str]], missing: set[str]) -> str | None:
    """The file with most of the missing characters, a plain one of those with as many; None: all have none."""
    found = max(offered, key=lambda file: (len(missing & offered[file]), _is_plain(file)), default=None)
    return found if found and missing & offered[found] else None


def _is_plain(file: str) -> bool:
    """Whether a font is an upright sans-serif of usual weight, by the name of its file."""
    name = Path(file).stem
    return "Sans" in name and not any(one in name for one in ("Bold", "Italic", "Oblique", "Mono", "Light", "Black"))


def _family(file: str, region: str) -> str:
    """The family of a font, which matplotlib finds from now on, also if it was installed after the last search.

    Args:
        file: of the font.
        region: whose forms of Chinese characters are taken of a file with several fonts, such as ``SC``.
    """
    from matplotlib import font_manager
    from matplotlib.ft2font import FT2Font

    manager = font_manager.fontManager
    if not any(entry.fname == file for entry in manager.ttflist):
        manager.addfont(file)
    names = {entry.name for entry in manager.ttflist if entry.fname == file}
    return next((name for name in sorted(names) if name.endswith(f" {region}")), FT2Font(file).family_name)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
