"""The size of a table's values once they are unpacked, found before: a small file can repeat a large value."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from blockformer.data.corpora.parquet_pages import most_rows, pages_of
from blockformer.errors import DataError

LONGEST = 2**28
"""Bytes of a line or a row at most."""
MOST_VALUES = 2**26
"""Values of a column of lists in a group of rows of Parquet, which can all belong to one row."""
_ROWS_OF_PYARROW = 1024
"""For which it allocates memory at least, where values have a fixed length."""


def dictionaries(file: Any) -> list[str]:
    """The columns of text of a Parquet file that pyarrow can read as dictionaries, which name each value once."""
    groups = [file.metadata.row_group(group) for group in range(file.num_row_groups)]
    return [
        leaf.path
        for place, leaf in enumerate(map(file.schema.column, range(len(file.schema))))
        if leaf.physical_type == "BYTE_ARRAY"
        and not any(name.startswith("DELTA") for group in groups for name in group.column(place).encodings)
    ]


def parquet_batches(path: Path, file: Any, repeats: Any, columns: Sequence[str], at_once: int) -> Iterator[Any]:
    """The record batches of a file, with fewer rows where these may have many bytes.

    A batch has at most ``LONGEST`` bytes or those of two pages, by the headers of the pages and the dictionaries. Lists
    stay dictionaries, as a single row may repeat a value as often as it likes; how many of their values belong to a
    row is not known before, and a batch has so many rows as have ``LONGEST`` bytes on the average of their group.

    Args:
        path: of the file.
        file: the file.
        repeats: the same file, with :func:`dictionaries` as such.
        columns: names of the columns.
        at_once: number of rows of other batches.

    Raises:
        DataError: the lists of a group of rows have more values than can be read at once, bytes are too long, a page is
            too large, or its header is damaged.
    """
    named = {*dictionaries(file)}
    leaves = [(place, file.schema.column(place)) for place in range(len(file.schema))]
    leaves = [(place, leaf) for place, leaf in leaves if any(f"{leaf.path}.".startswith(f"{one}.") for one in columns)]
    for leaf in (leaf for _, leaf in leaves if leaf.physical_type == "FIXED_LEN_BYTE_ARRAY"):
        if leaf.length > LONGEST // _ROWS_OF_PYARROW:
            raise DataError(f"{path}: {leaf.path} has values of {leaf.length:,} bytes each, which are no text")
    lists = [place for place, leaf in leaves if leaf.max_repetition_level]
    with path.open("rb") as stream:
        for group in range(file.num_row_groups):
            chunks = file.metadata.row_group(group)
            if (most := max((chunks.column(place).num_values for place in lists), default=0)) > MOST_VALUES:
                said = f"lists of {most:,} values, at most {MOST_VALUES:,} are read"
                raise DataError(f"{path}: group {group + 1} of its rows has {said}; write it in smaller groups of rows")
            try:
                pages = {
                    place: pages_of(stream, chunks.column(place), leaf.path not in named) for place, leaf in leaves
                }
            except DataError as error:
                raise DataError(f"{path}: {error}") from None
            rows = most_rows([pages[place] for place in pages if place not in lists], at_once, LONGEST)
            if lists:
                size = sum(page.bytes_of(page.values) for place in lists for page in pages[place])
                rows = max(1, min(rows, chunks.num_rows * LONGEST // max(1, size)))
                yield from repeats.iter_batches(rows, row_groups=[group], columns=columns)
                continue
            first = next(repeats.iter_batches(rows, row_groups=[group], columns=columns), None)
            longest = max(map(_longest_repeated, first.columns), default=0) if first is not None else 0
            rows = max(1, min(rows, LONGEST // max(1, longest)))
            yield from file.iter_batches(rows, row_groups=[group], columns=columns)


def small_parts(path: Path, batch: Any, names: Sequence[str], before: int) -> Iterator[Any]:
    """A batch in parts whose values take at most ``LONGEST`` bytes once they are unpacked.

    Args:
        path: of the file.
        batch: a record batch.
        names: of the columns that are read.
        before: number of rows before it.

    Raises:
        DataError: one row is larger.
    """
    if batch.num_rows == 0 or sum(unpacked_size(batch.column(name)) for name in names) <= LONGEST:
        yield batch
    elif batch.num_rows == 1:
        raise DataError(f"{path}, row {before + 1}: takes more than {LONGEST // 2**20} MiB once it is unpacked")
    else:
        half = batch.num_rows // 2
        yield from small_parts(path, batch.slice(0, half), names, before)
        yield from small_parts(path, batch.slice(half), names, before + half)


def _longest_repeated(array: Any) -> int:
    """Bytes of the longest text in the dictionaries of an Arrow array; 0 without one."""
    import pyarrow

    if pyarrow.types.is_dictionary(array.type):
        return max(_lengths(array.dictionary).drop_null().to_pylist(), default=0)
    return max(map(_longest_repeated, _children(array)), default=0)


def unpacked_size(array: Any) -> int:
    """Bytes of all values of an Arrow array, each counted as often as it stands there; at least its number of values.

    A dictionary, a view or a run holds a value once and can name it a billion times, and Python would copy each.

    Args:
        array: a ``pyarrow.Array`` that was validated.
    """
    import pyarrow  # loads only where tables are read

    kind, types = array.type, pyarrow.types
    if isinstance(kind, pyarrow.BaseExtensionType):
        return unpacked_size(array.storage)
    if types.is_dictionary(kind):
        if _is_text(kind.value_type):
            return len(array) + _total(_lengths(array.dictionary).take(array.indices))
        return len(array) * (1 + unpacked_size(array.dictionary))
    if types.is_run_end_encoded(kind):
        return len(array) * (1 + unpacked_size(array.values))
    if _is_text(kind):
        return len(array) + _total(_lengths(array))
    if types.is_list_view(kind) or types.is_large_list_view(kind):
        # the lists may overlap; values are taken as equally large
        repeats = _total(array.value_lengths()) / max(1, len(array.values))
        return len(array) + round(repeats * unpacked_size(array.values))
    if children := _children(array):
        return len(array) + sum(map(unpacked_size, children))
    return len(array) + array.nbytes


def _children(array: Any) -> list[Any]:
    """What the lists, maps or structures of an array hold, without what is outside the array's own range."""
    from pyarrow import types

    kind = array.type
    if types.is_struct(kind):
        return array.flatten()
    if types.is_map(kind):
        start, stop = (array.offsets[index].as_py() for index in (0, -1))
        return [array.keys.slice(start, stop - start), array.items.slice(start, stop - start)]
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return [array.flatten()]
    return []


def _lengths(array: Any) -> Any:
    """The number of bytes of each text."""
    import numpy as np
    import pyarrow
    from pyarrow import compute

    if pyarrow.types.is_string_view(array.type) or pyarrow.types.is_binary_view(array.type):
        views = np.frombuffer(array.buffers()[1], np.int32).reshape(-1, 4)  # the length and a place, or a short text
        lengths = views[array.offset : array.offset + len(array), 0].astype(np.int64)
        return pyarrow.array(lengths, mask=array.is_null().to_numpy(zero_copy_only=False))
    return compute.call_function("binary_length", [array]).cast(pyarrow.int64())


def _total(lengths: Any) -> int:
    from pyarrow import compute

    return compute.call_function("sum", [lengths]).as_py() or 0


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    return any(
        is_kind(kind)
        for is_kind in (
            types.is_string,
            types.is_large_string,
            types.is_string_view,
            types.is_binary,
            types.is_large_binary,
            types.is_binary_view,
        )
    )
