"""A process under what a unit imposes on its service, as far as it can be had without systemd.

One filter of system calls stands for SystemCallFilter and for what systemd makes filters of as well: of memory that is
written and run, of address families, namespaces, real-time scheduling, set-user-id modes and personality. What it does
not let through is answered as systemd would have it answered, and noted. Limits, umask, groups, no_new_privs and the
(empty) set of capabilities besides. Where namespaces can be had: nothing to write to but the service's own directory,
few devices, no processes of others, no network. Not here: the user, and a /tmp and a /home of its own.
"""

import ctypes
import errno
import fcntl
import functools
import json
import os
import select
import socket
import stat
import struct
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
from requirements import require, unavailable
from unit_settings import UnitSettings

SCRIPT = Path(__file__).with_name("enter_sandbox.py")
START_SECONDS, END_SECONDS = 20.0, 30.0

Test = tuple[int, int, int]  # of an argument: which, a mask, the value under it
Alternatives = list[list[Test]]

ALWAYS: Alternatives = [[]]
WHOLE = 0xFFFFFFFFFFFFFFFF
PROT_WRITE, PROT_EXEC, SHM_EXEC = 2, 4, 0o100000
PERSONALITY_UNCHANGED = 0xFFFFFFFF
NAMESPACES = 0x02000000 | 0x08000000 | 0x40000000 | 0x00020000 | 0x20000000 | 0x10000000 | 0x04000000  # CLONE_NEW*
SUID_SGID = stat.S_ISUID | stat.S_ISGID
SIZES = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}

# The errors of systemd's own filters where they are not EPERM, which tell a C library to try another way.
ANSWERS = {"socket": errno.EAFNOSUPPORT, "clone3": errno.ENOSYS, "openat2": errno.ENOSYS}

# linux/seccomp.h
NOTIFICATION = struct.Struct("QIIiIQ6Q")  # id, process, flags; number, architecture, instruction, arguments
ANSWER = struct.Struct("QqiI")  # id, value, error, flags
RECEIVE, SEND = 0xC0502100, 0xC0182101


def without(argument: int, mask: int) -> Alternatives:
    """None of these bits is set."""
    return [[(argument, mask, 0)]]


def filters(settings: UnitSettings) -> dict[str, Alternatives]:
    """What systemd makes of settings other than SystemCallFilter: under which conditions a call is let through."""
    conditions: dict[str, Alternatives] = {}
    if settings.says("MemoryDenyWriteExecute"):
        either = [[(2, PROT_WRITE | PROT_EXEC, bits)] for bits in (0, PROT_WRITE, PROT_EXEC)]
        conditions |= {"mmap": either, "shmat": without(2, SHM_EXEC)}
        conditions |= {"mprotect": without(2, PROT_EXEC), "pkey_mprotect": without(2, PROT_EXEC)}
    if settings.words("RestrictAddressFamilies"):
        families = [getattr(socket, name) for name in settings.words("RestrictAddressFamilies")]
        conditions["socket"] = [[(0, WHOLE, family)] for family in families]
    if settings.says("RestrictNamespaces"):
        conditions |= {"unshare": without(0, NAMESPACES), "clone": without(0, NAMESPACES), "setns": [], "clone3": []}
    if settings.says("RestrictRealtime"):
        usual = (os.SCHED_OTHER, os.SCHED_BATCH, os.SCHED_IDLE)
        conditions["sched_setscheduler"] = [[(1, WHOLE, policy)] for policy in usual]
    if settings.says("RestrictSUIDSGID"):
        conditions |= modes_without_suid()
    if settings.says("LockPersonality"):
        conditions["personality"] = [[(0, WHOLE, 0)], [(0, WHOLE, PERSONALITY_UNCHANGED)]]
    return conditions


def modes_without_suid() -> dict[str, Alternatives]:
    places = {"chmod": 1, "fchmod": 1, "fchmodat": 2, "mkdir": 1, "mkdirat": 2, "mknod": 1, "mknodat": 2, "creat": 1}
    conditions = {call: without(place, SUID_SGID) for call, place in places.items()}
    for call, flags in (("open", 1), ("openat", 2)):
        conditions[call] = [*without(flags, os.O_CREAT), *without(flags + 1, SUID_SGID)]
    return {**conditions, "openat2": []}


