"""What a session drives: the device and its queues, as far as the protocol knows of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from virtflash.vhost_user.messages import MemoryRegion


class RefusedError(Exception):
    """A message cannot be obeyed; one line that says why. The front end is told, if it asked to be."""


@dataclass
class Vring:
    """What a front end has said of one ring. Addresses are the front end's own; descriptors are owned."""

    size: int = 0
    descriptors: int = 0
    available: int = 0
    used: int = 0
    base: int = 0  # index of the next available entry
    kick: int | None = None
    call: int | None = None
    error: int | None = None
    enabled: bool = False
    running: bool = False


class Backend(Protocol):
    """Implemented by `virtflash.export.Export`. Every method may raise RefusedError, ValueError or OSError: refused.

    Descriptors that are passed stay the caller's, which may close them as soon as the call returns.
    """

    @property
    def features(self) -> int:
        """Offered; without VHOST_USER_PROTOCOL, which the session adds."""

    @property
    def queue_count(self) -> int: ...

    @property
    def queue_size_max(self) -> int:
        """Entries."""

    def negotiate(self, features: int, *, reply_ack: bool) -> None:
        """The driver's features, and whether the front end waits for answers. Called again when either changes."""

    def read_config(self) -> bytes:
        """The whole configuration space."""

    def write_config(self, offset: int, data: bytes) -> None:
        """Returns when the new value is in force."""

    def set_memory(self, regions: Sequence[tuple[MemoryRegion, int | None]]) -> None:
        """All of guest memory from now on; a region without a descriptor is one that is there already."""

    def start_queue(self, index: int, vring: Vring) -> None: ...

    def stop_queue(self, index: int) -> int:
        """Returns when nothing of the queue is in flight, with the index of the next available entry."""

    def set_call(self, index: int, fd: int | None) -> None: ...

    def set_error(self, index: int, fd: int | None) -> None: ...

    def reset(self) -> None:
        """Forget the driver; all queues are stopped. Guest memory stays."""
