"""The settings of a component are plain data, which make it again."""

import json

from blockformer.conformance.block_case import BlockCase, frozen
from blockformer.conformance.components.examples import made
from registry import Block, parse


def check_settings_make_it_again(case: BlockCase) -> None:
    """Its settings with all defaults filled in are JSON, and make the same component, as a checkpoint does."""
    component, dumped = made(case, Block), case.spec.dump()
    again = parse(case.slot, frozen(json.loads(json.dumps(dumped))))
    assert again.dump() == dumped, "settings that are stored and read again are others"
    assert type(again()) is type(component)
