"""Ten thousand connections that say nothing: the next one that says something is answered, and memory stays bounded.

The server runs in a process of its own, with the descriptors that a service usually has.
"""

import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from controlled import Wire

SILENT = 10_000
SERVER_DESCRIPTORS = 1024
MEMORY_MOST = 4 << 20  # bytes that the server may grow by: 64 connections, and what Python keeps of those that went
ANSWER_SECONDS = 5.0

SERVER = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, ({descriptors}, {descriptors}))
from pathlib import Path
sys.path.insert(0, {here!r})
from controlled import controlled
with controlled(Path({path!r})) as served:
    print("ready", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """Its socket and its process."""
    path = tmp_path / "control.sock"
    code = SERVER.format(descriptors=SERVER_DESCRIPTORS, here=str(Path(__file__).parent), path=str(path))

    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    yield path, process.pid
    process.communicate(b"\n", timeout=60)
    assert process.returncode == 0


@pytest.fixture
def many_descriptors() -> Iterator[int]:
    """How many connections this process can have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = SILENT + 256
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(most, soft), hard))
    yield min(most - 256, SILENT)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def memory(process: int) -> int:
    """Of its own, in bytes."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def test_they_harm_nobody(server: tuple[Path, int], many_descriptors: int) -> None:
    path, process = server
    if many_descriptors < SILENT:
        pytest.skip(f"only {many_descriptors} connections can be made here")
    with ExitStack() as stack:
        watcher = stack.enter_context(wire_to(path))
        watcher.ask("watch")
        memory_before = memory(process)
        slowest = 0.0
        for number in range(many_descriptors):
            stack.enter_context(wire_to(path))
            if number % 1000 == 999:
                asked = time.monotonic()
                with wire_to(path) as talker:
                    assert talker.ask("status")["result"]["version"]
                slowest = max(slowest, time.monotonic() - asked)
        grown = memory(process) - memory_before
        assert len(list(Path(f"/proc/{process}/fd").iterdir())) < 100
        assert watcher.ask("log_level")["result"] == "info"
    assert slowest < ANSWER_SECONDS
    assert grown < MEMORY_MOST


class wire_to(Wire):  # noqa: N801 - reads as a word
    def __enter__(self) -> "wire_to":
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()
