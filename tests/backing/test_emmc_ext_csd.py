"""EXT_CSD: which bits can be written, how often, and what outlives the supply (JESD84-B51, 7.4)."""

import pytest

from virtflash.backing.emmc.ext_csd import FIELDS, PROPERTIES, Access, ExtCsd, SwitchError, Write

FIXED = {"EXT_CSD_REV": 8, "SEC_COUNT": 0xE40000, "BKOPS_EN": 0x02, "CACHE_SIZE": 512}


@pytest.fixture
def register() -> ExtCsd:
    return ExtCsd(FIXED)


def test_fields_lie_apart() -> None:
    taken = [index for field in FIELDS for index in range(field.index, field.index + field.size)]
    assert len(taken) == len(set(taken))
    assert all(0 <= index < 512 for index in taken)


def test_bits_of_a_field_lie_apart() -> None:
    for field in FIELDS:
        together = 0
        for bits in field.bits:
            assert not together & bits.mask, field.name
            together |= bits.mask


def test_properties_are_never_written(register: ExtCsd) -> None:
    for index in range(PROPERTIES, 512):
        with pytest.raises(SwitchError):
            register.switch(Access.WRITE_BYTE, index, 1)
    assert register.read()[212:216] == (0xE40000).to_bytes(4, "little")


@pytest.mark.parametrize(
    ("access", "value", "expected"),
    [
        (Access.COMMAND_SET, 0x38, 0x48),
        (Access.SET_BITS, 0x10, 0x58),
        (Access.CLEAR_BITS, 0x08, 0x40),
        (Access.WRITE_BYTE, 0x39, 0x39),
    ],
)
def test_access_modes(register: ExtCsd, access: Access, value: int, expected: int) -> None:
    register.switch(Access.WRITE_BYTE, 179, 0x48)
    register.switch(access, 179, value)
    assert register.get("PARTITION_CONFIG") == expected


# (what, index, first value, second value, is the second accepted?, value after a power cycle)
CYCLES = [
    ("R/W: once", 162, 1, 2, False, 1),
    ("R/W, the bit that was written once", 163, 0x03, 0x02, False, 0x03),
    ("R/W/E beside it", 163, 0x03, 0x01, True, 0x01),
    ("R/W/E", 177, 0x05, 0x0A, True, 0x0A),
    ("R/W/C_P: once a cycle", 173, 0x01, 0x00, False, 0x00),
    ("R/W bit beside C_P bits", 173, 0x14, 0x04, False, 0x14),
    ("R/W/E_P", 33, 1, 0, True, 0),
    ("R/W/E_P and R/W/E in one byte", 179, 0x49, 0x4A, True, 0x48),
    ("W/E_P", 165, 1, 1, True, 0),
]


@pytest.mark.parametrize(
    ("what", "index", "first", "second", "accepted", "kept"), CYCLES, ids=[row[0] for row in CYCLES]
)
def test_how_often_and_how_long(
    register: ExtCsd, what: str, index: int, first: int, second: int, accepted: bool, kept: int
) -> None:
    register.switch(Access.WRITE_BYTE, index, first)
    if accepted:
        register.switch(Access.WRITE_BYTE, index, second)
    else:
        with pytest.raises(SwitchError):
            register.switch(Access.WRITE_BYTE, index, second)
        assert register.read()[index] == first, "a refused switch changes nothing"
    stored = register.stored()
    register.power_cycle()
    assert register.read()[index] == kept
    again = ExtCsd(FIXED, stored)
    assert again.read()[index] == kept


def test_what_was_written_once_stays_so_in_the_next_power_cycle(register: ExtCsd) -> None:
    register.switch(Access.WRITE_BYTE, 162, 1)
    again = ExtCsd(FIXED, register.stored())
    with pytest.raises(SwitchError, match="can be written once"):
        again.switch(Access.WRITE_BYTE, 162, 2)
    with pytest.raises(SwitchError, match="can be written once"):
        again.switch(Access.CLEAR_BITS, 162, 1)


def test_what_is_written_once_a_cycle_can_be_written_in_the_next(register: ExtCsd) -> None:
    register.switch(Access.SET_BITS, 171, 0x08)
    with pytest.raises(SwitchError):
        register.switch(Access.CLEAR_BITS, 171, 0x08)
    register.power_cycle()
    assert register.get("USER_WP") == 0
    register.switch(Access.SET_BITS, 171, 0x08)


@pytest.mark.parametrize(
    ("index", "value"),
    [
        (179, 3),  # RPMB: there is none
        (179, 4),  # a general purpose partition: there is none
        (34, 5),
        (162, 3),
        (33, 2),
        (57, 1),  # the upper byte of EXCEPTION_EVENTS_CTRL
        (30, 1),  # firmware update: there is none
        (155, 1),  # partitioning: there is none
    ],
)
def test_what_does_not_exist_is_refused(register: ExtCsd, index: int, value: int) -> None:
    before = register.read()
    with pytest.raises(SwitchError):
        register.switch(Access.WRITE_BYTE, index, value)
    assert register.read() == before


def test_every_way_to_write_occurs() -> None:
    used = {bits.write for field in FIELDS for bits in field.bits}
    assert used == set(Write) - {Write.READ_ONLY}
