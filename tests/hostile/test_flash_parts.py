"""A secure erase is long, and others wait for its parts: each is of about one block, however many there are."""

import ctypes
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from virtflash.backing.flash_target import SECURE_ERASE, FlashTarget
from virtflash.flash.emulated import EmulatedFlash
from virtflash.ftl.translation import Translation

UNITS, UNIT_SECTORS = 1500, 8


class Call(ctypes.Structure):
    """`Call` of target.pxd."""

    _fields_ = [("function", ctypes.CFUNCTYPE(None, ctypes.c_void_p)), ("argument", ctypes.c_void_p)]


def owner_that(look: Callable[[], None]) -> Callable[[Any], None]:
    """Runs what it is given here and now, and looks at what that has done."""
    pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
    pointer_of.restype, pointer_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]

    def run(capsule: Any) -> None:
        call = Call.from_address(pointer_of(capsule, b"virtflash.engine.Call"))
        call.function(call.argument)
        look()

    return run


def test_no_part_of_a_secure_erase_wipes_more_than_one_block() -> None:
    chip = EmulatedFlash.in_memory(page_bytes=16384, spare_bytes=80, pages_per_block=16, blocks=64)
    layer = Translation.format(chip, UNITS, reserve_blocks=4)
    target = FlashTarget(layer, user_sectors=UNITS * UNIT_SECTORS)
    for seed in range(6):
        layer.write_random(1000, seed, 1)
    to_wipe = [int(chip.block_table()["not_wiped"].sum())]
    target.owner = owner_that(lambda: to_wipe.append(int(chip.block_table()["not_wiped"].sum())))
    target.change(SECURE_ERASE, 0, UNIT_SECTORS)
    steps = [before - after for before, after in pairwise(to_wipe)]
    assert to_wipe[0] > 10
    assert to_wipe[-1] == 0
    assert max(steps) == 1
