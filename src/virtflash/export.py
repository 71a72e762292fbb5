"""A device served: where the protocol, the device, the backing and the data plane meet.

The session (vhost_user) speaks to an `Export` as its `Backend`; the export keeps the device's state (devices) and moves
the engine's objects accordingly. No other module knows both sides.
"""

import logging
from collections.abc import Sequence
from typing import Any

from virtflash.backing import Backing
from virtflash.devices.blk import RANGES_MAX, BlkDevice, BlkOptions
from virtflash.engine import QUEUE_ENTRIES_MAX, Binding, Mapping, MemoryTable, Queue, Reactor
from virtflash.engine.allowance import Allowance
from virtflash.health.policy import FREE
from virtflash.logs import LIFE_LINES, Log
from virtflash.vhost_user.backend import RefusedError, Vring
from virtflash.vhost_user.messages import MemoryRegion

GUEST_MEMORY_MAX = 1 << 40  # bytes: of 2^47 that a process can map, the old and the new tables of 64 devices

EVENT_LEVELS = {
    "sync-failed": logging.ERROR,
    "queue-broken": logging.ERROR,
    "memory-lost": logging.ERROR,
    "budget-restored": logging.INFO,
}
EVENT_TEXTS = {
    "queue-broken": "ring {queue} stopped: {detail}",
    "malformed": "ring {queue}: {count} requests refused, the last one {detail}",
    "io-error": "ring {queue}: {count} requests failed: {detail}",
    "sync-failed": "a write or a sync failed ({detail}): data may be lost, and every flush fails from now on; "
    "look at what lies below, then start the server again",
    "memory-lost": "ring {queue} stopped: {detail}",
    "kick-lost": "ring {queue}: its kick descriptor is closed or cannot be read ({detail})",
    "budget-spent": "its wear budget is spent",
    "budget-restored": "its wear budget is there again",
}


