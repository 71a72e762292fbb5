"""An image of emulated flash that has been in use: written full, then overwritten at random so many times.

    python bench/overwritten_flash.py /dev/shm/worn.vflash --capacity 1GiB --over-provisioning 28 --times 10

It prints the write amplification of the last overwrite: what a server has to do while it serves writes on it.
"""

from pathlib import Path

import click

from virtflash.backing.emulated_flash import create_flash, open_storage
from virtflash.cli.sizes import Size
from virtflash.ftl.translation import Translation

UNIT_BYTES = 4096


def fill(translation: Translation, units: int) -> None:
    """Write each unit once, in order."""
    frame = translation.units_of_frame
    for first in range(0, units, frame):
        chosen = range(first, min(first + frame, units))
        translation.write(chosen, [unit.to_bytes(8, "little") * (UNIT_BYTES // 8) for unit in chosen])


def amplification(before: dict[str, int], after: dict[str, int], units_of_frame: int) -> float:
    """Units programmed for each unit that the host wrote; metadata, whose frames are of SLC pages, left out."""
    frames = (after["frames"] - before["frames"]) - (after["meta_frames"] - before["meta_frames"])
    return frames * units_of_frame / (after["host_units"] - before["host_units"])


@click.command()
@click.argument("image", type=click.Path(path_type=Path))
@click.option("--profile", default="automotive-tlc-emmc", show_default=True)
@click.option("--capacity", type=Size(), default="1GiB", show_default=True)
@click.option("--over-provisioning", type=float, default=28, show_default=True, help="Percent.")
@click.option("--times", type=click.IntRange(1), default=10, show_default=True, help="Overwritten so often.")
@click.option("--force", is_flag=True, help="Replace an image that is there.")
def main(*, image: Path, profile: str, capacity: int, over_provisioning: float, times: int, force: bool) -> None:
    if force:
        image.unlink(missing_ok=True)
    create_flash(image, profile, capacity_bytes=capacity, over_provisioning=over_provisioning, seed=1)
    storage = open_storage(image)
    translation, units = storage.translation, capacity // UNIT_BYTES
    fill(translation, units)
    seed = 1
    for _ in range(times):
        before = translation.counters
        seed = translation.write_random(units // translation.units_of_frame, seed, 0, units)
    found = amplification(before, translation.counters, translation.units_of_frame)
    click.echo(f"{image}: overwritten {times} times; write amplification {found:.2f} in the last of them")
    storage.close()


if __name__ == "__main__":
    main()
