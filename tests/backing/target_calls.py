"""The calls of a `Target` as the data plane makes them, on this thread: for what Python's methods cannot say."""

import ctypes
import os
from collections.abc import Callable
from typing import Any

MORE, SYNC, ROOM = 0x10000, 0x10001, 0x10003


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Progress(ctypes.Structure):
    _fields_ = (("done", ctypes.c_uint64), ("stage", ctypes.c_uint64), ("passed", ctypes.c_uint64))


_OWN, _U64, _U32, _I32 = ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_int32
_TRANSFER = ctypes.CFUNCTYPE(_I32, _OWN, _U64, ctypes.POINTER(_Iovec), _U32, _U64)


class _Target(ctypes.Structure):
    """As `Target` of src/virtflash/backing/target.pxd."""

    _fields_ = (
        ("own", _OWN),
        ("sync_fd", ctypes.c_int),
        ("read", _TRANSFER),
        ("write", _TRANSFER),
        ("flush", ctypes.CFUNCTYPE(_I32, _OWN)),
        ("change", ctypes.CFUNCTYPE(_I32, _OWN, ctypes.c_int, _U64, _U64, ctypes.POINTER(_Progress))),
        ("lifetime", ctypes.CFUNCTYPE(_I32, _OWN, ctypes.c_char_p)),
        ("sync_begins", ctypes.CFUNCTYPE(_U64, _OWN)),
        ("synced", ctypes.CFUNCTYPE(None, _OWN, _U64)),
        ("work", ctypes.CFUNCTYPE(ctypes.c_int, _OWN)),
        ("ready_ns", ctypes.CFUNCTYPE(_U64, _OWN)),
        ("now_ns", _U64),
        ("gentle", ctypes.c_int),
        ("busy_ns", ctypes.CFUNCTYPE(_U64, _OWN)),
        ("operations", ctypes.CFUNCTYPE(_U64, _OWN)),
        ("host_failed", ctypes.c_void_p),
        ("programmed", ctypes.CFUNCTYPE(_U64, _OWN, _U32)),
        ("caller", _U32),
        ("flush_mark", ctypes.POINTER(_U64)),
    )


class TargetCalls:
    """`caller`: the owner that calls are made for. `most`: programs and erases that one call of these began at most."""

    def __init__(self, target: Any, caller: int = 0, *, gentle: bool = False) -> None:
        self.kept, self.gentle, self.most = target, gentle, 0
        get = ctypes.pythonapi.PyCapsule_GetPointer
        get.argtypes, get.restype = (ctypes.py_object, ctypes.c_char_p), ctypes.c_void_p
        self.target = _Target.from_address(get(target.capsule, b"virtflash.backing.Target"))
        self.caller = caller

    def _call(self, function: Any, *arguments: Any) -> int:
        self.target.caller, self.target.gentle = self.caller, self.gentle
        before = self.target.operations(self.target.own)
        result = int(function(self.target.own, *arguments))
        self.most = max(self.most, self.target.operations(self.target.own) - before)
        if result < 0:
            raise OSError(-result, os.strerror(-result))
        return result

    def write(self, sector: int, data: bytes) -> None:
        while data:
            piece = _Iovec(ctypes.cast(data, ctypes.c_void_p), len(data))
            taken = self._call(self.target.write, sector, ctypes.byref(piece), 1, len(data))
            taken = 0 if taken == ROOM else taken
            sector, data = sector + taken // 512, data[taken:]

    def change(self, kind: int, sector: int, sectors: int) -> None:
        progress, result = _Progress(), MORE
        while result in (MORE, ROOM):
            result = self._call(self.target.change, kind, sector, sectors, ctypes.byref(progress))

    def flush(self, between: Callable[[], None] = lambda: None) -> int:
        """`between`: done between two of its calls. Returns how many there were."""
        mark, count = _U64(0), 1
        while self._flush_part(mark) in (MORE, ROOM):
            assert self.gentle
            count += 1
            between()
        return count

    def _flush_part(self, mark: ctypes.c_uint64) -> int:
        self.target.flush_mark = ctypes.pointer(mark)
        return self._call(self.target.flush)

    def programmed(self, owner: int) -> int:
        return int(self.target.programmed(self.target.own, owner))

    def busy_ns(self) -> int:
        """Until when the real part would be at work, on the monotonic clock; 0: it takes no time."""
        return int(self.target.busy_ns(self.target.own))
