"""Volumes made, grown, deleted and found again; and every flash that is refused."""

from collections.abc import Callable
from contextlib import suppress
from errno import EIO, EROFS
from typing import Any

import pytest
from carved_flash import (
    GRANULE,
    GRANULE_BYTES,
    GRANULES,
    IDENTITY,
    PARTS,
    USER_UNITS,
    CarvedFlash,
    stamped,
)

from virtflash.backing.flash_target import FlashTarget
from virtflash.volumes import table as table_module
from virtflash.volumes.blankness import maps_nothing, reads_as_zeroes
from virtflash.volumes.copies import Copies
from virtflash.volumes.errors import (
    DamagedTableError,
    ForeignTableError,
    NoTableError,
    TamperedTableError,
    VolumeError,
)
from virtflash.volumes.extents import Extent
from virtflash.volumes.pool import Pool
from virtflash.volumes.table import Table, serialised


@pytest.fixture
def flash() -> CarvedFlash:
    flash = CarvedFlash()
    flash.open()
    return flash


def copies_of(flash: CarvedFlash) -> Copies:
    return Copies(flash.target, GRANULE)


def write_copy(flash: CarvedFlash, copy: int, data: bytes) -> None:
    """Whatever it is, in the place of one copy of the table."""
    flash.target.write(copies_of(flash).position(copy), data + bytes(-len(data) % 512))
    flash.target.flush()


def damage(flash: CarvedFlash, copy: int, at: int = 40) -> None:
    first = copies_of(flash).position(copy)
    data = bytearray(flash.target.read(first, GRANULE))
    data[at] ^= 1
    write_copy(flash, copy, bytes(data))


# What there is


@pytest.mark.parametrize("part", PARTS)
def test_a_blank_flash_is_formatted_and_volumes_are_found_again(part: str) -> None:
    flash = CarvedFlash(part)
    flash.open()
    assert flash.pool.volumes == ()
    assert flash.pool.free_sectors == GRANULES * GRANULE
    flash.pool.create("cluster", 10)
    flash.pool.create("boot", GRANULE, read_only=True, secure_delete=True)
    flash.fill("cluster", "cluster")
    before = flash.pool.table
    pool = flash.reopen()
    assert pool.table == before
    assert [(v.name, v.sectors, v.read_only, v.secure_delete) for v in pool.volumes] == [
        ("cluster", 10, False, False),
        ("boot", GRANULE, True, True),
    ]
    assert flash.contents("cluster") == stamped("cluster", 10)
    assert flash.target.read(USER_UNITS, 1) == stamped("registers", 1), "what lies behind the user area is not ours"


def test_sizes_are_rounded_up_to_granules_and_shown_as_asked_for(flash: CarvedFlash) -> None:
    volume = flash.pool.create("odd", 2 * GRANULE + 1)
    assert volume.extents == (Extent(0, 3),)
    assert flash.pool.free_sectors == (GRANULES - 3) * GRANULE
    window = flash.pool.window("odd")
    assert window.volume.sectors == 2 * GRANULE + 1
    for sector, sectors in ((2 * GRANULE + 1, 1), (0, 2 * GRANULE + 2), (-1, 1), (3, 2**64)):
        with pytest.raises(VolumeError, match=r"volume odd: .* it has 9"):
            window.read(sector, sectors)
    with pytest.raises(VolumeError, match="it has 9"):
        window.write(2 * GRANULE, bytes(1024))


def test_volumes_lie_apart_from_each_other_and_from_the_table(flash: CarvedFlash) -> None:
    for name in "abc":
        flash.pool.create(name, 3 * GRANULE)
        flash.fill(name, name)
    flash.pool.delete("b")
    flash.pool.create("wide", flash.pool.free_sectors)
    flash.fill("wide", "wide")
    assert len(flash.pool.find("wide").extents) == 2
    assert flash.pool.free_sectors == 0
    flash.reopen()
    for name in ("a", "c", "wide"):
        assert flash.contents(name) == stamped(name, flash.pool.find(name).sectors)


def test_a_new_volume_reads_as_zeroes_whoever_was_there_before(flash: CarvedFlash) -> None:
    flash.pool.create("old", 4 * GRANULE)
    flash.fill("old", "old")
    flash.pool.delete("old")
    flash.pool.create("new", 4 * GRANULE)
    assert not any(flash.contents("new"))


def test_what_was_written_past_the_pool_is_not_shown_to_an_owner(flash: CarvedFlash) -> None:
    """Space is erased when it is taken, whatever its history."""
    flash.target.write(0, stamped("stray", 2 * GRANULE))
    flash.pool.create("new", GRANULE)
    flash.pool.grow("new", 2 * GRANULE)
    assert not any(flash.contents("new"))


