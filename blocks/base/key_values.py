"""The cached keys and values of attention."""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor


class KeyValuesMark(NamedTuple):
    """The attributes of :class:`KeyValues` at some time; later tokens are written after ``end`` only."""

    keys: Tensor | None
    values: Tensor | None
    end: int


class KeyValues:
    """Keys and values (B, G, S, K) of the tokens so far, in buffers that double when full.

    Args:
        window: a query sees keys less than this many tokens away, so that older ones are dropped; None: all are kept.

    Attributes:
        keys: the buffer of keys, of which those before ``end`` are in use; None: no token so far.
        values: that of values.
        end: number of columns in use.
        at: (1,) int, the column of the next token in a buffer of fixed size; None: the buffers grow.
    """

    def __init__(self, window: int | None = None) -> None:
        self.window = window
        self.keys: Tensor | None = None
        self.values: Tensor | None = None
        self.end = 0
        self.at: Tensor | None = None

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append (B, G, T, K); return all, (B, G, S, K), with a window the last ``window - 1 + T``.

        In buffers of fixed size T is 1, and the whole buffers are returned.
        """
        if self.at is not None and self.keys is not None and self.values is not None:
            self.keys.index_copy_(2, self.at, keys)
            self.values.index_copy_(2, self.at, values)
            return self.keys, self.values
        new = keys.shape[2]
        earlier = self.end if self.window is None else min(self.end, self.window - 1)
        begin = self.end - earlier
        if self.keys is None or self.values is None or self.end + new > self.keys.shape[2]:
            room = max(2 * earlier, earlier + new)
            self.keys = _moved(self.keys, slice(begin, self.end), keys, room)
            self.values = _moved(self.values, slice(begin, self.end), values, room)
            begin, self.end = 0, earlier
        self.keys[:, :, self.end : self.end + new] = keys
        self.values[:, :, self.end : self.end + new] = values
        self.end += new
        k, v = self.keys[:, :, begin : self.end], self.values[:, :, begin : self.end]
        if self.window is not None and new > self.window:  # what a long prompt leaves is as small as the window
            self.keys, self.values = k[:, :, -self.window :].clone(), v[:, :, -self.window :].clone()
            self.end = self.window
        return k, v

    def reorder(self, rows: Tensor) -> None:
        if self.keys is not None and self.values is not None:
            self.keys, self.values = self.keys[rows], self.values[rows]

    @property
    def keeps(self) -> bool:
        return self.window is None

    def mark(self) -> KeyValuesMark:
        return KeyValuesMark(self.keys, self.values, self.end)

    def restore(self, mark: KeyValuesMark, kept: int = 0) -> None:
        if self.window is None:
            self.end = min(self.end, mark.end + kept)  # those of a memory do not grow
        else:
            self.keys, self.values, self.end = mark

    def fix(self, capacity: int, at: Tensor) -> None:
        """Write one token at a time into column ``at`` (1,) of buffers of ``capacity`` columns, without a window.

        Raises:
            ValueError: keys were dropped already.
        """
        if self.keys is None or self.values is None:
            raise ValueError("buffers of fixed size begin with a prompt")
        if self.window is not None:
            raise ValueError("a window's buffers are not of fixed size: make them without it")
        room = 0, 0, 0, capacity - self.end
        self.keys, self.values = (F.pad(x[:, :, : self.end], room) for x in (self.keys, self.values))
        self.at = at


def _moved(buffer: Tensor | None, used: slice, new: Tensor, room: int) -> Tensor:
    """A buffer with ``room`` columns, of the dtype and device of ``new``, that begins with those in use."""
    larger = new.new_empty(*new.shape[:2], room, new.shape[3])
    if buffer is not None:
        larger[:, :, : used.stop - used.start] = buffer[:, :, used]
    return larger
