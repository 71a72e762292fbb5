"""Fuzz the data plane for a while: `python tests/fuzz/run.py --seconds 60`, in a tree with sanitizers (`make fuzz`).

Half of the time goes to the parser alone (millions of chains), half to running reactors that serve a hostile driver,
in episodes: each with a ring, memory and volume of its own, while the control plane stops and starts it, replaces its
memory, truncates it, changes modes and makes the storage fail. Beside it a well-behaved queue on the same reactor has
to be served right. A sanitizer's finding or a broken promise ends the run with a non-zero status.
"""

import argparse
import ctypes
import errno
import mmap
import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import driver_fuzz
import parser_fuzz

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "engine"))
from hand_made_ring import eventually
from served_ring import OK, PATHS, ServedRing, make_disk, sector_bytes

from virtflash.engine import Binding, Mapping, MemoryTable, Queue, Reactor

USER = 0x7F0000000000
MEMORY_BYTES = 1 << 20
DESCRIPTORS, AVAILABLE, USED, TABLES, PAYLOAD = 0, 0x5000, 0x6000, 0x9000, 0x29000  # behind the start of the regions
SECTORS = 2048
EPISODE_SECONDS = 0.15
EVENT_IDX, INDIRECT, ALL_TYPES = 1 << 29, 1 << 28, 0x1E000


def fuzz_parser(seconds: float, seed: int) -> tuple[int, int, int]:
    totals = [0, 0, 0]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        totals = [total + fresh for total, fresh in zip(totals, parser_fuzz.run(seed, 2000), strict=True)]
        seed += 1
    return totals[0], totals[1], totals[2]


def make_places(choose: random.Random, start: int) -> list[tuple[int, int, int]]:
    """Regions (guest address, bytes, offset in the file) that begin at `start`: the first holds the ring; the others
    touch, leave holes for the guest or in the file, and lie in any order."""
    edges = sorted(
        {PAYLOAD + 0x8000, MEMORY_BYTES, *(choose.randrange(PAYLOAD + 0x8000, MEMORY_BYTES) for _ in range(6))}
    )
    edges = [0, *edges[: choose.randrange(1, len(edges))], MEMORY_BYTES]
    places, guest = [], choose.choice([0, 0x1000, 1 << 32, 2**64 - 16 * MEMORY_BYTES])
    for first, last in pairwise(edges):
        if first == 0 or choose.random() < 0.9:
            places.append((guest, last - first, start + first))
        guest += last - first + choose.choice([0, 0, 0, 1, 4096, MEMORY_BYTES])
    return places


