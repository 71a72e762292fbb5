"""An image is a file that anybody may have written: whatever it says, it is refused, or served without harm."""

import subprocess
import sys
from pathlib import Path

import pytest
from crash_model import PARTS, content
from hostile_image import PARTS as DEVICES

SCRIPT = Path(__file__).with_name("hostile_image.py")
DEADLINE_SECONDS = 120
EACH = 60  # images of each device
# Each of these once killed the process, hung it, or ended in a traceback.
FOUND = {
    "a map that points beyond the device": ("mlc", 1899),
    "pages of SLC mode that hold more than the normal ones": ("mlc", 434),
    "a mode that the part has not": ("nor", 2861),
    "units that lie where no record says so": ("tlc", 1275),
    "more blocks than memory": ("slc", 140),
    "a capacity of no whole units": ("nor", 315),
    "more units than can be numbered": ("mlc", 261),
    "offsets of more than 64 bits": ("tlc", 628),
}


def run(directory: Path, part: str, first: int, count: int) -> None:
    """In a process of its own; what it says last names the image."""
    command = [sys.executable, str(SCRIPT), str(directory), part, str(first), str(count)]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        pytest.fail(f"{part} hangs: {(error.stdout or b'').decode().splitlines()[-1:]}")
    assert ended.returncode == 0, f"{part}, {ended.stdout.splitlines()[-1:]}: {ended.returncode}\n{ended.stderr}"


@pytest.mark.parametrize("part", DEVICES)
def test_tampered_images(tmp_path: Path, part: str) -> None:
    run(tmp_path, part, 0, EACH)


@pytest.mark.parametrize("name", FOUND)
def test_images_that_did_harm(tmp_path: Path, name: str) -> None:
    run(tmp_path, *FOUND[name], 1)


def test_what_waits_for_a_sync_is_no_work() -> None:
    """A block that failed, had to be refreshed, and holds nothing any more: it is given up once that is safe. Until
    then an idle device sleeps."""
    part = PARTS["one unit a page"].with_spares(4)
    flash = part.make()
    layer = part.format(flash)
    layer.write([0], [content(0, 1)])
    flash.fail_next("program")
    layer.write([1], [content(1, 1)])
    table, generation = layer.snapshot()
    block = next(number for number, entry in enumerate(table) if entry["flags"] & 4)  # FLAG_RETIRE
    assert layer.advise_refresh(block, generation)
    layer.trim(0, 1)  # not flushed: the unit's copy has to stay
    assert layer.work(1000) < 1000
    assert not flash.is_bad(block)
    layer.flush()
    layer.checkpoint()
    assert layer.check() == []