def test_a_volume_grows_and_keeps_its_data(flash: CarvedFlash) -> None:
    flash.pool.create("a", GRANULE + 1)
    flash.pool.create("b", GRANULE)
    flash.fill("a", "a")
    flash.pool.grow("a", GRANULE + 3)
    assert flash.pool.find("a").extents == (Extent(0, 2),)
    grown = flash.pool.grow("a", 4 * GRANULE)
    assert grown.extents == (Extent(0, 2), Extent(3, 2))
    flash.reopen()
    assert flash.contents("a") == stamped("a", GRANULE + 1) + bytes((3 * GRANULE - 1) * 512)
    before = flash.pool.table
    flash.pool.grow("a", 4 * GRANULE)
    assert flash.pool.table is before


def test_marks_are_changed_and_kept(flash: CarvedFlash) -> None:
    flash.pool.create("a", 1)
    flash.pool.mark("a", read_only=True)
    flash.pool.mark("a", secure_delete=True)
    flash.pool.mark("a", read_only=False)
    volume = flash.reopen().find("a")
    assert (volume.read_only, volume.secure_delete) == (False, True)


REFUSALS: dict[str, tuple[Callable[[Pool], object], str]] = {
    "a name that is taken": (lambda pool: pool.create("a", 1), "volume a is there already"),
    "a name that is none": (lambda pool: pool.create("a/b", 1), "cannot be named 'a/b'"),
    "no name": (lambda pool: pool.create("", 1), "cannot be named ''"),
    "a long name": (lambda pool: pool.create("n" * 64, 1), "cannot be named"),
    "a line in a name": (lambda pool: pool.create("n\n", 1), "cannot be named"),
    "no size": (lambda pool: pool.create("b", 0), "0 sectors; it has at least one"),
    "less than no size": (lambda pool: pool.create("b", -8), "-8 sectors"),
    "more than there is": (lambda pool: pool.create("b", GRANULES * GRANULE), "15 are free"),
    "far more than there is": (lambda pool: pool.create("b", 1 << 80), "15 are free"),
    "a shrink": (lambda pool: pool.grow("a", GRANULE), "never has fewer"),
    "a growth to more than there is": (
        lambda pool: pool.grow("a", (GRANULES + 1) * GRANULE),
        "16 granules: 15 are free",
    ),
    "a growth of none": (lambda pool: pool.grow("b", 8), "no volume 'b'; there are: a"),
    "a deletion of none": (lambda pool: pool.delete("b"), "no volume 'b'"),
    "a mark on none": (lambda pool: pool.mark("b", read_only=True), "no volume 'b'"),
    "a window on none": (lambda pool: pool.window("b"), "no volume 'b'"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_is_refused_in_one_line_and_changes_nothing(flash: CarvedFlash, case: str) -> None:
    flash.pool.create("a", 2 * GRANULE)
    before, operations = flash.pool.table, flash.chip.operations
    call, says = REFUSALS[case]
    with pytest.raises(VolumeError, match=says) as refused:
        call(flash.pool)
    assert "\n" not in str(refused.value)
    assert (flash.pool.table, flash.chip.operations) == (before, operations)


def test_a_table_that_does_not_fit_is_refused_before_anything_is_erased() -> None:
    flash = CarvedFlash()
    flash.open(granule_bytes=512)
    for number in range(4):
        flash.pool.create(f"v{number}", 1)
    operations = flash.chip.operations
    with pytest.raises(VolumeError, match="the table would take 616 bytes of 512 in a granule"):
        flash.pool.create("v5", 1)
    assert flash.chip.operations == operations
    with pytest.raises(VolumeError, match="the table would take 520 bytes of 512"):
        flash.pool.grow("v1", 2)  # not in place: one extent more
    assert flash.chip.operations == operations
    flash.mount()
    assert flash.open(granule_bytes=512).table == flash.pool.table


def test_there_are_at_most_so_many_volumes(flash: CarvedFlash, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("virtflash.volumes.pool.VOLUMES_MOST", 2)
    flash.pool.create("a", 1)
    flash.pool.create("b", 1)
    with pytest.raises(VolumeError, match="there are 2 volumes"):
        flash.pool.create("c", 1)


# Deletion


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("by", ["as it was made", "as asked"])
def test_a_secure_deletion_leaves_no_copy(part: str, by: str) -> None:
    flash = CarvedFlash(part)
    flash.open()
    flash.pool.create("other", 2 * GRANULE)
    flash.pool.create("secret", 2 * GRANULE, secure_delete=by == "as it was made")
    flash.fill("other", "kept")
    for turn in range(4):
        flash.fill("secret", f"secret {turn}")
    assert b"secret 0" in flash.medium(), "stale copies are there"
    flash.pool.delete("secret", secure=None if by == "as it was made" else True)
    assert b"secret " not in flash.medium()
    assert flash.contents("other") == stamped("kept", 2 * GRANULE)


def test_a_deletion_that_fails_is_tried_again_and_its_space_stays_taken(
    flash: CarvedFlash, monkeypatch: pytest.MonkeyPatch
) -> None:
    flash.pool.create("gone", GRANULE)
    refusing(flash, monkeypatch)
    with pytest.raises(OSError, match="refused"):
        flash.pool.delete("gone")
    assert flash.pool.volumes == ()
    assert [volume.name for volume in flash.pool.being_erased] == ["gone"]
    assert flash.pool.free_sectors == (GRANULES - 1) * GRANULE
    with pytest.raises(VolumeError, match="still being erased"):
        flash.pool.create("gone", 1)
    with pytest.raises(VolumeError, match="no volume 'gone'"):
        flash.pool.window("gone")
    monkeypatch.undo()
    flash.pool.delete("gone")
    assert flash.pool.free_sectors == GRANULES * GRANULE


class Refusing:
    """A flash, all of which is there but erasing."""

    def __init__(self, target: object) -> None:
        self.target = target

    def __getattr__(self, name: str) -> object:
        return getattr(self.target, name)

    def change(self, kind: int, sector: int, sectors: int) -> None:
        raise OSError(EIO, "refused")


def refusing(flash: CarvedFlash, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flash.pool, "flash", Refusing(flash.target))


def test_a_flash_that_cannot_erase_any_more_is_opened_all_the_same(
    flash: CarvedFlash, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    flash.pool.create("a", GRANULE)
    flash.fill("a", "a")
    flash.pool.create("gone", GRANULE)
    refusing(flash, monkeypatch)
    with suppress(OSError):
        flash.pool.delete("gone")
    pool = Pool.open(Refusing(flash.target), identity=IDENTITY, granule_bytes=GRANULE_BYTES)  # type: ignore[arg-type]
    assert [volume.name for volume in pool.volumes] == ["a"]
    assert [volume.name for volume in pool.being_erased] == ["gone"]
    assert "volume gone is deleted and cannot be erased: refused" in caplog.text
    assert flash.reopen().being_erased == (), "the next one that can, does"


def test_a_worn_out_flash_is_opened_to_be_read(flash: CarvedFlash) -> None:
    flash.pool.create("a", GRANULE)
    flash.fill("a", "a")
    damage(flash, 1)
    turn = 0
    while not flash.target.condition()["read_only"]:
        turn += 1
        flash.chip.fail_next("program")
        with suppress(OSError):
            flash.fill("a", f"{turn}")
    kept = flash.contents("a")
    flash.open()
    assert flash.contents("a") == kept
    with pytest.raises(OSError, match="ead-only") as refused:
        flash.pool.create("b", 1)
    assert refused.value.errno == EROFS
    assert [volume.name for volume in flash.pool.volumes] == ["a"]


class Failing:
    """A flash that from some write on answers nothing; `left`: writes until then."""

    def __init__(self, target: FlashTarget, left: int, *, torn: bool) -> None:
        self.target, self.left, self.torn = target, left, torn

    def __getattr__(self, name: str) -> Any:
        if self.left < 0:
            raise OSError(EIO, "nothing works")
        return getattr(self.target, name)

    def write(self, sector: int, data: bytes, *, reliable: bool = False) -> None:
        self.left -= 1
        if self.left >= 0 or self.torn:
            self.target.write(sector, data[:512] if self.left < 0 else data, reliable=reliable)
        if self.left < 0:
            raise OSError(EIO, "nothing works")


@pytest.mark.parametrize("left", [0, 1])
@pytest.mark.parametrize("torn", [False, True])
def test_after_a_change_that_failed_the_flash_is_asked_which_table_is_in_force(
    flash: CarvedFlash, left: int, torn: bool
) -> None:
    for name in "abcd":  # with a fifth, the table takes more than a unit, so that it can be torn
        flash.pool.create(name, GRANULE)
    failing = Failing(flash.target, left, torn=torn)
    pool = Pool.open(flash.target, identity=IDENTITY, granule_bytes=GRANULE_BYTES)
    pool.flash = pool._copies.flash = failing  # type: ignore[assignment]  # Flash, but for what it refuses
    with pytest.raises(OSError, match="nothing works"):
        pool.create("new", GRANULE)
    with pytest.raises((OSError, VolumeError)):
        pool.create("next", GRANULE)
    failing.left = 1000
    pool.create("last", GRANULE)
    expected = [*"abcd", *(["new"] if left else []), "last"]
    assert [volume.name for volume in pool.volumes] == expected
    assert [copies_of(flash).read(copy) for copy in (0, 1)] == [pool.table, pool.table]
    assert flash.reopen().table == pool.table


# The table on the flash


@pytest.mark.parametrize("copy", [0, 1])
@pytest.mark.parametrize("how", ["bit", "gone", "unreadable", "older"])
def test_a_copy_that_is_damaged_is_written_anew_and_nothing_is_lost(flash: CarvedFlash, copy: int, how: str) -> None:
    old = serialised(flash.pool.table)
    flash.pool.create("a", GRANULE)
    flash.fill("a", "a")
    before = flash.pool.table
    if how == "bit":
        damage(flash, copy)
    elif how == "gone":
        write_copy(flash, copy, bytes(GRANULE_BYTES))
    elif how == "older":
        write_copy(flash, copy, old)
    else:
        spoil(flash, copy)
    assert flash.reopen().table == before
    assert [copies_of(flash).read(number) for number in (0, 1)] == [before, before]
    assert flash.contents("a") == stamped("a", GRANULE)


def spoil(flash: CarvedFlash, copy: int) -> None:
    """The newest page that holds a copy becomes uncorrectable. With one unit in a page: its unit, and no other."""
    unit = copies_of(flash).position(copy)
    wanted = flash.target.read(unit, 1)
    for block in range(PARTS["SLC"]["blocks"]):
        for page in range(PARTS["SLC"]["pages_per_block"]):
            status, data, spare = flash.chip.read(block, page)
            if status == 0 and data == wanted and int.from_bytes(spare[24:28], "little") == unit:
                flash.chip.spoil(block, page)
    with pytest.raises(OSError):
        flash.target.read(unit, 1)


def another_identity(flash: CarvedFlash) -> None:
    other = CarvedFlash()
    other.open(identity=b"another flash...")
    for copy in (0, 1):
        write_copy(flash, copy, serialised(other.pool.table))


def overlapping(flash: CarvedFlash) -> None:
    """Somebody has edited it, with a checksum that is right."""
    flash.pool.create("a", GRANULE)
    volume = flash.pool.find("a")
    a = Table(**vars(flash.pool.table) | {"volumes": (volume, volume)})
    data = table_module.packed(a, checksum=0)
    write_copy(flash, 0, table_module.packed(a, checksum=table_module.zlib.crc32(data)))


def newer(flash: CarvedFlash) -> None:
    data = bytearray(serialised(flash.pool.table))
    data[8:16] = b"\2" + bytes(7)
    data[12:16] = table_module.zlib.crc32(data).to_bytes(4, "little")
    write_copy(flash, 1, bytes(data))


def differing(flash: CarvedFlash) -> None:
    flash.pool.create("a", GRANULE)
    write_copy(flash, 0, serialised(Table(**vars(flash.pool.table) | {"volumes": ()})))


def damaged(flash: CarvedFlash) -> None:
    damage(flash, 0)
    damage(flash, 1)


def half_gone(flash: CarvedFlash) -> None:
    damage(flash, 0)
    write_copy(flash, 1, bytes(GRANULE_BYTES))


REFUSED_FLASHES: dict[str, tuple[Callable[[CarvedFlash], object], type[VolumeError], str]] = {
    "both copies damaged": (damaged, DamagedTableError, "both copies .* are damaged .*restore the flash, or format it"),
    "one damaged, one gone": (half_gone, DamagedTableError, "copy 0: its checksum is wrong; copy 1: there is no table"),
    "extents that overlap": (overlapping, TamperedTableError, "two volumes have the name a"),
    "copies of one generation that differ": (differing, TamperedTableError, "its copies of generation 2 differ"),
    "a newer version beside a good one": (newer, ForeignTableError, "version 2"),
    "of another flash": (another_identity, ForeignTableError, "is of another flash, 616e6f74"),
}


@pytest.mark.parametrize("case", REFUSED_FLASHES)
def test_a_table_that_is_not_to_be_trusted_is_refused_and_left_alone(flash: CarvedFlash, case: str) -> None:
    harm, kind, says = REFUSED_FLASHES[case]
    harm(flash)
    flash.mount()
    before, operations = copies_of(flash), flash.chip.operations
    tables = [before.read(copy) for copy in (0, 1)]
    for overwrite in (False, True):
        with pytest.raises(kind, match=says) as refused:
            flash.open(overwrite=overwrite)
        assert "\n" not in str(refused.value)
    assert flash.chip.operations == operations
    assert [type(table) for table in tables] == [type(before.read(copy)) for copy in (0, 1)]
    Pool.format(flash.target, identity=IDENTITY, granule_bytes=GRANULE_BYTES)
    assert flash.reopen().volumes == ()


def test_granules_never_change(flash: CarvedFlash) -> None:
    flash.pool.create("a", 1)
    for granule in (512, 2 * GRANULE_BYTES, 4 * GRANULE_BYTES):
        with pytest.raises(VolumeError, match="granules of 2048 bytes, which never change"):
            flash.open(granule_bytes=granule)


def test_a_table_of_other_granules_is_found_and_named() -> None:
    flash = CarvedFlash()
    flash.open(granule_bytes=4096)
    with pytest.raises(ForeignTableError, match="granules of 4096 bytes"):
        flash.open(overwrite=True)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"granule_bytes": 700}, "multiple of the unit, 512"),
        ({"granule_bytes": 0}, "granules of 0 bytes"),
        ({"granule_bytes": 13312}, "no room for volumes"),
        ({"identity": b"short"}, "an identity of 5 bytes"),
    ],
)
def test_a_flash_that_cannot_be_carved_so_is_refused(options: dict[str, object], says: str) -> None:
    with pytest.raises(VolumeError, match=says):
        CarvedFlash().open(**options)


