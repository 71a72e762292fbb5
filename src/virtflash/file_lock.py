"""Locking an image against a second server."""

import fcntl
import os
import time
from pathlib import Path

GRACE_SECONDS = 2.0
LOOK_SECONDS = 0.005
LOCKS = Path("/proc/locks")


def lock_file(fd: int, *, shared: bool) -> None:
    """Take the lock (flock). BlockingIOError: another process has it; OSError: there are no locks on this file system.

    A server that was killed holds its lock a little longer than it lives, until the kernel has taken down what io_uring
    had open. Nothing tells when that is done, so it is looked at again for a while.
    """
    deadline = time.monotonic() + GRACE_SECONDS
    while True:
        try:
            fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline or is_held_by_the_living(fd):
                raise
            time.sleep(LOOK_SECONDS)
        else:
            return


def is_held_by_the_living(fd: int) -> bool:
    """Is any process that took a lock on this file still there, as far as the kernel tells?"""
    inode = f":{os.fstat(fd).st_ino}"
    try:
        rows = [line.split() for line in LOCKS.read_text().splitlines()]
    except OSError:
        return True
    return any(row[1] == "FLOCK" and row[5].endswith(inode) and Path("/proc", row[4]).exists() for row in rows)