class Export:
    """One device on one backing, with its queues on the reactors given. Implements `vhost_user.backend.Backend`.

    All queues of a target are on the first of them, which owns it: no lock is needed then.
    """

    queue_size_max = QUEUE_ENTRIES_MAX

    def __init__(
        self,
        name: str,
        backing: Backing,
        options: BlkOptions,
        reactors: Sequence[Reactor],
        allowance: Allowance | None = None,
        *,
        critical: bool = False,
    ) -> None:
        self.name = name
        self.backing = backing
        self.log = Log(name)
        self.device = BlkDevice(backing, options)
        if backing.target is not None:
            reactors = reactors[:1]
        self.binding = make_binding(backing, options.serial, allowance, critical=critical)
        if allowance is not None:
            allowance.owner = reactors[0].run
        self.binding.write_through = True  # until a driver has said what it can
        self.queues = [Queue(reactors[i % len(reactors)], self.binding, i) for i in range(options.queues)]
        self.verdict = FREE  # what the platform lets it do
        self._mappings: dict[MemoryRegion, Mapping] = {}
        self._table = MemoryTable([])
        self._features = 0
        self._seen: set[int] = set()  # rings that this front end has started before

    @property
    def features(self) -> int:
        return self.device.features

    @property
    def queue_count(self) -> int:
        return len(self.queues)

    def close(self) -> None:
        """All queues are stopped by now, and the reactors have ended."""
        try:
            self.backing.close()
        except OSError as error:
            self.log.error("what was written could not be kept: %s", error)

    # The driver

    def negotiate(self, features: int, *, reply_ack: bool) -> None:
        self._features = features
        self.device.negotiate(features, reply_ack=reply_ack)
        self.binding.negotiate(features)
        self._adopt_mode()
        self.log.debug("features %#x negotiated", features)

    def reset(self) -> None:
        """Nothing is flushed: a driver that is gone counts on nothing, and the next shall not wait for a slow disk."""
        self._features = 0
        self.device.reset()
        self.binding.negotiate(0)
        self.binding.write_through = self.device.write_through

    def read_config(self) -> bytes:
        return self.device.read_config()

    def write_config(self, offset: int, data: bytes) -> None:
        """Returns when every reactor has adopted the mode, and what was volatile is stable if it has to be."""
        self.device.write_config(offset, data)
        self._adopt_mode()
        self._tell("cache mode", f"cache mode set by the driver: write-{self._mode()}")

    def _mode(self) -> str:
        return "through" if self.binding.write_through else "back"

    def _tell(self, what: str, text: str, *, level: int = logging.INFO, **extra: object) -> None:
        """Log what a guest or its front end can make happen without end."""
        extra.setdefault("event", {"kind": what})
        self.log.limited(what, text, level=level, burst=LIFE_LINES, extra=extra)

    def _adopt_mode(self) -> None:
        """Make the engine's mode the device's. From write-back to write-through, what has completed is flushed too."""
        stronger = self.device.write_through and not self.binding.write_through
        if self.device.write_through != self.binding.write_through:
            self.binding.write_through = self.device.write_through
        if stronger:
            try:
                self.binding.sync()
            except OSError as error:
                self.log.limited(
                    "sync", f"the flush that write-through begins with failed: {error}", level=logging.ERROR
                )

    # Guest memory

    def set_memory(self, regions: Sequence[tuple[MemoryRegion, int | None]]) -> None:
        """Map what is new, build the table, and let every running queue adopt it, or none."""
        check_memory_size(sum(region.size for region, _ in regions))
        mappings = {region: self._mapping(region, fd) for region, fd in regions}
        if len(mappings) != len(regions):
            raise RefusedError("a region of guest memory is named twice")
        table = MemoryTable(list(mappings.values()))
        self._adopt_memory(table)
        self._mappings, self._table = mappings, table

    def _mapping(self, region: MemoryRegion, fd: int | None) -> Mapping:
        if fd is None:
            return self._mappings[region]
        return Mapping(
            fd,
            guest_address=region.guest_address,
            size=region.size,
            user_address=region.user_address,
            offset=region.offset,
        )

    def _adopt_memory(self, table: MemoryTable) -> None:
        adopted: list[Queue] = []
        try:
            for queue in self.queues:
                if queue.running:
                    queue.set_memory(table)
                    adopted.append(queue)
        except ValueError:
            for queue in adopted:
                queue.set_memory(self._table)
            raise

    # Queues

    def start_queue(self, index: int, vring: Vring) -> None:
        self._look_at_history(index, vring.base)
        self.queues[index].start(
            self._table,
            size=vring.size,
            descriptors=vring.descriptors,
            available=vring.available,
            used=vring.used,
            base=vring.base,
            features=self._features,
            kick=-1 if vring.kick is None else vring.kick,
            call=-1 if vring.call is None else vring.call,
            error=-1 if vring.error is None else vring.error,
        )
        self._tell("ring started", f"ring {index} started: {vring.size} entries, write-{self._mode()}")

    def _look_at_history(self, index: int, base: int) -> None:
        """A ring that begins in its middle was served by somebody else before: a server that ended, another host."""
        if base and index not in self._seen:
            self.device.resume()
            self._adopt_mode()
            self._tell(
                "resumed",
                f"ring {index} goes on at {base}; where its driver can choose a cache mode, "
                "write-through holds until it does",
            )
        self._seen.add(index)

    def stop_queue(self, index: int) -> int:
        base = self.queues[index].stop()
        self.log.debug("ring %d stopped at index %d", index, base)
        return base

    def set_call(self, index: int, fd: int | None) -> None:
        self.queues[index].set_call(-1 if fd is None else fd)

    def set_error(self, index: int, fd: int | None) -> None:
        self.queues[index].set_error(-1 if fd is None else fd)

    # The operator

    def grown(self) -> bool:
        """Look at the size of what lies below; True: the device has grown, and its driver should be told."""
        capacity = self.backing.current_capacity()
        if capacity < self.device.capacity_sectors:
            self.log.warning("what lies below has shrunk to %d sectors; the device keeps its size", capacity)
        if capacity <= self.device.capacity_sectors:
            return False
        self.log.info("grown from %d to %d sectors", self.device.capacity_sectors, capacity)
        self.binding.capacity_sectors = capacity
        self.device.grow(capacity)
        return True

    def report(self) -> None:
        """Log what the data plane has to say: a line for each kind, however often it happened."""
        for event in self.binding.take_events():
            text = EVENT_TEXTS[event["kind"]].format(**event)
            self._tell(event["kind"], text, level=EVENT_LEVELS.get(event["kind"], logging.WARNING), event=event)

    def front_end_left(self, seconds: float) -> None:
        self.device.front_end_left()
        self._seen.clear()
        self._tell("left", f"front end left after {seconds:.1f} s; {summary(self.statistics())}")

    def statistics(self) -> dict[str, Any]:
        """Counters of all queues, as JSON can say them."""
        told: dict[str, Any] = {
            "name": self.name,
            "backing": self.backing.description,
            "capacity_sectors": self.device.capacity_sectors,
            "write_through": self.binding.write_through,
            "sync_failed": self.binding.sync_failed,
            "queues": [queue_statistics(queue) for queue in self.queues],
        }
        if self.backing.flash is not None:
            told["flash"] = self.backing.flash.statistics()
        return told


