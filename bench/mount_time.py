"""How long a full device takes to mount, after a clean stop and after a power cut, and the memory that it takes.

    python bench/mount_time.py /var/tmp/full.vflash --capacity 64GiB

The image has all records of a device that is written full, and holes where its data would be. A mount is measured in a
process of its own, best of three, with the image in the page cache or (--cold) not.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import click

from virtflash.backing.emulated_flash import create_flash, open_storage
from virtflash.cli.sizes import Size
from virtflash.flash.emulated import EmulatedFlash
from virtflash.ftl.translation import Translation

UNIT_BYTES = 4096
ROUNDS = 3


def write_all(image: Path, capacity: int) -> tuple[EmulatedFlash, Translation]:
    """Full, and then a tenth of it overwritten at random."""
    storage = open_storage(image, host_sync=False)
    storage.chip.keep_no_data()
    translation, frame = storage.translation, storage.translation.units_of_frame
    data = [bytes(UNIT_BYTES)] * frame
    units = capacity // UNIT_BYTES
    for first in range(0, units - units % frame, frame):
        translation.write(range(first, first + frame), data)
    translation.write_random(units // frame // 10, 1)
    return storage.chip, translation


def measure(image: Path) -> None:
    """Open, mount, and say how long that took; in a process of its own."""
    started = time.perf_counter()
    chip = EmulatedFlash.open(image, host_sync=False)
    translation = Translation.mount(chip, chip.capacity_bytes // chip.unit_bytes, unit_bytes=chip.unit_bytes)
    seconds = time.perf_counter() - started
    anonymous = next(
        int(line.split()[1]) for line in Path("/proc/self/smaps_rollup").read_text().splitlines() if "Anonymous" in line
    )
    found = {"seconds": seconds, "anonymous_mib": anonymous / 1024, "replayed": translation.replayed_frames}
    print(json.dumps({**found, "clean": translation.clean}), flush=True)
    os._exit(0)  # as it would be killed: what was clean is not written anew


def best_of(image: Path, *, cold: bool) -> str:
    runs = []
    for _ in range(ROUNDS):
        copy = image.with_suffix(".copy")
        subprocess.run(["cp", "--sparse=always", "--reflink=auto", image, copy], check=True)
        if cold:
            os.sync()
            Path("/proc/sys/vm/drop_caches").write_text("3\n")
        run = subprocess.run([sys.executable, __file__, "--measure", copy], check=True, capture_output=True, text=True)
        runs.append(json.loads(run.stdout))
        copy.unlink()
    best = min(runs, key=lambda run: float(run["seconds"]))
    state = "clean" if best["clean"] else f"{best['replayed']} frames replayed"
    return f"{best['seconds']:.2f} s, {best['anonymous_mib']:.0f} MiB of anonymous memory ({state})"


@click.command()
@click.argument("image", type=click.Path(path_type=Path))
@click.option("--capacity", type=Size(), default="64GiB", show_default=True)
@click.option("--cold", is_flag=True, help="Without the page cache; needs root.")
@click.option("--measure", "only_measure", is_flag=True, help="One mount of an image that is there.")
def main(*, image: Path, capacity: int, cold: bool, only_measure: bool) -> None:
    if only_measure:
        measure(image)
    create_flash(image, "automotive-tlc-emmc", capacity_bytes=capacity, seed=1)
    _chip, translation = write_all(image, capacity)
    click.echo(f"after a power cut: {best_of(image, cold=cold)}")
    translation.close()
    click.echo(f"after a clean stop: {best_of(image, cold=cold)}")
    image.unlink()


if __name__ == "__main__":
    main()