@dataclass
class Guest:
    """Memory and ring of one episode."""

    choose: random.Random
    start: int = 0  # of the regions in their file
    places: list[tuple[int, int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.start = 16 * self.choose.choice([0, 0, 1, 3, 256, 300])
        self.places = make_places(self.choose, self.start)
        self.entries = 1 << self.choose.choice([0, 1, 3, 4, 5, 6, 7, 8, 10])
        self.features = ALL_TYPES | self.choose.choice([0, EVENT_IDX]) | self.choose.choice([0, INDIRECT, INDIRECT])
        self.base = self.choose.choice([0, 1, 65000, 65535])
        self.fd = os.memfd_create("guest")
        os.ftruncate(self.fd, self.start + MEMORY_BYTES)
        self.memory = mmap.mmap(self.fd, self.start + MEMORY_BYTES)
        for part in (AVAILABLE, USED):
            self.memory[self.start + part + 2 : self.start + part + 4] = self.base.to_bytes(2, "little")
        self.kick, self.call = os.eventfd(0), os.eventfd(0, os.EFD_NONBLOCK)

    def close(self) -> None:
        for fd in (self.fd, self.kick, self.call):
            os.close(fd)

    def table(self) -> MemoryTable:
        return MemoryTable(
            [
                Mapping(self.fd, guest_address=guest, size=size, user_address=USER + offset, offset=offset)
                for guest, size, offset in self.places
            ]
        )

    def driver(self, seed: int) -> driver_fuzz.Driver:
        parts = [self.start + part for part in (DESCRIPTORS, AVAILABLE, USED, TABLES, PAYLOAD)]
        return driver_fuzz.Driver(
            ctypes.addressof(ctypes.c_char.from_buffer(self.memory)),
            self.start + MEMORY_BYTES,
            self.places,
            *parts,
            entries=self.entries,
            sectors=SECTORS,
            indirect=bool(self.features & INDIRECT),
            base=self.base,
            kick=self.kick,
            seed=seed,
            wrong=self.choose.choice([300, 3000, 30000, 1 << 30]),
        )

    def serve(self, queue: Queue, base: int) -> None:
        user = USER + self.start
        queue.start(
            self.table(),
            size=self.entries,
            descriptors=user + DESCRIPTORS,
            available=user + AVAILABLE,
            used=user + USED,
            base=base,
            features=self.features,
            kick=self.kick,
            call=self.call,
        )


def make_binding(choose: random.Random, image: int) -> Binding:
    """A volume of any kind: a file, memory, nothing, read-only, or one whose transfers are bounced."""
    ranges = {"discard": True, "write_zeroes": True, "max_discard_sectors": 4096, "max_write_zeroes_sectors": 4096}
    bounced = {"fd_unaligned": image, "memory_alignment": 512, "offset_alignment": choose.choice([512, 2048])}
    kinds = [{}, {}, {"in_memory": True}, {"read_only": True}, bounced, bounced, {"null": True}]
    kind = dict(choose.choice(kinds))
    fd = -1 if kind.pop("null", False) else image
    options = ranges | {"max_segments": choose.randrange(1, 17), "zero_range": choose.random() < 0.5} | kind
    return Binding(fd, SECTORS, **options)


@dataclass
class Episode:
    """One guest attacked by its own driver, with the control plane at work."""

    choose: random.Random
    guest: Guest
    binding: Binding
    queue: Queue
    driver: driver_fuzz.Driver
    counts: Counter[str]

    def restart(self) -> None:
        self.queue.stop()
        self.guest.serve(self.queue, self.driver.index)

    def replace_memory(self) -> None:
        self.queue.set_memory(self.guest.table())

    def truncate(self) -> None:
        """Nothing of it has to work any more; the reactor only has to survive."""
        size = self.choose.randrange(self.guest.start + MEMORY_BYTES)
        os.ftruncate(self.guest.fd, size)
        os.eventfd_write(self.guest.kick, 1)

    def change_mode(self) -> None:
        self.binding.write_through = self.choose.random() < 0.5

    def fail(self) -> None:
        kind = self.choose.choice(["read", "write", "sync", "discard"])
        self.binding.inject_fault(kind, self.choose.choice([0, 0, 0, 0, errno.EIO, errno.ENOSPC, errno.EAGAIN]))

    def sync(self) -> None:
        with suppress(OSError):
            self.binding.sync()

    def change_call(self) -> None:
        self.queue.set_call(self.choose.choice([-1, self.guest.call]))

    def act(self) -> bool:
        """One thing that a front end or an operator may do. False: it was the last one."""
        actions = [self.restart, self.replace_memory, self.change_mode, self.fail, self.sync, self.change_call]
        if self.queue.broken:
            self.counts["broken"] += 1
            self.restart()
        elif self.choose.random() < 0.001:
            self.counts["truncated"] += 1
            self.truncate()
            return False
        elif self.choose.random() < 0.1:
            action = self.choose.choice(actions)
            self.counts[action.__name__] += 1
            action()
        return True

    def play(self, quiet: ServedRing) -> None:
        self.binding.negotiate(self.guest.features)
        self.guest.serve(self.queue, self.guest.base)
        player = threading.Thread(target=lambda: self.counts.update(heads=self.driver.play()))
        player.start()
        end = time.monotonic() + EPISODE_SECONDS
        sector = 0
        while time.monotonic() < end and self.act():
            sector = (sector + 1) % SECTORS
            assert quiet.read(sector) == (OK, 513, sector_bytes(sector)), "another queue was not served right"
            quiet.memory.next_free = quiet.memory.regions[0].guest + (1 << 16)
        self.driver.end()
        player.join()
        self.queue.stop()
        self.binding.take_events()
        statistics = self.queue.statistics()
        assert statistics["in_flight"] == 0
        self.counts.update(statistics["requests"])
        self.counts.update({key: statistics[key] for key in ("errors", "unsupported", "malformed")})


@contextmanager
def quiet_ring(reactor: Reactor, directory: Path) -> Iterator[ServedRing]:
    disk = make_disk(directory / "quiet", SECTORS)
    served = ServedRing(reactor, Binding(disk, SECTORS))
    yield served
    served.close()
    os.close(disk)


def fuzz_reactor(seconds: float, seed: int, io: str) -> Counter[str]:
    """What happened, by name."""
    counts: Counter[str] = Counter()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        on_disk, in_memory = make_disk(directory / "attacked", SECTORS), os.memfd_create("attacked")
        os.ftruncate(in_memory, SECTORS * 512)
        reactor = Reactor("fuzz", io=io)
        quiet = stack.enter_context(quiet_ring(reactor, directory))
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            seed += 1
            choose = random.Random(seed)
            guest = Guest(choose)
            binding = make_binding(choose, choose.choice([on_disk, in_memory, in_memory]))
            episode = Episode(choose, guest, binding, Queue(reactor, binding, 1), guest.driver(seed), counts)
            episode.play(quiet)
            guest.close()
            counts["episodes"] += 1
        eventually(lambda: quiet.statistics()["in_flight"] == 0, "the quiet queue is idle")
    reactor.close()
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    print(f"fuzzing for {options.seconds:.0f} s, seed {options.seed}", flush=True)
    parses, accepted, refused = fuzz_parser(options.seconds / 2, options.seed)
    print(f"parser: {parses} chains, {accepted} accepted for I/O, {refused} without a place for an answer", flush=True)
    for io in PATHS:
        counts = fuzz_reactor(options.seconds / 2 / len(PATHS), options.seed, io)
        print(f"reactor ({io}): " + ", ".join(f"{name} {counts[name]}" for name in sorted(counts)), flush=True)
    print("clean")
    return 0


if __name__ == "__main__":
    sys.exit(main())
