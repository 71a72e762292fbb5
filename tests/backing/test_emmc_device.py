"""The eMMC as its host sees it: what each command promises, seen in what is read and in the flash below."""

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest
from flash_in_memory import UNIT_SECTORS, FlashInMemory

from virtflash.backing.emmc import Access, Emmc, EmmcError, Erase, Partition, Status, SwitchError
from virtflash.backing.emmc.ext_csd import BY_NAME
from virtflash.backing.emmc.registers import RegistersError
from virtflash.flash.profiles import load_profile

FULL = load_profile("automotive-tlc-emmc").emmc
assert FULL is not None
PROFILE = replace(FULL, cache_kib=64, boot_partition_kib=128, erase_group_kib=512, write_protect_group_kib=512)
GROUP = 1024  # sectors, of an erase and of a protection group
SECRET = b"secret--" * 512  # a unit of it
UNITS = 1500  # of the flash in all


class Device:
    """An eMMC on a flash in memory, and its power."""

    def __init__(self) -> None:
        self.flash = FlashInMemory("mlc")
        self.start()

    def start(self) -> None:
        target = self.flash.target
        user = target.sectors - 2 * 256 - 128
        self.flash.options = {
            "user_sectors": user,
            "cache_bytes": PROFILE.cache_kib << 10,
            "protection_group_sectors": GROUP,
        }
        self.flash.mount()
        self.emmc = Emmc(self.flash.target, PROFILE, temperature=lambda: 41.5)

    def power_cycle(self) -> None:
        self.flash.target.lose_power(1)
        self.start()

    def switch(self, name: str, value: int, access: Access = Access.WRITE_BYTE) -> None:
        self.emmc.switch(BY_NAME[name].index, value, access)

    def field(self, name: str) -> int:
        field = BY_NAME[name]
        return int.from_bytes(self.emmc.ext_csd()[field.index : field.index + field.size], "little")

    def medium(self) -> bytes:
        """All pages of the chip that hold something."""
        chip = self.flash.chip
        pages = [
            chip.read(block, page)[1]
            for block in range(self.flash.part.chip["blocks"])
            for page in range(self.flash.part.chip["pages_per_block"])
            if chip.read(block, page)[0] in (0, -1)
        ]
        return b"".join(pages)


@pytest.fixture
def device() -> Iterator[Device]:
    device = Device()
    device.switch("CACHE_CTRL", 1)
    yield device


def test_the_register_says_what_the_device_is(device: Device) -> None:
    expected = {
        "EXT_CSD_REV": PROFILE.revision,
        "SEC_COUNT": device.flash.target.user_sectors,
        "BOOT_SIZE_MULT": 1,
        "HC_ERASE_GRP_SIZE": 1,
        "HC_WP_GRP_SIZE": 1,
        "CACHE_SIZE": 512,  # kilobits
        "RPMB_SIZE_MULT": 0,
        "PRE_EOL_INFO": 1,
        "DEVICE_LIFE_TIME_EST_TYP_A": 1,
        "DEVICE_LIFE_TIME_EST_TYP_B": 1,
        "BKOPS_STATUS": 0,
        "ERASED_MEM_CONT": 0,
    }
    assert {name: device.field(name) for name in expected} == expected
    assert len(device.emmc.ext_csd()) == 512
    assert device.emmc.temperature == 41.5


def test_the_cache_is_off_at_power_up_and_then_nothing_is_lost() -> None:
    device = Device()
    assert device.field("CACHE_CTRL") == 0
    device.emmc.write(0, b"a" * 512)
    device.power_cycle()
    assert device.emmc.read(0, 1) == b"a" * 512


def test_turning_the_cache_off_flushes_it(device: Device) -> None:
    device.emmc.write(0, b"a" * 4096)
    assert device.flash.target.cached_units == 1
    device.switch("CACHE_CTRL", 0)
    assert device.flash.target.cached_units == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [("FLUSH_CACHE", 1), ("FLUSH_CACHE", 2), ("POWER_OFF_NOTIFICATION", 2), ("POWER_OFF_NOTIFICATION", 3)],
)
def test_what_saves_the_cache(device: Device, name: str, value: int) -> None:
    device.switch("BARRIER_CTRL", 1)
    device.switch("POWER_OFF_NOTIFICATION", 1)
    device.emmc.write(0, b"a" * 4096)
    device.switch(name, value)
    device.power_cycle()
    assert device.emmc.read(0, 8) == b"a" * 4096


def test_a_long_power_off_leaves_the_next_start_nothing_to_do(device: Device) -> None:
    for unit in range(40):
        device.emmc.write(unit * UNIT_SECTORS, b"a" * 4096)
    device.switch("POWER_OFF_NOTIFICATION", 2)
    device.start()
    assert not device.flash.target.translation.clean
    device.emmc.write(0, b"b" * 4096)
    device.switch("POWER_OFF_NOTIFICATION", 3)
    device.start()
    assert device.flash.target.translation.clean
    assert device.emmc.read(0, 8) == b"b" * 4096


