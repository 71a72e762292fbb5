"""What stands for the thread that owns a flash target: it runs each call that it is given here and now."""

import ctypes
from collections.abc import Callable
from typing import Any


class _Call(ctypes.Structure):
    """`Call` of src/virtflash/backing/target.pxd."""

    _fields_ = (("function", ctypes.CFUNCTYPE(None, ctypes.c_void_p)), ("argument", ctypes.c_void_p))


def nothing() -> None:
    """To be seen."""


def owner_that(*, before: Callable[[], None] = nothing, after: Callable[[], None] = nothing) -> Callable[[Any], None]:
    """An owner that looks at how things are before each call, and at what it has done."""
    pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
    pointer_of.restype, pointer_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]

    def run(capsule: Any) -> None:
        call = _Call.from_address(pointer_of(capsule, b"virtflash.engine.Call"))
        before()
        call.function(call.argument)
        after()

    return run
