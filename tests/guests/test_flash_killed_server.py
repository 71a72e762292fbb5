"""`kill -9` of the server under a real guest's load: the guest's file system and every file that it fsync'd survive.

VIRTFLASH_KILLS says how many kills, of all file systems together; some more come while guests mount.
"""

import os
import shutil
from pathlib import Path

import pytest
from killed_server import KilledServers, Setup
from requirements import require

SETUPS = [
    Setup("ext4", "automotive-tlc-emmc"),
    Setup("ext4", "mlc-emmc", "discard", ("--no-host-sync",)),
    Setup("f2fs", "automotive-tlc-emmc"),
    Setup("f2fs", "mlc-emmc", "nodiscard", ("--no-host-sync", "--io", "threads")),
]
KILLS = int(os.environ.get("VIRTFLASH_KILLS", "8"))
SEED = int(os.environ.get("VIRTFLASH_SEED", "1"))
SECONDS_PER_KILL = 20


@pytest.mark.slow
@pytest.mark.timeout(120 + KILLS * SECONDS_PER_KILL)
@pytest.mark.parametrize("setup", SETUPS, ids=str)
def test_what_was_synced_outlives_the_server(setup: Setup, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    require("linux.uml", f"mkfs.{setup.filesystem}")
    with KilledServers(setup, tmp_path, SEED) as servers:
        tally = servers.run(-(-KILLS // len(SETUPS)))
    with capsys.disabled():
        print(f"\n{setup}, seed {SEED}: {tally}", flush=True)  # noqa: T201 - figures that a user asked for
    assert not tally.violations, f"image and copy of it as the last server left it: {tmp_path}"
    assert tally.recoveries == tally.kills + tally.early_kills
    assert tally.files_checked >= tally.kills


class Forgetful(KilledServers):
    """Once, what a server's last life had made stable is gone: its flash is as the server before had left it."""

    forgot = False

    def _start_again(self) -> None:
        if self.tally.kills == 2 and not self.forgot:
            shutil.copy(self.directory / "before.vflash", self.image)
            self.forgot = True
        super()._start_again()


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_files_that_are_not_kept_are_violations(tmp_path: Path) -> None:
    require("linux.uml", "mkfs.ext4")
    with Forgetful(SETUPS[0], tmp_path, SEED) as servers:
        violations = servers.run(3).violations
    assert any(line.endswith(": FAILED") for line in violations)
