"""Fixtures of the tests of families."""

from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which each original is saved once for all tests."""
    torch.set_num_threads(1)
    return tmp_path_factory.mktemp("originals")
