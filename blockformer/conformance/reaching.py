"""How far a block sees: as far as its mixers say, neither more nor less."""

from collections.abc import Iterator

import torch
from torch import Tensor

from blockformer.conformance.comparing import influence, pairs_in
from blockformer.conformance.example import example
from blockformer.conformance.subject import Subject
from blockformer.conformance.variants import allowed
from blocks.base import Component, Mixer, Stack

LENGTH, WINDOW = 9, 3


def check_sees_as_far_as_it_says(subject: Subject) -> None:
    """Layers of windows w see sum(w - 1) tokens further than the token itself, and without a window everything.

    Checked as the block is, and with each ``window`` of its recipe set.
    """
    for seen in _windowed(subject):
        block = seen.build()
        table = influence(seen, block, example(seen, length=LENGTH))
        declared = _declared(seen, block)
        more, less = pairs_in(table & ~declared), pairs_in(declared & ~table)
        where = f"{seen.params.get('window', '')} over {LENGTH} tokens".lstrip()
        assert not more, f"{where}: output {more[0][0]} depends on input {more[0][1]}, beyond what is said"
        assert not less, f"{where}: output {less[0][0]} does not depend on input {less[0][1]}, which it should see"


def _windowed(subject: Subject) -> Iterator[Subject]:
    yield subject
    changed = subject
    for path in subject.keys("window"):
        candidate = changed.put(path, WINDOW)
        changed = candidate if allowed(candidate) else changed
    if changed is not subject:
        yield changed


def _declared(subject: Subject, block: Component) -> Tensor:
    """(LENGTH, LENGTH) bool, as (output, input)."""
    index = torch.arange(LENGTH)
    distance = index[:, None] - index[None, :]
    causal = subject.place != "bidirectional"
    reach = _reach(block, causal)
    near = distance.abs() <= (LENGTH if reach is None else reach)
    return near & (distance >= 0) if causal else near


def _reach(block: Component, causal: bool) -> int | None:
    """How many tokens away a block looks; None: any number."""
    repeats = [module.repeats for module in block.modules() if isinstance(module, Stack)]
    windows = [module.window for module in block.modules() if isinstance(module, Mixer) and _own(module, causal)]
    found = [window for window in windows if window is not None]
    return None if len(found) < len(windows) else sum(window - 1 for window in found) * max(repeats, default=1)


def _own(mixer: Mixer, causal: bool) -> bool:
    """Whether it looks at the text itself, not at an encoder's output, nor from within the encoder."""
    return mixer.site is not None and mixer.site.memory_dim is None and mixer.site.causal == causal
