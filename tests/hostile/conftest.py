"""Every attack goes through a front end to the running program, which serves a second volume all the while."""

from collections.abc import Iterator

import pytest
from attacked_server import Attack, AttackedServer
from watched_server import has_direct_io


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AttackedServer]:
    """One for each module; its parameter, if any, is the options of the command line."""
    directory, options = tmp_path_factory.mktemp("attacked"), getattr(request, "param", ())
    if "--direct" in options and not has_direct_io(directory):
        pytest.skip(f"{directory}: its file system has no direct I/O")
    with AttackedServer(directory, *options).running() as attacked:
        yield attacked


@pytest.fixture
def attack(server: AttackedServer) -> Iterator[Attack]:
    """An attack, after which all must be as it was."""
    made = Attack(server)
    yield made
    made.over()
