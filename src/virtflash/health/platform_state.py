"""The states in which a volume can be, and what passes in each: the whole of what the gate knows.

The table is applied to the data plane as it stands here, written out in docs/health.md, and tested request by request.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

Word = Literal["normal", "durable", "throttled", "read-only", "offline"]


class PlatformState(IntEnum):
    """From free to closed: of several that hold at once, the greatest is in force."""

    NORMAL = 0
    DURABLE = 1  # the supply may fail soon
    THROTTLED = 2  # it is getting hot
    READ_ONLY = 3  # it may not be written any more
    OFFLINE = 4  # it may not be used

    @property
    def word(self) -> Word:
        """As configurations and reports write it."""
        return WORDS[self]

    @classmethod
    def of(cls, word: str) -> "PlatformState":
        """KeyError: there is none of that name."""
        return cls[word.upper().replace("-", "_")]


WORDS: dict[PlatformState, Word] = {
    PlatformState.NORMAL: "normal",
    PlatformState.DURABLE: "durable",
    PlatformState.THROTTLED: "throttled",
    PlatformState.READ_ONLY: "read-only",
    PlatformState.OFFLINE: "offline",
}


CHANGES = frozenset({"write", "discard", "write_zeroes", "secure_erase"})  # requests that change the medium


@dataclass(frozen=True)
class Permission:
    """`refused`: requests that are answered with IOERR. `durable`: a write is stable when it completes, whatever was
    negotiated. `limited`: writes and trims have a rate. `background`: the flash may collect, level and refresh for its
    own sake; where it may not, it does only what a request cannot do without."""

    refused: frozenset[str] = frozenset()
    durable: bool = False
    limited: bool = False
    background: bool = True


PERMISSIONS = {
    PlatformState.NORMAL: Permission(),
    PlatformState.DURABLE: Permission(durable=True, background=False),
    PlatformState.THROTTLED: Permission(limited=True, background=False),
    PlatformState.READ_ONLY: Permission(refused=CHANGES, background=False),
    PlatformState.OFFLINE: Permission(refused=CHANGES | {"read"}, background=False),
}


def manual() -> list[str]:
    """The table as docs/health.md has it, line by line."""
    head = [
        "| state | guest's writes | trims and erases | the flash for its own sake | reads | flushes |",
        "|---" * 6 + "|",
    ]
    return head + [
        f"| `{state.word}` | {' | '.join(in_words(permission))} |" for state, permission in PERMISSIONS.items()
    ]


def in_words(permission: Permission) -> tuple[str, str, str, str, str]:
    limited = ", at a limited rate" if permission.limited else ""
    writes = "stable when they complete, whatever was negotiated" if permission.durable else f"as negotiated{limited}"
    return (
        "IOERR" if "write" in permission.refused else writes,
        "IOERR" if "discard" in permission.refused else f"yes{limited}",
        "collects, levels and refreshes" if permission.background else "only what a request cannot do without",
        "IOERR" if "read" in permission.refused else "yes",
        "IOERR" if "flush" in permission.refused else "yes",
    )