@functools.cache
def has_namespaces() -> bool:
    """Of mounts and network, for this user."""
    require("unshare")
    command = ["unshare", "--mount", "--net", "mount", "-t", "proc", "-o", "hidepid=invisible", "proc", "/proc"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def namespaces(settings: UnitSettings, directory: Path) -> dict[str, object] | None:
    """`directory` stands for the service's StateDirectory and RuntimeDirectory. None: they cannot be had here."""
    assert settings.last("ProtectSystem") == "strict" and settings.last("ProtectProc") == "invisible"
    assert settings.says("PrivateDevices") and settings.says("ProtectKernelTunables")
    if not has_namespaces():
        return None
    return {"writable": [str(directory)], "network": not settings.says("PrivateNetwork")}


def rules(settings: UnitSettings, directory: Path) -> dict[str, object]:
    """What enter_sandbox takes."""
    assert settings.all("CapabilityBoundingSet") == settings.all("AmbientCapabilities") == []
    assert settings.says("NoNewPrivileges") and settings.last("SystemCallArchitectures") == "native"
    conditions = filters(settings)
    limits = {name: settings.last(f"Limit{name}") for name in ("NOFILE", "MEMLOCK")}
    return {
        "calls": {call: conditions.get(call, ALWAYS) for call in sorted(settings.allowed_calls())},
        "limits": {name: number(text) for name, text in limits.items()},
        "umask": int(settings.last("UMask"), 8),
        "namespaces": namespaces(settings, directory),
        "no_new_code": settings.says("MemoryDenyWriteExecute"),
    }


def number(text: str) -> int:
    return int(text.rstrip("KMG")) * SIZES.get(text[-1], 1)


def seccomp_library() -> ctypes.CDLL:
    try:
        return ctypes.CDLL("libseccomp.so.2")
    except OSError:
        unavailable("libseccomp.so.2 is not installed (make packages-test)")


class Refused(threading.Thread):
    """Answers calls that a filter does not let through, and counts them by name."""

    def __init__(self, descriptor: int, usual_error: int) -> None:
        super().__init__(name="refused calls", daemon=True)
        self.calls: Counter[str] = Counter()
        self._descriptor, self._usual_error = descriptor, usual_error
        self._names = seccomp_library().seccomp_syscall_resolve_num_arch
        self._names.restype = ctypes.c_char_p

    def run(self) -> None:
        """Until nobody is left under that filter."""
        waiting = select.poll()
        waiting.register(self._descriptor, select.POLLIN)
        while not waiting.poll()[0][1] & select.POLLHUP:
            with suppress(FileNotFoundError):  # who has asked is gone
                self._answer()
        os.close(self._descriptor)

    def _answer(self) -> None:
        asked = bytearray(NOTIFICATION.size)
        fcntl.ioctl(self._descriptor, RECEIVE, asked)
        identity, _, _, call, architecture, *_ = NOTIFICATION.unpack(asked)
        name = self._names(ctypes.c_uint32(architecture), call).decode()
        self.calls[name] += 1
        error = ANSWERS.get(name, self._usual_error)
        fcntl.ioctl(self._descriptor, SEND, bytearray(ANSWER.pack(identity, 0, -error, 0)))


class SandboxedProcess:
    """A context manager. Leaving it kills what still runs. `log`: of its errors, in the directory that it may write."""

    def __init__(
        self, settings: UnitSettings, command: Sequence[str | Path], log: Path, environment: Mapping[str, str] = {}
    ) -> None:
        seccomp_library()
        ours, theirs = socket.socketpair()
        words = [
            sys.executable,
            str(SCRIPT),
            json.dumps(rules(settings, log.parent)),
            str(theirs.fileno()),
            *map(str, command),
        ]
        with ours, theirs, log.open("w") as errors:
            self.process = subprocess.Popen(
                words,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                pass_fds=[theirs.fileno()],
                env={**os.environ, **environment},
                extra_groups=[int(group) for group in settings.words("SupplementaryGroups")] or None,
            )
            theirs.close()
            self.refused = self._listen(ours, log, getattr(errno, settings.last("SystemCallErrorNumber")))

    def _listen(self, ours: socket.socket, log: Path, usual_error: int) -> Refused:
        ours.settimeout(START_SECONDS)
        _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
        if not descriptors:
            self.process.wait()
            pytest.fail(f"the sandbox could not be entered: {log.read_text()}")
        refused = Refused(descriptors[0], usual_error)
        refused.start()
        return refused

    def end(self) -> Counter[str]:
        """Waits for the end of the process; what it was refused. AssertionError: its status is not 0."""
        said, _ = self.process.communicate(timeout=END_SECONDS)
        assert self.process.returncode == 0, said
        self.refused.join(END_SECONDS)
        return self.refused.calls

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.communicate()
        self.refused.join(END_SECONDS)
