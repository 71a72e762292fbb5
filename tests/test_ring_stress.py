"""The ring's orderings under load: as built, under ThreadSanitizer, and as aarch64 where that can be built."""

import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ENGINE = HERE.parent / "src/virtflash/engine"
SOURCE = HERE / "engine/ring_stress.c"

BUILDS = {
    "native": (["gcc", "-O2"], [], 1_000_000),
    "thread-sanitizer": (["gcc", "-O1", "-g", "-fsanitize=thread", "-Wno-tsan"], [], 300_000),
    "aarch64": (["aarch64-linux-gnu-gcc", "-O2", "-static"], ["qemu-aarch64"], 300_000),
}


@pytest.mark.parametrize("build", BUILDS)
def test_no_message_is_lost_torn_or_slept_through(build: str, tmp_path: Path) -> None:
    compiler, runner, messages = BUILDS[build]
    for tool in [compiler[0], *runner]:
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    program = tmp_path / "ring_stress"
    subprocess.run([*compiler, "-Wall", f"-I{ENGINE}", SOURCE, "-o", program, "-pthread"], check=True)
    run = subprocess.run([*runner, program, str(messages)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.startswith(f"{messages} messages")