def check_memory_size(size: int) -> None:
    """Bytes. A memory file may be as large as its owner says and hold nothing: all it costs is address space, which is
    there once for all devices."""
    if size > GUEST_MEMORY_MAX:
        raise RefusedError(f"guest memory of {size:#x} bytes: at most {GUEST_MEMORY_MAX:#x} can be served")


def make_binding(
    backing: Backing, serial: bytes, allowance: Allowance | None = None, *, critical: bool = False
) -> Binding:
    return Binding(
        backing.fd,
        backing.capacity_sectors,
        fd_unaligned=backing.fd_unaligned,
        block_device=backing.block_device,
        read_only=backing.read_only,
        in_memory=backing.in_memory,
        memory_alignment=backing.memory_alignment,
        offset_alignment=backing.offset_alignment,
        serial=serial,
        discard=backing.max_discard_sectors > 0,
        write_zeroes=backing.max_write_zeroes_sectors > 0,
        zero_range=backing.zero_range,
        secure_erase=backing.max_secure_erase_sectors > 0,
        max_segments=RANGES_MAX,
        max_discard_sectors=backing.max_discard_sectors,
        max_write_zeroes_sectors=backing.max_write_zeroes_sectors,
        max_secure_erase_sectors=backing.max_secure_erase_sectors,
        secure_erase_alignment_sectors=backing.secure_erase_alignment_sectors,
        life_time_fd=backing.life_time_fd,
        pre_eol_fd=backing.pre_eol_fd,
        target=backing.target,
        lifetime=backing.lifetime,
        allowance=allowance,
        critical=critical,
    )


def queue_statistics(queue: Queue) -> dict[str, Any]:
    """Counters; of the latencies only how many were in each bucket, as all have the same bounds."""
    counted: dict[str, Any] = dict(queue.statistics())
    counted["latency"] = {kind: histogram["counts"] for kind, histogram in counted["latency"].items()}
    return counted


def summary(statistics: dict[str, Any]) -> str:
    """What was served since the start, in a few words."""
    queues = statistics["queues"]
    requests = sum(count for queue in queues for count in queue["requests"].values())
    read, written = (sum(queue[key] for queue in queues) for key in ("bytes_read", "bytes_written"))
    errors = sum(queue["errors"] for queue in queues)
    return f"since the start: {requests} requests, {read >> 10} KiB read, {written >> 10} KiB written, {errors} errors"
