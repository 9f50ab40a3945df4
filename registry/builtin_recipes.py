"""The recipes that come with the package."""

from pathlib import Path

from registry.errors import nearest


def installed() -> dict[str, Path]:
    """The recipes that come with the package, by bare name; one may lie in a folder of its family."""
    return {path.stem: path for path in sorted(shelf().rglob("*.yaml"), key=lambda path: path.stem)}


def shelf() -> Path:
    """The folder in which they lie."""
    here = Path(__file__).parent
    return here / "recipes" if (here / "recipes").is_dir() else here.parent / "recipes"


def about(path: Path) -> str:
    """What a recipe file says of itself: the comment that it begins with, without the line for editors."""
    lines = path.read_text(encoding="utf-8").splitlines()
    comment = [line for line in lines[: _length(lines)] if not line.startswith("# yaml-language-server:")]
    return " ".join(line.lstrip("# ") for line in comment)


def no_such(name: str) -> str:
    """What to say to one who asks for a recipe that is not there."""
    known = installed()
    hint = nearest(name, known) or f"`blockformer recipes` lists all {len(known)}"
    return f"no recipe has this name; {hint} (a file needs its ending, .yaml)"


def _length(lines: list[str]) -> int:
    """How many lines the first comment has."""
    return next((index for index, line in enumerate(lines) if not line.startswith("#")), len(lines))
