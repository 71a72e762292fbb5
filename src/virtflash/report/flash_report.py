"""The figures of one emulated flash, gathered from an image that is open and mounted.

Nothing is read that the chip or the translation layer does not keep in memory: to report a device does not wear it.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
from numpy.typing import NDArray

from virtflash.ftl.judgement import FLAG_META

if TYPE_CHECKING:
    from virtflash.backing.emulated_flash import EmulatedStorage

HISTOGRAM_BINS = 12
MOVES = ("level", "refresh", "retire", "collect", "purge")  # why units are written again, by the name of the counter
PRE_EOL = {0: "undefined", 1: "normal", 2: "warning", 3: "urgent"}


@dataclass(frozen=True)
class Bin:
    """Blocks whose cycles are from `first` to `last`, both included."""

    first: int
    last: int
    blocks: int


@dataclass(frozen=True)
class Geometry:
    """Bytes, unless the name says otherwise."""

    capacity_bytes: int  # for guests
    raw_bytes: int
    blocks: int
    block_bytes: int
    page_bytes: int
    pages_per_block: int
    slc_page_bytes: int
    slc_pages_per_block: int
    unit_bytes: int
    bits_per_cell: int


@dataclass(frozen=True)
class Age:
    """effective_hours: as heat has made them count, at `reference_celsius`. Of data: since its block was opened."""

    hours: float
    effective_hours: float
    reference_celsius: float
    celsius: float
    median_data_hours: float
    oldest_data_hours: float


@dataclass(frozen=True)
class Wear:
    """Cycles of good blocks. Mean, least, most: those in SLC mode count as the normal ones that they are worth."""

    rated_cycles: int
    rated_slc_cycles: int
    mean: float
    least: float
    most: float
    used_percent: float  # of the rated cycles of all blocks
    main: list[Bin]  # cycles in the normal mode
    slc: list[Bin]  # cycles in SLC mode; empty: there is none


@dataclass(frozen=True)
class Blocks:
    """By what they are used for. `spare_left`: that may still go bad before the device takes no more writes."""

    free: int
    open: int
    data: int
    metadata: int
    in_slc_mode: int
    bad: int
    factory_bad: int
    spare_left: int
    spare: int
    read_only: bool


@dataclass(frozen=True)
class WriteAmplification:
    """Bytes written to the flash, by why, and what that makes of a byte of the host's. `total`: None, nothing was."""

    host_bytes: int
    level_bytes: int
    refresh_bytes: int
    retire_bytes: int
    collect_bytes: int
    purge_bytes: int
    padding_bytes: int
    metadata_bytes: int

    @property
    def flash_bytes(self) -> int:
        return sum(asdict(self).values())

    @property
    def total(self) -> float | None:
        return self.flash_bytes / self.host_bytes if self.host_bytes else None

    def share(self, name: str) -> float:
        """Of one cause, in bytes for each byte of the host's."""
        return float(getattr(self, f"{name}_bytes")) / self.host_bytes if self.host_bytes else 0.0


@dataclass(frozen=True)
class Errors:
    """As the chip and the translation layer saw them. `lost_units`: unreadable when they had to be moved."""

    corrected_bits: int
    uncorrectable_reads: int
    failed_programs: int
    failed_erases: int
    lost_units: int
    power_cuts: int


@dataclass(frozen=True)
class Lifetime:
    """As EXT_CSD [267] to [269] codes it."""

    pre_eol_info: int
    estimate_a: int
    estimate_b: int


@dataclass(frozen=True)
class Columns:
    """For pictures: one value for each block."""

    wear: NDArray[Any]  # normal cycles, as in `Wear.mean`
    bad: NDArray[Any]
    slc: NDArray[Any]
    valid_share: NDArray[Any]  # 0 to 1; of what it can hold
    data_hours: NDArray[Any]  # since it was opened; not a number: it holds no data
    cycles: NDArray[Any]
    slc_cycles: NDArray[Any]