def test_barriers_have_to_be_turned_on(device: Device) -> None:
    with pytest.raises(SwitchError, match="barriers"):
        device.switch("FLUSH_CACHE", 2)


# Erasing


def written(device: Device, sectors: int) -> bytes:
    data = random.Random(7).randbytes(sectors * 512)
    device.emmc.write(0, data)
    device.switch("FLUSH_CACHE", 1)
    return data


# (kind, first sector, last sector, first and last sector that read as zeroes)
ERASED = [
    (Erase.ERASE, GROUP + 5, GROUP + 5, GROUP, 2 * GROUP - 1),
    (Erase.ERASE, GROUP - 1, GROUP, 0, 2 * GROUP - 1),
    (Erase.SECURE_ERASE, GROUP + 5, GROUP + 6, GROUP, 2 * GROUP - 1),
    (Erase.TRIM, 3, 21, 3, 21),
    (Erase.TRIM, 8, 15, 8, 15),
    (Erase.DISCARD, 3, 21, 8, 15),
]


@pytest.mark.parametrize(("kind", "first", "last", "from_", "to"), ERASED)
def test_what_is_erased_reads_as_zeroes_and_nothing_else_changes(
    device: Device, kind: Erase, first: int, last: int, from_: int, to: int
) -> None:
    data = written(device, 3 * GROUP)
    assert device.emmc.erase(kind, first, last) == 0
    expected = data[: from_ * 512] + bytes((to + 1 - from_) * 512) + data[(to + 1) * 512 :]
    assert device.emmc.read(0, 3 * GROUP) == expected


@pytest.mark.parametrize("kind", [Erase.ERASE, Erase.TRIM, Erase.SECURE_ERASE])
def test_erased_stays_erased_over_a_power_cut(device: Device, kind: Erase) -> None:
    written(device, 2 * GROUP)
    device.emmc.erase(kind, 0, GROUP - 1)
    device.power_cycle()
    assert not any(device.emmc.read(0, GROUP))
    assert any(device.emmc.read(GROUP, GROUP))


def test_a_discard_is_a_hint_until_the_next_flush(device: Device) -> None:
    data = written(device, GROUP)
    device.emmc.erase(Erase.DISCARD, 0, GROUP - 1)
    assert not any(device.emmc.read(0, GROUP))
    device.power_cycle()
    assert device.emmc.read(0, GROUP) == data, "the power was cut before anything had to be remembered"


def hide_secret(device: Device) -> None:
    """A secret, then something else in its place, so that its only copies are stale; and one that is current."""
    for _ in range(3):
        device.emmc.write(64, SECRET * 3)
        device.switch("FLUSH_CACHE", 1)
    device.emmc.write(72, b"other---" * 512)
    device.switch("FLUSH_CACHE", 1)


def test_stale_copies_outlive_what_is_not_secure_and_sanitize_takes_them(device: Device) -> None:
    hide_secret(device)
    device.emmc.erase(Erase.TRIM, 64, 87)
    device.emmc.erase(Erase.ERASE, 64, 87)
    assert SECRET in device.medium()
    device.switch("SANITIZE_START", 1)
    assert SECRET not in device.medium()


def test_sanitize_leaves_mapped_data_alone(device: Device) -> None:
    hide_secret(device)
    device.switch("SANITIZE_START", 1)
    assert device.emmc.read(64, 8) == SECRET
    assert device.emmc.read(72, 8) == b"other---" * 512


def test_secure_erase_leaves_no_copy(device: Device) -> None:
    hide_secret(device)
    device.emmc.write(80, SECRET)  # in the cache only
    device.emmc.erase(Erase.SECURE_ERASE, 0, GROUP - 1)
    assert SECRET not in device.medium()
    device.switch("FLUSH_CACHE", 1)
    assert SECRET not in device.medium()


