"""A target of plain memory that does as it is told (scripted_target.c), compiled when it is first needed."""

import ctypes
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest

SOURCE = Path(__file__).with_suffix(".c")
CALLS = ("read", "write", "flush", "change", "lifetime", "sync_begins", "synced", "work")
KINDS = ("discard", "write zeroes", "unmap zeroes", "secure erase")


class Control(ctypes.Structure):
    """As `struct control` there."""

    _fields_ = (
        ("counts", ctypes.c_uint64 * len(CALLS)),
        ("errors", ctypes.c_int32 * len(CALLS)),
        ("needs_sync", ctypes.c_uint32 * len(CALLS)),
        *((name, ctypes.c_uint64) for name in ("part_sectors", "part_ns", "take_bytes", "delay_ns", "delay_below")),
        *(
            (name, ctypes.c_uint64)
            for name in ("work_slices", "work_endless", "mark", "begun", "early_work", "stale_clock")
        ),
        ("strangers", ctypes.c_uint64),
        ("kinds", ctypes.c_uint64 * len(KINDS)),
        ("thread", ctypes.c_uint64),
        ("ready_ns", ctypes.c_uint64),
    )


@cache
def library() -> ctypes.CDLL:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler is installed")
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder) / "scripted_target.so"
        subprocess.run([compiler, "-O2", "-Wall", "-Wextra", "-shared", "-fPIC", SOURCE, "-o", built], check=True)
        loaded = ctypes.CDLL(str(built))
    loaded.scripted_make.argtypes = (ctypes.c_uint64, ctypes.c_int, ctypes.c_int)
    loaded.scripted_make.restype = loaded.scripted_memory.restype = ctypes.c_void_p
    loaded.scripted_control.restype = ctypes.POINTER(Control)
    for function in (loaded.scripted_control, loaded.scripted_memory, loaded.scripted_free):
        function.argtypes = (ctypes.c_void_p,)
    return loaded


def capsule(pointer: Any, name: bytes) -> object:
    make = ctypes.pythonapi.PyCapsule_New
    make.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
    make.restype = ctypes.py_object
    made: object = make(pointer, name, None)
    return made


class ScriptedTarget:
    """`control` is what it is told and what it saw; read and written while a reactor calls it."""

    NAME = b"virtflash.backing.Target"  # a capsule keeps the pointer

    def __init__(self, sectors: int, *, sync_fd: int = -1, lifetime: bool = True) -> None:
        self.library = library()
        self.bytes = sectors * 512
        self.pointer = self.library.scripted_make(self.bytes, sync_fd, lifetime)
        self.capsule = capsule(self.pointer, self.NAME)
        self.control: Control = self.library.scripted_control(self.pointer).contents

    @property
    def memory(self) -> bytes:
        return ctypes.string_at(self.library.scripted_memory(self.pointer), self.bytes)

    def calls(self, call: str) -> int:
        return int(self.control.counts[CALLS.index(call)])

    def fail(self, call: str, error: int) -> None:
        """From now on; 0: no more."""
        self.control.errors[CALLS.index(call)] = -error

    def ask_for_syncs(self, call: str, count: int) -> None:
        self.control.needs_sync[CALLS.index(call)] = count

    def changes(self) -> dict[str, int]:
        return {kind: count for kind, count in zip(KINDS, self.control.kinds, strict=True) if count}

    def __del__(self) -> None:
        self.library.scripted_free(self.pointer)


class _Call(ctypes.Structure):
    _fields_ = (("function", ctypes.c_void_p), ("argument", ctypes.c_void_p))


class CountingCall:
    """A call for `Reactor.run`, which adds one to `count`."""

    NAME = b"virtflash.engine.Call"

    def __init__(self) -> None:
        self.number = ctypes.c_uint64(0)
        function = ctypes.cast(library().scripted_count, ctypes.c_void_p)
        self.call = _Call(function, ctypes.addressof(self.number))
        self.capsule = capsule(ctypes.addressof(self.call), self.NAME)

    @property
    def count(self) -> int:
        return self.number.value