@dataclass(frozen=True)
class FlashReport:
    image: str
    profile: str
    kind: str
    mapped_bytes: int  # that hold data
    geometry: Geometry
    age: Age
    wear: Wear
    blocks: Blocks
    amplification: WriteAmplification
    errors: Errors
    lifetime: Lifetime
    operations: dict[str, int]
    columns: Columns

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON can say it; by block as lists."""
        made = {name: value for name, value in asdict(self).items() if name != "columns"}
        made["amplification"]["total"] = self.amplification.total
        made["lifetime"]["pre_eol"] = PRE_EOL[self.lifetime.pre_eol_info]
        made["by_block"] = {name: listed(column) for name, column in asdict(self.columns).items()}
        return made


def listed(column: NDArray[Any]) -> list[Any]:
    """JSON has no not-a-number."""
    return [None if value != value else value for value in column.tolist()]  # noqa: PLR0124


def report_flash(path: Path, storage: "EmulatedStorage") -> FlashReport:
    """What there is to say of an image that is open. Its owner must not serve it at the same time."""
    chip, translation = storage.chip.counters(), storage.translation.counters
    columns = columns_of(storage)
    return FlashReport(
        image=str(path),
        profile=storage.profile.part.name,
        kind=storage.profile.part.kind,
        mapped_bytes=storage.translation.space["mapped_units"] * storage.target.unit_bytes,
        geometry=geometry_of(storage),
        age=age_of(storage, columns),
        wear=wear_of(storage, columns),
        blocks=blocks_of(storage),
        amplification=amplification_of(storage, translation),
        errors=errors_of(chip, translation),
        lifetime=Lifetime(*storage.target.lifetime()),
        operations=operations_of(chip, translation),
        columns=columns,
    )


def geometry_of(storage: "EmulatedStorage") -> Geometry:
    chip = storage.chip.superblock
    return Geometry(
        capacity_bytes=storage.target.user_sectors * 512,
        raw_bytes=chip.blocks * chip.page_bytes * chip.pages_per_block,
        blocks=chip.blocks,
        block_bytes=chip.page_bytes * chip.pages_per_block,
        page_bytes=chip.page_bytes,
        pages_per_block=chip.pages_per_block,
        slc_page_bytes=chip.slc_page_bytes,
        slc_pages_per_block=chip.slc_pages_per_block,
        unit_bytes=chip.unit_bytes,
        bits_per_cell=chip.bits_per_cell,
    )


def columns_of(storage: "EmulatedStorage") -> Columns:
    table, (layer, _) = storage.chip.block_table(), storage.translation.snapshot()
    chip = storage.chip.superblock
    holds_data = (layer["flags"] & FLAG_META == 0) & (layer["valid"] > 0)
    hours = storage.chip.counters()["effective_hours"] - layer["hours"]
    return Columns(
        wear=table["cycles"] + table["slc_cycles"] * slc_cycle_wear(chip.endurance, chip.slc_endurance),
        bad=table["bad"],
        slc=table["slc"],
        valid_share=layer["valid"] / units_of_block(storage),
        data_hours=numpy.where(holds_data, numpy.maximum(hours, 0), numpy.nan),
        cycles=table["cycles"],
        slc_cycles=table["slc_cycles"],
    )


def slc_cycle_wear(endurance: int, slc_endurance: int) -> float:
    """Normal cycles that one in SLC mode is worth, as the chip counts them (`device.pxd`)."""
    return endurance / slc_endurance if slc_endurance else 0.0


def units_of_block(storage: "EmulatedStorage") -> int:
    from virtflash.ftl.sizing import units_per_block  # noqa: PLC0415

    return units_per_block(storage.translation.sizes, storage.target.unit_bytes)


def age_of(storage: "EmulatedStorage", columns: Columns) -> Age:
    counted = storage.chip.counters()
    data = columns.data_hours[~numpy.isnan(columns.data_hours)]
    return Age(
        hours=counted["hours"],
        effective_hours=counted["effective_hours"],
        reference_celsius=storage.profile.retention.reference_celsius,
        celsius=counted["celsius"],
        median_data_hours=float(numpy.median(data)) if len(data) else 0.0,
        oldest_data_hours=float(data.max()) if len(data) else 0.0,
    )


def wear_of(storage: "EmulatedStorage", columns: Columns) -> Wear:
    chip, good = storage.chip.superblock, ~columns.bad
    worth = columns.wear[good] if good.any() else columns.wear
    return Wear(
        rated_cycles=chip.endurance,
        rated_slc_cycles=chip.slc_endurance,
        mean=float(worth.mean()),
        least=float(worth.min()),
        most=float(worth.max()),
        used_percent=100 * float(worth.mean()) / chip.endurance if chip.endurance else 0.0,
        main=histogram(columns.cycles[good]),
        slc=histogram(columns.slc_cycles[good]) if chip.slc_page_bytes else [],
    )


def histogram(cycles: NDArray[Any]) -> list[Bin]:
    """Bins of equal width, of whole numbers of cycles, from the least worn block to the most worn."""
    if not len(cycles):
        return []
    least, most = int(cycles.min()), int(cycles.max())
    width = -(-(most - least + 1) // HISTOGRAM_BINS)
    counts = numpy.bincount((cycles.astype(numpy.int64) - least) // width)
    starts = range(least, most + 1, width)
    return [Bin(first, first + width - 1, int(count)) for first, count in zip(starts, counts, strict=True)]


def blocks_of(storage: "EmulatedStorage") -> Blocks:
    space = storage.translation.space
    return Blocks(
        free=space["free"],
        open=space["open"],
        data=storage.chip.superblock.blocks - space["free"] - space["open"] - space["bad"] - space["meta"],
        metadata=space["meta"],
        in_slc_mode=space["slc"],
        bad=space["bad"],
        factory_bad=int(storage.chip.block_table()["factory_bad"].sum()),
        spare_left=space["spare_left"],
        spare=space["spare"],
        read_only=storage.translation.read_only,
    )


def amplification_of(storage: "EmulatedStorage", counters: dict[str, Any]) -> WriteAmplification:
    unit, sizes = storage.target.unit_bytes, storage.translation.sizes
    moved: dict[str, int] = counters["moved_units"]
    return WriteAmplification(
        host_bytes=counters["host_units"] * unit,
        padding_bytes=counters["padding_units"] * unit,
        metadata_bytes=counters["meta_frames"] * max(sizes.slc_page_bytes or sizes.page_bytes, unit),
        **{f"{why}_bytes": moved[why] * unit for why in MOVES},
    )


def errors_of(chip: dict[str, int | float], layer: dict[str, Any]) -> Errors:
    return Errors(
        corrected_bits=int(chip["corrected_bits"]),
        uncorrectable_reads=int(chip["uncorrectable"]),
        failed_programs=int(chip["failed_programs"]),
        failed_erases=int(chip["failed_erases"]),
        lost_units=layer["lost_units"],
        power_cuts=int(chip["power_cuts"]),
    )


def operations_of(chip: dict[str, int | float], layer: dict[str, Any]) -> dict[str, int]:
    """Of the chip, and of the translation layer, since the image was made."""
    names = ("reads", "slc_reads", "programs", "slc_programs", "erases", "slc_erases")
    ours = ("trimmed_units", "refreshed_blocks", "levelled_blocks", "checkpoints", "purges")
    return {name: int(chip[name]) for name in names} | {name: int(layer[name]) for name in ours}
