"""Puts itself under what a unit imposes, and becomes the program that the unit starts. Run as a script.

usage: enter_sandbox.py RULES FD PROGRAM [ARGUMENT...]

RULES: what `unit_sandbox.rules` makes of a unit, as JSON. FD: a socket on which the descriptor goes out that tells of
refused calls.
"""

import ctypes
import json
import os
import resource
import socket
import stat
import sys
from collections.abc import Sequence
from typing import Any

PR_CAPBSET_READ, PR_CAPBSET_DROP = 23, 24
PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN = 65, 1  # since Linux 6.3; what newer systemds use besides their filter
CLONE_NEWNS, CLONE_NEWNET = 0x20000, 0x40000000
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
SYS_MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE, MOUNT_ATTR_RDONLY = 442, -100, 0x8000, 1
NOBODY = 65534  # the group that sees all processes; 0 unless it is named
DEVICES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
SCMP_ACT_NOTIFY, SCMP_ACT_ALLOW = 0x7FC00000, 0x7FFF0000
SCMP_CMP_MASKED_EQ = 7


class Comparison(ctypes.Structure):
    """struct scmp_arg_cmp."""

    _fields_ = [
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    ]


class MountAttributes(ctypes.Structure):
    """struct mount_attr."""

    _fields_ = [(name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "user_namespace")]


LIBC = ctypes.CDLL(None, use_errno=True)


def called(what: str, status: int) -> None:
    if status < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), what)


def mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    words = [None if word is None else word.encode() for word in (source, target, kind, data)]
    called(target, LIBC.mount(*words[:3], ctypes.c_ulong(flags), words[3]))


def set_read_only(target: str, yes: bool, *, recursive: bool = False) -> None:
    attributes = MountAttributes(**{"set" if yes else "clear": MOUNT_ATTR_RDONLY})
    how = AT_RECURSIVE if recursive else 0
    size = ctypes.sizeof(attributes)
    called(target, LIBC.syscall(SYS_MOUNT_SETATTR, AT_FDCWD, target.encode(), how, ctypes.byref(attributes), size))


def enter_namespaces(writable: Sequence[str], *, network: bool) -> None:
    """Only those directories can be written; few devices, no process of others is seen. `network`: it is kept."""
    called("unshare", LIBC.unshare(CLONE_NEWNS | (0 if network else CLONE_NEWNET)))
    mount(None, "/", None, MS_REC | MS_PRIVATE)
    for path in writable:
        mount(path, path, None, MS_BIND)
    set_read_only("/", True, recursive=True)
    for path in writable:
        set_read_only(path, False)
    mount("tmpfs", "/dev", "tmpfs", MS_NOSUID | MS_NOEXEC, "mode=755")
    for name, (major, minor) in DEVICES.items():
        os.mknod(f"/dev/{name}", 0o666 | stat.S_IFCHR, os.makedev(major, minor))
    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, f"hidepid=invisible,gid={NOBODY}")
    mount("/proc/sys", "/proc/sys", None, MS_BIND)
    set_read_only("/proc/sys", True)


def load_filter(calls: dict[str, Sequence[Sequence[Any]]]) -> int:
    """`calls`: for each that is allowed, alternatives, each of them masked values that arguments must have.

    What is not allowed waits for an answer on the descriptor returned.
    """
    library = ctypes.CDLL("libseccomp.so.2")
    library.seccomp_init.restype = ctypes.c_void_p
    filter_ = ctypes.c_void_p(library.seccomp_init(SCMP_ACT_NOTIFY))
    for name, alternatives in calls.items():
        number = library.seccomp_syscall_resolve_name(name.encode())
        for tests in alternatives if number >= 0 else ():  # below: of other machines, or newer than the library
            compared = [Comparison(argument, SCMP_CMP_MASKED_EQ, mask, value) for argument, mask, value in tests]
            array = (Comparison * max(len(compared), 1))(*compared)
            check(name, library.seccomp_rule_add_array(filter_, SCMP_ACT_ALLOW, number, len(compared), array))
    check("load", library.seccomp_load(filter_))  # with no_new_privs
    return int(library.seccomp_notify_fd(filter_))


def check(what: str, status: int) -> None:
    if status < 0:
        raise OSError(-status, os.strerror(-status), what)


def drop_capabilities() -> None:
    """All, also those that root would have back after exec."""
    number = 0
    while (held := LIBC.prctl(PR_CAPBSET_READ, number, 0, 0, 0)) >= 0:
        if held and os.geteuid() == 0:
            called("a capability", LIBC.prctl(PR_CAPBSET_DROP, number, 0, 0, 0))
        number += 1


def set_limits(limits: dict[str, int]) -> None:
    for name, value in limits.items():
        kind = getattr(resource, f"RLIMIT_{name}")
        most = resource.getrlimit(kind)[1]
        value = value if most == resource.RLIM_INFINITY else min(value, most)  # noqa: PLW2901
        resource.setrlimit(kind, (value, value))


def main() -> None:
    rules = json.loads(sys.argv[1])
    if rules["namespaces"] is not None:
        enter_namespaces(**rules["namespaces"])
    os.umask(rules["umask"])
    set_limits(rules["limits"])
    if rules["no_new_code"]:
        LIBC.prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0)  # an older kernel has the filter alone
    drop_capabilities()
    with socket.socket(fileno=int(sys.argv[2])) as told:
        refused = load_filter(rules["calls"])
        socket.send_fds(told, [b"!"], [refused])
        os.close(refused)
    os.execv(sys.argv[3], sys.argv[3:])


if __name__ == "__main__":
    main()
