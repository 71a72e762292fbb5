"""The lock of an image: refused at once while its holder lives, waited for while a dead one's is being taken down."""

import fcntl
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from virtflash import file_lock
from virtflash.file_lock import lock_file


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.touch()
    return path


def test_a_living_holder_is_not_waited_for(image: Path) -> None:
    with image.open("r+") as first, image.open("r+") as second:
        lock_file(first.fileno(), shared=False)
        begun = time.monotonic()
        with pytest.raises(BlockingIOError):
            lock_file(second.fileno(), shared=True)
        assert time.monotonic() - begun < file_lock.GRACE_SECONDS / 2


def test_readers_share(image: Path) -> None:
    with image.open() as first, image.open() as second:
        lock_file(first.fileno(), shared=True)
        lock_file(second.fileno(), shared=True)


def test_what_a_dead_process_still_holds_is_waited_for(image: Path) -> None:
    """Its descriptor lives on here, as it does in the kernel after a server with io_uring was killed."""
    fd = os.open(image, os.O_RDWR)
    subprocess.run([sys.executable, "-c", f"import fcntl; fcntl.flock({fd}, fcntl.LOCK_EX)"], pass_fds=[fd], check=True)
    with image.open("r+") as other:
        with pytest.raises(BlockingIOError):
            fcntl.flock(other.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        release = threading.Timer(0.05, os.close, [fd])
        release.start()
        lock_file(other.fileno(), shared=False)
        release.join()
