"""What a study has stored in its folder, which may be damaged, or come from a stranger."""

from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from blockformer.errors import UserError
from blockformer.studies.study_file import FOLDERS
from registry.files import file_in, read_bytes
from registry.text import printable

T = TypeVar("T")
LARGEST = 2**26  # bytes of a file
OWN = tuple(name for name in FOLDERS if name != "wandb")  # W&B makes links in its own


def read_stored(folder: Path, name: str, kind: TypeAdapter[T], remedy: str) -> T:
    """What a JSON file of a study holds.

    Args:
        folder: the study's, or that of one of its tasks.
        name: of the file in it.
        kind: its type; numbers are finite.
        remedy: what to do if it is damaged.

    Raises:
        FileNotFoundError: there is none.
        UserError: it is damaged, is no regular file, or leads out of the folder.
    """
    try:
        return kind.validate_json(read_bytes(file_in(folder, name, LARGEST), LARGEST), strict=True)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(f"{printable(folder / name)}: {error.strerror}; {remedy}") from error
    except ValidationError as error:
        raise UserError(f"{printable(folder / name)}: is damaged; {remedy}") from error


def check_links(folder: Path) -> None:
    """Check that nothing leads out of a study's folder, into which its runs write.

    Raises:
        UserError: there is a link.
    """
    inside = [folder, *(folder / name for name in OWN if (folder / name).is_dir())]
    for path in (path for place in inside if place.is_dir() for path in sorted(place.iterdir())):
        if path.is_symlink():
            raise UserError(f"{printable(path)}: is a link; a study writes into its own folder: put what it names here")
