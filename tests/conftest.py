"""The program itself, for tests: `virtflash serve` as a child process."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from served import IMAGE_BYTES, Serve

from virtflash.demo.server_process import ServerProcess


@pytest.fixture(autouse=True, scope="session")
def signals_as_in_a_terminal() -> None:
    """What is started inherits which signals are ignored: SIGHUP under nohup, SIGINT in the background of a script."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start servers; they are ended with the test, and must then exit 0 without a traceback in what they logged."""
    servers: list[ServerProcess] = []
    with ExitStack() as stack:

        def start(*options: str, size: int = IMAGE_BYTES, directory: Path | None = None) -> ServerProcess:
            base = directory or tmp_path
            image, socket = (base / f"disk{len(servers)}{suffix}" for suffix in (".img", ".sock"))
            image.touch()
            os.truncate(image, size)
            server = ServerProcess(image, socket, options=options)
            servers.append(server)
            return stack.enter_context(server)

        yield start
    for server in servers:
        said = server.log.read_text()
        sys.stdout.write(said)  # pytest shows it where a test failed
        assert "Traceback" not in said
