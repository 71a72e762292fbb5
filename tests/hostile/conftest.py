"""Every attack goes through a front end to the running program, which serves a second volume all the while."""

from collections.abc import Iterator

import pytest
from attacked_server import Attack, AttackedServer, Files, SharedFlash


@pytest.fixture(scope="module", params=[Files, SharedFlash], ids=["files", "emmc"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AttackedServer]:
    """One for each module and medium."""
    directory = tmp_path_factory.mktemp("attacked")
    with AttackedServer(request.param(directory)).running() as attacked:
        yield attacked


@pytest.fixture
def attack(server: AttackedServer) -> Iterator[Attack]:
    """An attack, after which all must be as it was."""
    made = Attack(server)
    yield made
    made.over()
