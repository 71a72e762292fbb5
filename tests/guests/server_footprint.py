"""What a server holds of the host: descriptors, threads, memory."""

import time
from pathlib import Path
from typing import NamedTuple

from virtflash.demo.server_process import ACCEPTS_CONNECTIONS, ServerProcess

POLL_SECONDS = 0.01


class Footprint(NamedTuple):
    """Numbers, and anonymous memory in KiB.

    `threads`: without those in which the kernel does I/O for the ring; they come and go as it likes. `mappings`: guest
    memory that is still mapped would be among them.
    """

    descriptors: int
    threads: int
    mappings: int
    anonymous: int


def footprint(pid: int) -> Footprint:
    process = Path(f"/proc/{pid}")
    status = (line.split() for line in (process / "status").read_text().splitlines())
    anonymous = next(int(words[1]) for words in status if words[0] == "RssAnon:")
    return Footprint(
        descriptors=len(list((process / "fd").iterdir())),
        threads=sum(not is_kernel_worker(task) for task in (process / "task").iterdir()),
        mappings=len((process / "maps").read_text().splitlines()),
        anonymous=anonymous,
    )


def is_kernel_worker(task: Path) -> bool:
    try:
        return (task / "comm").read_text().startswith("iou-wrk-")
    except OSError:
        return True  # gone between two looks, as only they are


def has_front_end(server: ServerProcess) -> bool:
    """Whether the server still holds a connection: it closes that last, when it has let go of everything else."""
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        columns = line.split(maxsplit=7)
        if len(columns) == 8 and columns[7] == str(server.socket) and not int(columns[3], 16) & ACCEPTS_CONNECTIONS:
            return True
    return False


def wait_until_left(server: ServerProcess, seconds: float = 10.0) -> None:
    """Return when the server has let go of its front end. TimeoutError: not in time."""
    deadline = time.monotonic() + seconds
    while has_front_end(server):
        if time.monotonic() > deadline:
            raise TimeoutError(f"the server holds on to its front end after {seconds:.0f} s")
        time.sleep(POLL_SECONDS)