@pytest.mark.parametrize("where", [0, 31, USER_UNITS - 1])
def test_other_data_is_overwritten_only_when_told(where: int) -> None:
    flash = CarvedFlash()
    flash.target.write(where, stamped("precious", 1))
    with pytest.raises(NoTableError, match="holds data and no table"):
        flash.open()
    with pytest.raises(NoTableError, match="holds data and no table"):
        Pool.open(flash.target, identity=IDENTITY, granule_bytes=GRANULE_BYTES)
    assert flash.target.read(where, 1) == stamped("precious", 1)
    flash.open(overwrite=True)
    assert not any(flash.target.read(0, GRANULES * GRANULE))
    assert flash.target.read(USER_UNITS, 1) == stamped("registers", 1)


def test_overwrite_does_nothing_to_volumes(flash: CarvedFlash) -> None:
    flash.pool.create("a", GRANULE)
    flash.fill("a", "a")
    flash.open(overwrite=True)
    assert flash.contents("a") == stamped("a", GRANULE)


def test_blankness_by_what_is_mapped_and_by_what_is_read() -> None:
    flash = CarvedFlash()
    assert maps_nothing(flash.target)
    assert reads_as_zeroes(flash.target)
    flash.target.write(70, bytes(512))
    assert not maps_nothing(flash.target), "zeroes that somebody wrote are data, where that can be told"
    assert reads_as_zeroes(flash.target)
    flash.target.write(USER_UNITS - 1, b"x" * 512)
    assert not maps_nothing(flash.target)
    assert not reads_as_zeroes(flash.target)


