"""`virtflash demo` as a user runs it, with real guests."""

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from processes import started_with
from requirements import require

from virtflash.demo.uml_guest import KERNEL

PROGRAM = Path(sys.executable).with_name("virtflash")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Everything that it makes is made there."""
    require(KERNEL)
    return {**os.environ, "TMPDIR": str(tmp_path)}


@pytest.mark.slow
def test_two_guests(environment: dict[str, str], tmp_path: Path) -> None:
    run = subprocess.run([PROGRAM, "demo"], env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    lines = run.stdout.splitlines()
    assert sum(line.split()[-1:] == ["done"] for line in lines) == 2
    assert next(line.split()[1:] for line in lines if line.startswith("errors")) == ["0", "0"]
    assert max(map(len, lines)) <= 80
    timeline = [line.split(maxsplit=3) for line in lines if line.endswith("its wear budget is spent")]
    assert [line[2] for line in timeline] == ["infotainment"]
    assert any(line.startswith("cluster: 40 of 40 files") for line in lines)
    seen = [line.partition("its machine: ")[2] for line in lines if "its machine: " in line]
    assert seen == [
        "a write fails: heat",
        "and succeeds again: shade",
        "a write fails: brown-out",
        "and succeeds again: supply",
    ]
    assert any("read-only: emmc0.temperature is 107 degC, above 105 degC" in line for line in lines)
    assert any("read-only, frozen: emmc0.voltage is 2.5 V, below 2.7 V" in line for line in lines)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_it_takes_everything_along(
    environment: dict[str, str], tmp_path: Path, number: signal.Signals
) -> None:
    process = subprocess.Popen(
        [PROGRAM, "demo"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()  # a guest is at its first step
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (128 + number, "")
    assert list(tmp_path.iterdir()) == []
    assert started_with(tmp_path) == []


@pytest.mark.slow
def test_a_closed_terminal(environment: dict[str, str], tmp_path: Path) -> None:
    process, terminal = pty.fork()
    if process == 0:
        os.execve(PROGRAM, ["virtflash", "demo"], environment)
    while b"write" not in os.read(terminal, 4096):
        pass
    os.close(terminal)
    os.waitpid(process, 0)
    assert list(tmp_path.iterdir()) == []
    assert started_with(tmp_path) == []


@pytest.mark.slow
def test_a_full_disk_for_what_it_prints(environment: dict[str, str]) -> None:
    with Path("/dev/full").open("wb") as full:
        run = subprocess.run(
            [PROGRAM, "demo"], env=environment, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False
        )
    assert run.returncode == 1
    assert run.stderr == "virtflash demo: failed: cannot write to the standard output: No space left on device\n"
