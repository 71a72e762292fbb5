"""A control socket that is open."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from controlled import Controlled, controlled

from virtflash.logs import ROOT


@pytest.fixture(autouse=True)
def told_from_info_on() -> Iterator[None]:
    """As in a server, whatever its log level."""
    logger = logging.getLogger(ROOT)
    before = logger.level
    logger.setLevel(logging.INFO)
    yield
    logger.setLevel(before)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Controlled]:
    with controlled(tmp_path / "control.sock") as running:
        yield running
