"""Puts itself under what a unit imposes, and becomes the program that the unit starts. Run as a script.

usage: enter_sandbox.py RULES FD PROGRAM [ARGUMENT...]

RULES: a `Rules` of unit_sandbox as JSON. FD: a socket on which the descriptor goes out that tells of refused calls.
"""

import ctypes
import json
import os
import resource
import socket
import sys
from collections.abc import Sequence
from typing import Any

PR_CAPBSET_READ, PR_CAPBSET_DROP = 23, 24
SCMP_ACT_NOTIFY, SCMP_ACT_ALLOW = 0x7FC00000, 0x7FFF0000
SCMP_CMP_EQ, SCMP_CMP_MASKED_EQ = 4, 7
UNKNOWN_CALL = -1  # to libseccomp; others below zero are calls of other machines


class Comparison(ctypes.Structure):
    """struct scmp_arg_cmp."""

    _fields_ = [
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    ]


def load_filter(calls: dict[str, Sequence[Sequence[Any]]]) -> int:
    """`calls`: for each that is allowed, alternatives, each of them masked values that arguments must have.

    What is not allowed waits for an answer on the descriptor returned.
    """
    library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    library.seccomp_init.restype = ctypes.c_void_p
    filter_ = ctypes.c_void_p(library.seccomp_init(SCMP_ACT_NOTIFY))
    for name, alternatives in calls.items():
        number = library.seccomp_syscall_resolve_name(name.encode())
        for tests in alternatives if number >= 0 else ():
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
    library = ctypes.CDLL(None, use_errno=True)
    number = 0
    while (held := library.prctl(PR_CAPBSET_READ, number, 0, 0, 0)) >= 0:
        if held and os.geteuid() == 0 and library.prctl(PR_CAPBSET_DROP, number, 0, 0, 0) < 0:
            raise OSError(ctypes.get_errno(), "a capability cannot be dropped")
        number += 1


def set_limits(limits: dict[str, int]) -> None:
    for name, value in limits.items():
        kind = getattr(resource, f"RLIMIT_{name}")
        most = resource.getrlimit(kind)[1]
        value = value if most == resource.RLIM_INFINITY else min(value, most)  # noqa: PLW2901
        resource.setrlimit(kind, (value, value))


def main() -> None:
    rules = json.loads(sys.argv[1])
    os.umask(rules["umask"])
    set_limits(rules["limits"])
    drop_capabilities()
    with socket.socket(fileno=int(sys.argv[2])) as told:
        refused = load_filter(rules["calls"])
        socket.send_fds(told, [b"!"], [refused])
        os.close(refused)
    os.execv(sys.argv[3], sys.argv[3:])


if __name__ == "__main__":
    main()