@pytest.mark.parametrize(("first", "last"), [(64, 87), (65, 87), (64, 80)])
def test_secure_trim_purges_in_its_second_step_what_the_first_has_marked(device: Device, first: int, last: int) -> None:
    device.emmc.write(first // 8 * 8, SECRET * 3)
    device.switch("FLUSH_CACHE", 1)
    device.emmc.write(0, b"kept----" * 64)
    middle = first // 8 * 8 + 8
    device.emmc.erase(Erase.SECURE_TRIM_STEP_1, first, middle - 1)
    device.emmc.erase(Erase.SECURE_TRIM_STEP_1, middle, last)
    assert SECRET in device.medium()
    device.emmc.erase(Erase.SECURE_TRIM_STEP_2, 0, 0)
    assert device.emmc.read(first, last + 1 - first) == bytes((last + 1 - first) * 512)
    assert SECRET not in device.medium()
    assert device.emmc.read(0, 1) == b"kept----" * 64


def test_what_is_written_between_the_two_steps_stays_and_what_it_replaced_goes(device: Device) -> None:
    device.emmc.write(64, SECRET * 3)
    device.switch("FLUSH_CACHE", 1)
    device.emmc.erase(Erase.SECURE_TRIM_STEP_1, 64, 87)
    device.emmc.write(72, b"new-----" * 512)
    device.emmc.erase(Erase.SECURE_TRIM_STEP_2, 0, 0)
    assert device.emmc.read(64, 24) == bytes(4096) + b"new-----" * 512 + bytes(4096)
    assert SECRET not in device.medium()


@pytest.mark.parametrize(
    ("kind", "first", "last", "status"),
    [
        (Erase.TRIM, 10, 9, Status.ERASE_PARAM),
        (Erase.ERASE, 0, 1 << 31, Status.OUT_OF_RANGE),
    ],
)
def test_erases_that_are_refused(device: Device, kind: Erase, first: int, last: int, status: Status) -> None:
    with pytest.raises(EmmcError) as refused:
        device.emmc.erase(kind, first, last)
    assert refused.value.status == status


def test_what_the_part_does_not_have_is_refused(device: Device) -> None:
    old = replace(PROFILE, revision=5, secure_feature_support=0)
    device.emmc = Emmc(device.flash.target, old, temperature=lambda: 25.0)
    for kind in (Erase.TRIM, Erase.DISCARD, Erase.SECURE_ERASE, Erase.SECURE_TRIM_STEP_1, Erase.SECURE_TRIM_STEP_2):
        with pytest.raises(EmmcError, match="not a feature"):
            device.emmc.erase(kind, 0, 7)
    with pytest.raises(SwitchError, match="sanitise"):
        device.switch("SANITIZE_START", 1)
    assert device.emmc.erase(Erase.ERASE, 0, 7) == 0


# Write protection

TEMPORARY, POWER_ON, PERMANENT = 1, 2, 3
# (USER_WP, kind, does it outlive the supply, can CMD29 take it off)
PROTECTIONS = [
    (0x00, TEMPORARY, True, True),
    (0x01, POWER_ON, False, False),
    (0x04, PERMANENT, True, False),
    (0x05, PERMANENT, True, False),
]


@pytest.mark.parametrize(("user_wp", "kind", "outlives", "clearable"), PROTECTIONS)
def test_kinds_of_write_protection(device: Device, user_wp: int, kind: int, outlives: bool, clearable: bool) -> None:
    device.switch("USER_WP", user_wp)
    device.emmc.set_write_protect(GROUP + 7)
    assert device.emmc.write_protect_types(0) == kind << 2
    assert device.emmc.write_protect_bits(0) == 2
    assert device.emmc.write_protect_bits(GROUP) == 1
    device.power_cycle()
    assert device.emmc.write_protect_types(0) == (kind << 2 if outlives else 0)
    if outlives and clearable:
        device.emmc.clear_write_protect(GROUP)
        assert device.emmc.write_protect_bits(0) == 0
        device.power_cycle()
        assert device.emmc.write_protect_bits(0) == 0
    elif outlives:
        with pytest.raises(EmmcError, match="cannot be taken off"):
            device.emmc.clear_write_protect(GROUP)


def test_protection_until_the_power_cycle_hides_what_outlives_it_and_leaves_its_neighbours_alone(
    device: Device,
) -> None:
    device.emmc.set_write_protect(0)
    device.switch("USER_WP", 0x01)
    device.emmc.set_write_protect(0)
    device.emmc.set_write_protect(2 * GROUP)
    device.switch("USER_WP", 0x00)
    device.emmc.set_write_protect(GROUP)
    assert device.emmc.write_protect_types(0) == POWER_ON | TEMPORARY << 2 | POWER_ON << 4
    device.power_cycle()
    assert device.emmc.write_protect_types(0) == TEMPORARY | TEMPORARY << 2


def test_protection_is_only_made_stronger(device: Device) -> None:
    for user_wp, kind in ((0x04, PERMANENT), (0x01, PERMANENT), (0x00, PERMANENT)):
        device.switch("USER_WP", user_wp)
        device.emmc.set_write_protect(0)
        assert device.emmc.write_protect_types(0) == kind


def test_a_protected_group_is_not_written_and_skipped_by_erases(device: Device) -> None:
    data = written(device, 3 * GROUP)
    device.emmc.set_write_protect(GROUP)
    for sector, sectors in ((GROUP, 1), (GROUP - 1, 2), (2 * GROUP - 1, 8)):
        with pytest.raises(EmmcError) as refused:
            device.emmc.write(sector, bytes(sectors * 512))
        assert refused.value.status == Status.WP_VIOLATION
    for kind in (Erase.ERASE, Erase.TRIM, Erase.SECURE_ERASE):
        device.emmc.write(0, data[: GROUP * 512])
        device.emmc.write(2 * GROUP, data[2 * GROUP * 512 :])
        assert device.emmc.erase(kind, 8, 3 * GROUP - 1) == Status.WP_ERASE_SKIP
        now = device.emmc.read(0, 3 * GROUP)
        assert now[GROUP * 512 : 2 * GROUP * 512] == data[GROUP * 512 : 2 * GROUP * 512]
        assert not any(now[8 * 512 : GROUP * 512])
        assert not any(now[2 * GROUP * 512 :])


def test_enabling_protection_can_be_disabled(device: Device) -> None:
    device.switch("USER_WP", 0x18)
    for value in (0x19, 0x1C):
        with pytest.raises(SwitchError, match="disabled"):
            device.switch("USER_WP", value)
    device.power_cycle()
    assert device.field("USER_WP") == 0x10, "for this power cycle, and for ever"


# Boot partitions


def test_boot_partitions_are_places_of_their_own(device: Device) -> None:
    device.emmc.boot_writable = True
    for partition in Partition:
        device.switch("PARTITION_CONFIG", partition)
        device.emmc.write(0, b"%d" % partition * 512)
    for partition in Partition:
        device.switch("PARTITION_CONFIG", partition)
        assert device.emmc.read(0, 1) == b"%d" % partition * 512
    assert device.emmc.partition == Partition.BOOT_2
    with pytest.raises(EmmcError) as refused:
        device.emmc.read(256, 1)
    assert refused.value.status == Status.OUT_OF_RANGE
    device.power_cycle()
    assert device.emmc.partition == Partition.USER


def test_boot_partitions_are_read_only_at_first(device: Device) -> None:
    device.switch("PARTITION_CONFIG", 1)
    with pytest.raises(EmmcError, match="read-only"):
        device.emmc.write(0, bytes(512))
    with pytest.raises(EmmcError, match="read-only"):
        device.emmc.erase(Erase.TRIM, 0, 7)
    assert not any(device.emmc.read(0, 256))


# (BOOT_WP, BOOT_WP_STATUS now, and after a power cycle)
@pytest.mark.parametrize(
    ("value", "now", "later"),
    [(0x01, 0b0101, 0), (0x04, 0b1010, 0b1010), (0x81, 0b0001, 0), (0x89, 0b0100, 0), (0x86, 0b1000, 0b1000)],
)
def test_boot_write_protection(device: Device, value: int, now: int, later: int) -> None:
    device.emmc.boot_writable = True
    device.switch("BOOT_WP", value)
    assert device.field("BOOT_WP_STATUS") == now
    for partition in (1, 2):
        device.switch("PARTITION_CONFIG", partition)
        if now >> 2 * (partition - 1) & 3:
            with pytest.raises(EmmcError, match="write-protected"):
                device.emmc.write(0, bytes(512))
        else:
            device.emmc.write(0, bytes(512))
    device.power_cycle()
    assert device.field("BOOT_WP_STATUS") == later


# The rest


def test_a_reliable_write_is_on_the_flash_when_it_completes(device: Device) -> None:
    device.emmc.write(5, b"r" * 512 * 20, reliable=True)
    device.power_cycle()
    assert device.emmc.read(5, 20) == b"r" * 512 * 20


def test_background_work_is_done_on_its_own_or_when_asked(device: Device) -> None:
    assert device.flash.target.background
    device.switch("BKOPS_EN", 0x02, Access.CLEAR_BITS)
    assert not device.flash.target.background
    rng = random.Random(3)
    while device.field("BKOPS_STATUS") < 2:
        device.emmc.write(rng.randrange(device.emmc.layout.user // 8) * 8, rng.randbytes(4096))
    device.switch("BKOPS_START", 1)
    assert device.field("BKOPS_STATUS") < 2
    assert device.field("EXCEPTION_EVENTS_STATUS") == 0


def test_registers_of_another_version_are_refused(device: Device) -> None:
    device.switch("BKOPS_EN", 0x00)
    start = device.emmc.layout.registers_start
    unit = bytearray(device.flash.target.read(start, 8))
    for at, message in ((8, "version"), (40, "damaged")):
        damaged = bytearray(unit)
        damaged[at] ^= 0xFF
        device.flash.target.write(start, damaged)
        with pytest.raises(RegistersError, match=message):
            Emmc(device.flash.target, PROFILE, temperature=lambda: 25.0)
