"""What a flash profile says: one class for each section of the TOML file, one field for each key.

A field's metadata says in words what its figure is, and between what bounds it lies. Shares and probabilities are 0 to
1. "SLC mode" is a multi-level part used with one bit per cell.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any

NOWHERE = 0xFFFF  # FLASH_NOWHERE of chip.pxd: a page that endangers none
KINDS = ("emmc", "nand", "nor")
LAWS = {"power": 0, "exponential": 1}  # LAW_POWER and LAW_EXPONENTIAL of physics.pxd


def figure(what: str, least: float, most: float, **default: Any) -> Any:
    """A field that holds a figure, or several."""
    return field(metadata={"what": what, "least": least, "most": most}, **default)


def share(what: str, **default: Any) -> Any:
    return figure(what, 0, 1, **default)


def words(what: str, *choice: str, longest: int = 400) -> Any:
    """A field that holds text."""
    return field(metadata={"what": what, "choice": choice, "longest": longest})


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Which part this is."""

    name: str = words("what the part is called", longest=80)
    kind: str = words("the kind of the part", *KINDS)
    source: str = words("where its figures come from")


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """The array of cells."""

    page_bytes: int = figure("bytes programmed at once", 16, 1 << 20)
    spare_bytes: int = figure("bytes beside a page that its user may fill, ECC not counted", 0, 256)
    pages_per_block: int = figure("pages of a block", 1, 8192)
    bits_per_cell: int = figure("bits in a cell", 1, 5)
    blocks: int = figure("blocks of the part; 0: as many as the capacity asks for", 0, (1 << 31) - 1, default=0)
    slc_page_bytes: int = figure(
        "bytes programmed at once in SLC mode; 0: there is no such mode", 0, 1 << 20, default=0
    )
    slc_pages_per_block: int = figure("pages of a block in SLC mode", 0, 8192, default=0)
    pairing: tuple[tuple[int, int], ...] = figure(
        "pairs of pages that share cells, the lower first", 0, 8191, default=()
    )
    erase_bytes: tuple[int, ...] = figure("sizes that can be erased, the block last", 256, 1 << 30, default=())

    @property
    def block_bytes(self) -> int:
        return self.page_bytes * self.pages_per_block

    @property
    def endangers(self) -> tuple[int, ...]:
        """By page: the earlier page that a cut of its program may destroy, or NOWHERE. Empty: no page endangers any."""
        lower = {upper: lower for lower, upper in self.pairing}
        return tuple(lower.get(page, NOWHERE) for page in range(self.pages_per_block)) if lower else ()

    @property
    def pair_distance(self) -> int:
        """Pages from the furthest endangered page to the one that endangers it; 0: no page endangers any."""
        return max((upper - lower for lower, upper in self.pairing), default=0)

    def problems(self) -> Iterator[str]:
        if (self.slc_page_bytes > 0) != (self.slc_pages_per_block > 0):
            yield "slc_pages_per_block: SLC mode has both pages and their bytes, or neither: make both 0, or none"
        if len({upper for _, upper in self.pairing}) < len(self.pairing):
            yield "pairing: a page is the upper one of two pairs: name it as the second of a pair once"
        for lower, upper in self.pairing:
            if not lower < upper < self.pages_per_block:
                yield f"pairing: [{lower}, {upper}]: write the lower page first, both below pages_per_block"
        yield from self.erase_problems()

    def erase_problems(self) -> Iterator[str]:
        if self.erase_bytes and self.erase_bytes[-1] != self.block_bytes:
            yield f"erase_bytes: the last is the block, page_bytes times pages_per_block: write {self.block_bytes}"
        if list(self.erase_bytes) != sorted(set(self.erase_bytes)):
            yield "erase_bytes: write them from small to large"
        if any(size % self.page_bytes for size in self.erase_bytes):
            yield "erase_bytes: write whole multiples of page_bytes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endurance:
    """Rated program and erase cycles of a block: where a lifetime estimate says 100 %."""

    cycles: float = figure("rated cycles", 1, 1e9)
    slc_cycles: float = figure("rated cycles in SLC mode", 0, 1e9, default=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerLaw:
    """Rate = floor + wear C^k + retention C^m t^n + disturb C^p R^q + early ln(1 + h/t0).

    C: cycles; t: days and h: hours since the program, at the reference temperature; R: reads of the block over its
    pages.
    """

    law: str = words("the form of the law", *LAWS)
    floor: float = figure("error rate of fresh cells", 0, 0.5)
    wear: float = figure("coefficient of cycles", 0, 0.5)
    wear_power: float = figure("exponent k of cycles", 0, 10)
    retention: float = figure("coefficient of time", 0, 0.5)
    retention_cycles_power: float = figure("exponent m of cycles", 0, 10)
    retention_days_power: float = figure("exponent n of days", 0, 10)
    fit_days: float = figure("days for which the power of time holds; 0: for ever", 0, 1e6, default=0.0)
    disturb: float = figure("coefficient of reads", 0, 0.5)
    disturb_cycles_power: float = figure("exponent p of cycles", 0, 10)
    disturb_reads_power: float = figure("exponent q of reads over pages", 0, 10)
    early: float = figure("coefficient of the logarithm of hours", 0, 0.5, default=0.0)
    early_hours: float = figure("hours t0 of that logarithm", 1e-3, 1e6, default=1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExponentialLaw:
    """Rate = floor e^(wear C + disturb R) (1 + early ln(1 + h/t0))."""

    law: str = words("the form of the law", *LAWS)
    floor: float = figure("error rate of fresh cells", 0, 0.5)
    wear: float = figure("growth per cycle", 0, 1)
    disturb: float = figure("growth per read of the block over its pages", 0, 1)
    early: float = figure("coefficient of the logarithm of hours", 0, 1e3, default=0.0)
    early_hours: float = figure("hours t0 of that logarithm", 1e-3, 1e6, default=1.0)


Law = PowerLaw | ExponentialLaw


@dataclass(frozen=True, slots=True, kw_only=True)
class Errors:
    """Raw bit errors."""

    spread: float = figure("standard deviation of the logarithm of a block's error rate", 0, 3)
    lower_factor: float = figure("error rate of lower pages over the average; 0: not told apart", 0, 100, default=0.0)
    upper_factor: float = figure("error rate of upper pages over the average; 0: not told apart", 0, 100, default=0.0)
    cross_temperature: float = figure(
        "error rate of data read 125 K away from where it was programmed, over that at none", 1, 100, default=1.0
    )
    main: Law
    slc: Law | None = None

    def problems(self) -> Iterator[str]:
        if (self.lower_factor > 0) != (self.upper_factor > 0):
            yield "upper_factor: pages are told apart by both factors, or by neither: make both 0, or none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ecc:
    """Error correction: a codeword with more wrong bits than can be corrected is lost."""

    codeword_bytes: int = figure("bytes of data in a codeword", 1, 1 << 16)
    correctable_bits: int = figure("wrong bits that can be corrected in one", 0, 1 << 16)
    raw_codeword_bits: int = figure("bits of data and parity in one", 8, 1 << 20)

    def problems(self) -> Iterator[str]:
        if self.raw_codeword_bits < 8 * self.codeword_bytes:
            yield f"raw_codeword_bits: the data alone has more: write at least {8 * self.codeword_bytes}"
        if self.correctable_bits >= self.raw_codeword_bits:
            yield "correctable_bits: write fewer than raw_codeword_bits"


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How heat speeds up the loss of charge (Arrhenius)."""

    activation_ev: float = figure("activation energy in electronvolt; 0: heat does nothing", 0, 3)
    reference_celsius: float = figure("temperature at which [errors] counts its hours", -55, 175)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failures:
    """Programs and erases that fail, which is how blocks go bad in use."""

    grown_bad_share: float = share("share of blocks that have failed once all have had their rated cycles")
    growth: float = figure("how much more often a block fails at rated cycles than fresh", 1, 1e9)
    program_share: float = share("share of the failures that are of programs; the others are of erases")

    def each(self, rated: float, pages: int) -> tuple[float, float]:
        """Probabilities that one program and one erase of a fresh block fail, so that the shares come out."""
        if rated == 0 or pages == 0:
            return 0.0, 0.0
        mean_growth = (self.growth - 1) / math.log(self.growth) if self.growth > 1 else 1.0
        cycle = self.grown_bad_share / (rated * mean_growth)
        return cycle * self.program_share / pages, cycle * (1 - self.program_share)


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerCut:
    """What a power cut leaves of the operation under way: probabilities of the outcomes."""

    program_untouched: float = share("the page is still erased")
    program_torn: float = share("the page cannot be corrected")
    program_unstable: float = share("the page reads right or wrong, differently each time")
    program_complete: float = share("the page is as it was meant to be")
    pair_lost: float = share("of a page that endangers another: that one is lost, too", default=0.0)
    erase_untouched: float = share("the block still holds its data")
    erase_half: float = share("each page of the block is old, garbage or erased")
    erase_weak: float = share("the block reads erased, and must be erased again")

    def problems(self) -> Iterator[str]:
        for verb in ("program", "erase"):
            keys = [item.name for item in fields(self) if item.name.startswith(verb)]
            total = sum(getattr(self, key) for key in keys)
            if not math.isclose(total, 1, abs_tol=1e-9):
                yield f"{keys[0]}: the outcomes of a cut {verb} make {total:g}: make {', '.join(keys)} add up to 1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How long the real part takes: microseconds."""

    dies: int = figure("dies, which work at the same time", 1, 64)
    read_us: float = figure("microseconds from the cells of a page to its buffer", 0, 1e6)
    program_us: float = figure("microseconds to program a page", 0, 1e7)
    erase_us: float = figure("microseconds to erase a block", 0, 1e9)
    transfer_us_per_kib: float = figure("microseconds to move 1024 bytes over the bus", 0, 1e6)
    slc_read_us: float = figure("as read_us, in SLC mode", 0, 1e6, default=0.0)
    slc_program_us: float = figure("as program_us, in SLC mode", 0, 1e7, default=0.0)
    slc_erase_us: float = figure("as erase_us, in SLC mode", 0, 1e9, default=0.0)
    erase_us_by_size: tuple[float, ...] = figure("microseconds for each of erase_bytes", 0, 1e9, default=())


@dataclass(frozen=True, slots=True, kw_only=True)
class BadBlocks:
    """Blocks that are bad before their first use. Block 0 is always good."""

    factory_share: float = figure("share of blocks that are bad from the factory", 0, 0.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Emmc:
    """The device around the flash, and what its register EXT_CSD says (index of the field in brackets)."""

    cache_kib: int = figure("KiB of volatile cache", 0, 1 << 20)
    boot_partition_kib: int = figure("KiB of each of the two boot partitions", 0, 255 * 128)
    erase_group_kib: int = figure("KiB of an erase group", 512, 255 * 512)
    write_protect_group_kib: int = figure("KiB of a write protection group", 512, 255 * 255 * 512)
    slc_share: float = share("share of blocks that work in SLC mode")
    product_name: str = words("name in the register CID", longest=6)
    firmware_version: str = words("FIRMWARE_VERSION [254]", longest=8)
    revision: int = figure("EXT_CSD_REV [192]", 5, 255)
    erased_memory_content: int = figure("ERASED_MEM_CONT [181]", 0, 1)
    erase_timeout_multiplier: int = figure("ERASE_TIMEOUT_MULT [223], 300 ms", 1, 255)
    trim_multiplier: int = figure("TRIM_MULT [232], 300 ms", 1, 255)
    secure_trim_multiplier: int = figure("SEC_TRIM_MULT [229]", 1, 255)
    secure_erase_multiplier: int = figure("SEC_ERASE_MULT [230]", 1, 255)
    secure_feature_support: int = figure("SEC_FEATURE_SUPPORT [231]", 0, 255)
    reliable_write_sectors: int = figure("REL_WR_SEC_C [222]", 1, 255)
    write_reliability_parameters: int = figure("WR_REL_PARAM [166]", 0, 255)
    write_reliability_set: int = figure("WR_REL_SET [167]", 0, 31)
    background_operations_support: int = figure("BKOPS_SUPPORT [502]", 0, 1)
    interrupt_features: int = figure("HPI_FEATURES [503]", 0, 3)
    out_of_interrupt_time: int = figure("OUT_OF_INTERRUPT_TIME [198], 10 ms", 0, 255)
    partition_switch_time: int = figure("PARTITION_SWITCH_TIME [199], 10 ms", 0, 255)
    initialisation_timeout: int = figure("INI_TIMEOUT_AP [241], 100 ms", 0, 255)
    power_off_long_time: int = figure("POWER_OFF_LONG_TIME [247], 10 ms", 0, 255)
    generic_switch_time: int = figure("GENERIC_CMD6_TIME [248], 10 ms", 0, 255)
    optimal_trim_size: int = figure("OPTIMAL_TRIM_UNIT_SIZE [264]", 0, 21)
    optimal_write_size: int = figure("OPTIMAL_WRITE_SIZE [265]", 0, 255)
    optimal_read_size: int = figure("OPTIMAL_READ_SIZE [266]", 0, 255)

    def problems(self) -> Iterator[str]:
        if self.boot_partition_kib % 128:
            yield "boot_partition_kib: BOOT_SIZE_MULT counts in 128 KiB: write a multiple"
        if self.erase_group_kib % 512:
            yield "erase_group_kib: HC_ERASE_GRP_SIZE counts in 512 KiB: write a multiple"
        if self.write_protect_group_kib % self.erase_group_kib:
            yield "write_protect_group_kib: HC_WP_GRP_SIZE counts in erase groups: write a multiple of erase_group_kib"
        if self.write_protect_group_kib > 255 * self.erase_group_kib:
            yield "write_protect_group_kib: HC_WP_GRP_SIZE is a byte: write at most 255 erase groups"
        for key in ("product_name", "firmware_version"):
            if not getattr(self, key).isascii():
                yield f"{key}: the register holds ASCII: write no other letters"


@dataclass(frozen=True, slots=True, kw_only=True)
class OverProvisioning:
    """Space that the flash keeps for itself."""

    default_percent: float = figure("raw space beyond the capacity, in percent of it, where none is asked for", 1, 400)
    reserve_percent: float = figure("of the blocks, in percent: spare ones for those that go bad", 0, 50)


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A part: its figures, and the text they were read from, which an image keeps."""

    part: Part
    geometry: Geometry
    endurance: Endurance
    errors: Errors
    ecc: Ecc
    retention: Retention
    failures: Failures
    power_cut: PowerCut
    timing: Timing
    bad_blocks: BadBlocks
    over_provisioning: OverProvisioning
    emmc: Emmc | None = None
    text: str = field(default="", repr=False)

    def physics(self) -> dict[str, object]:
        """The struct `Physics` of physics.pxd: Cython makes the struct of a dictionary that has all of its members."""
        program, erase = self.failures.each(self.endurance.cycles, self.geometry.pages_per_block)
        slc_program, slc_erase = self.failures.each(self.endurance.slc_cycles, self.geometry.slc_pages_per_block)
        return {
            "main": law_coefficients(self.errors.main),
            "slc": law_coefficients(self.errors.slc),
            "activation_ev": self.retention.activation_ev,
            "reference_celsius": self.retention.reference_celsius,
            "spread": self.errors.spread,
            "lower_factor": self.errors.lower_factor,
            "upper_factor": self.errors.upper_factor,
            "cross_temperature": self.errors.cross_temperature,
            "rated_cycles": self.endurance.cycles,
            "slc_rated_cycles": self.endurance.slc_cycles,
            "program_failures": program,
            "erase_failures": erase,
            "slc_program_failures": slc_program,
            "slc_erase_failures": slc_erase,
            "failure_growth": self.failures.growth,
            "codeword_bytes": self.ecc.codeword_bytes,
            "correctable_bits": self.ecc.correctable_bits,
            "raw_codeword_bits": self.ecc.raw_codeword_bits,
        }

    def problems(self) -> Iterator[str]:
        """What does not fit together, each as "[section] key: what is wrong: what to do"."""
        for name in ("geometry", "errors", "ecc", "power_cut", "emmc"):
            section = getattr(self, name)
            yield from (f"[{name}] {problem}" for problem in (section.problems() if section is not None else ()))
        yield from self.kind_problems()
        yield from self.slc_problems()
        yield from self.size_problems()

    def kind_problems(self) -> Iterator[str]:
        kind = self.part.kind
        if (kind == "nor") != (self.geometry.spare_bytes == 0):
            yield "[geometry] spare_bytes: NOR has none, NAND has some: write 0 for a NOR part, and only for one"
        if kind == "nor" and self.geometry.slc_page_bytes:
            yield "[geometry] slc_page_bytes: a NOR part has no SLC mode: remove it"
        if kind == "nor" and self.geometry.pairing:
            yield "[geometry] pairing: the pages of a NOR part do not share cells: remove it"
        if kind != "emmc" and self.geometry.blocks == 0:
            yield f"[geometry] blocks: a {kind} part has its number of them: write it"
        if (kind == "emmc") != (self.emmc is not None):
            yield f'[emmc]: kind is "{kind}": an eMMC has this section, other kinds have not: add or remove it'

    def slc_problems(self) -> Iterator[str]:
        mode = self.geometry.slc_page_bytes > 0
        figures = {
            "[errors.slc]": self.errors.slc is not None,
            "[endurance] slc_cycles": self.endurance.slc_cycles > 0,
            "[timing] slc_program_us": self.timing.slc_program_us > 0,
            "[timing] slc_erase_us": self.timing.slc_erase_us > 0,
        }
        for key, given in figures.items():
            if given != mode:
                yield f"{key}: with SLC mode ([geometry] slc_page_bytes) it has to be given, without it must not be"
        if not mode and self.emmc is not None and self.emmc.slc_share > 0:
            yield "[emmc] slc_share: the part has no SLC mode ([geometry] slc_page_bytes): write 0"

    def size_problems(self) -> Iterator[str]:
        for key in ("page_bytes", "slc_page_bytes"):
            if getattr(self.geometry, key) % self.ecc.codeword_bytes:
                yield f"[geometry] {key}: it is not whole codewords: write a multiple of [ecc] codeword_bytes"
            if self.part.kind != "nor" and getattr(self.geometry, key) % 512:
                yield f"[geometry] {key}: it is not whole sectors: write a multiple of 512"
        if len(self.timing.erase_us_by_size) != len(self.geometry.erase_bytes):
            yield "[timing] erase_us_by_size: write one figure for each of [geometry] erase_bytes"


def law_coefficients(law: Law | None) -> dict[str, float]:
    """The struct `ErrorLaw` of physics.pxd; without a law, cells without errors."""
    none = dict.fromkeys((item.name for item in fields(PowerLaw)), 0.0) | {"law": 0}
    if law is None:
        return none
    return none | {item.name: getattr(law, item.name) for item in fields(law)} | {"law": LAWS[law.law]}
