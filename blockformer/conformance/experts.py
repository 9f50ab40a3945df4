"""A feed-forward that stands for many experts."""

from dataclasses import replace
from typing import cast

import torch

from blockformer.conformance.comparing import assert_same
from blockformer.conformance.example import example
from blockformer.conformance.subject import EXPERTS, Subject
from blocks.base import Component, Expert
from blocks.init.keyed import generator
from registry import entries


def check_stands_for_each_expert(subject: Subject) -> None:
    """At a site of experts, the rows of each give what one block with its weights gives; some have no rows."""
    if not issubclass(entries(subject.slot)[subject.name].block, Expert):
        return
    alone, rows = subject.build(), example(subject, batch=1, length=2 * EXPERTS).x[0]
    ends = [min(3 * e, len(rows)) for e in range(EXPERTS)]  # none for the first and the last
    together = _experts(subject)
    assert isinstance(together, Expert)
    assert isinstance(alone, Expert)
    y = together(rows, torch.tensor(ends, dtype=torch.int32))
    assert y.shape == rows.shape, f"rows {tuple(rows.shape)} became {tuple(y.shape)}"
    for e, (start, stop) in enumerate(zip([0, *ends], ends, strict=False)):
        alone.load_state_dict({name: value[e] for name, value in together.state_dict().items()})
        assert_same(y[start:stop], alone(rows[None, start:stop])[0], f"expert {e}, rows {start} to {stop}")


def _experts(subject: Subject) -> Component:
    """All experts, with random values in every parameter."""
    site = replace(subject.site, experts=EXPERTS)
    block = cast("Component", subject.spec(site)).to(torch.float64).eval()
    with torch.no_grad():
        for name, parameter in block.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator(0, name), dtype=torch.float64)
            parameter.copy_(noise * 0.2)
    return block