def test_read_only_nothing_is_changed(flash: CarvedFlash) -> None:
    flash.pool.create("a", GRANULE)
    flash.fill("a", "a")
    damage(flash, 0)
    flash.mount(read_only=True)
    operations = flash.chip.operations
    pool = flash.open(read_only=True)
    assert flash.contents("a") == stamped("a", GRANULE)
    for change in (lambda: pool.create("b", 1), lambda: pool.delete("a"), lambda: pool.grow("a", 8)):
        with pytest.raises(VolumeError, match="opened read-only"):
            change()
    assert flash.chip.operations == operations
    with pytest.raises(NoTableError, match="has no volumes, and was opened read-only"):
        CarvedFlash().open(read_only=True)


@pytest.mark.parametrize("seed", range(20))
def test_a_change_that_has_returned_survives_a_crash_of_the_host(seed: int) -> None:
    flash = CarvedFlash(host_sync=True)
    flash.open()
    flash.pool.create("a", 2 * GRANULE)
    flash.fill("a", "a")
    flash.pool.create("gone", 2 * GRANULE)
    flash.fill("gone", "gone")
    flash.pool.delete("gone")
    flash.pool.grow("a", 3 * GRANULE)
    flash.chip.host_crash(seed)
    flash.reopen()
    assert [volume.name for volume in flash.pool.volumes] == ["a"]
    assert flash.contents("a") == stamped("a", 2 * GRANULE) + bytes(GRANULE_BYTES)
    flash.pool.create("new", flash.pool.free_sectors)
    assert not any(flash.contents("new"))
