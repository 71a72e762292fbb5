"""What a guest writes until its server is killed: files that are fsync'd and then reported. Runs inside the guest.

`fsync_load.py LIFE` writes to the current directory and reports, behind the prefix of reports:
`kept NAME CHECKSUM`: from now on the file has to be there; `dropped NAME`: from now on nobody knows.
"""

import hashlib
import os
import random
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

WORKERS = 3
FILES = 24  # of each worker
MOST_BYTES = 128 << 10
SCRATCH_BYTES = 8 << 20
PIECE_BYTES = 64 << 10


def report(text: str) -> None:
    """In one write, so that no other thread's report comes between."""
    os.write(1, f"virtflash-guest: {text}\n".encode())


def write_synced(path: Path) -> None:
    """A new file, or another content in the blocks of an old one. OSError: the server is gone, or the disk full."""
    data = os.urandom(random.randrange(1, MOST_BYTES))
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left[:PIECE_BYTES]) :]
    os.ftruncate(fd, len(data))
    os.fsync(fd)
    os.close(fd)
    report(f"kept {path.name} {hashlib.sha256(data).hexdigest()}")


def write_files(prefix: str) -> None:
    """Some are written over in place, some are removed and come back."""
    for number in range(1 << 30):
        path = Path(f"{prefix}-{number % FILES}")
        if number >= FILES:
            report(f"dropped {path.name}")
            if random.random() < 0.5:
                path.unlink()
        write_synced(path)


def write_over() -> None:
    """Nobody counts on this one's data, and all of it is written over: pages go stale."""
    fd = os.open("scratch", os.O_WRONLY | os.O_CREAT)
    while True:
        os.pwrite(fd, os.urandom(PIECE_BYTES), random.randrange(0, SCRATCH_BYTES, PIECE_BYTES))


def until_the_server_is_gone(work: Callable[[], None]) -> None:
    try:
        work()
    except OSError as error:
        report(f"gone {error.strerror}")


def main(life: str) -> None:
    writers = [partial(write_files, f"life{life}-{number}") for number in range(WORKERS)]
    for work in [*writers, write_over]:
        threading.Thread(target=until_the_server_is_gone, args=(work,)).start()


main(sys.argv[1])
