"""Where the guests come from."""

import os
import subprocess
from pathlib import Path

import pytest
from requirements import require, unavailable

SCRIPTS = Path(__file__).parents[2] / "scripts"


def directory_of(script: str) -> Path:
    """Run a script that prints a directory when what it makes is there."""
    done = subprocess.run([SCRIPTS / script], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        unavailable(f"scripts/{script} failed: {done.stderr.strip()[-300:]}")
    return Path(done.stdout.strip())


@pytest.fixture(scope="session")
def guest_kernel() -> Path:
    """A directory with `vmlinuz` and `modules/` of Debian's stock kernel."""
    require("qemu-system-x86_64", "busybox", "cpio")
    return directory_of("fetch-guest-kernel")


@pytest.fixture(scope="session")
def lab_tree() -> Path:
    """The tree with the newest QEMU and libblkio. It is too large to be made in passing, so tests do not make it."""
    tree = Path(os.environ.get("VIRTFLASH_LAB", Path.home() / ".cache/virtflash-lab"))
    if not (tree / "usr/bin/qemu-io").exists():
        unavailable("scripts/make-lab-tree was not run")
    return directory_of("make-lab-tree")  # mounts what a restart of this machine has unmounted
