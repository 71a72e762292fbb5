"""Fuzz the data plane for a while: `python tests/fuzz/run.py --seconds 60`, in a tree with sanitizers (`make fuzz`).

Half of the time goes to the parser alone (millions of chains), half to a running reactor that serves a hostile driver.
A sanitizer's finding or a broken promise ends the run with a non-zero status.
"""

import argparse
import ctypes
import mmap
import os
import sys
import tempfile
import time

import driver_fuzz
import parser_fuzz

from virtflash.engine import Binding, Mapping, MemoryTable, Queue, Reactor

GUEST_BASE, USER_BASE = 0x100000, 0x7F0000000000
MEMORY_BYTES = 1 << 20
ENTRIES = 128
DESCRIPTORS, AVAILABLE, USED = 0, 0x2000, 0x3000


def fuzz_parser(seconds: float, seed: int) -> tuple[int, int, int]:
    totals = [0, 0, 0]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        totals = [total + fresh for total, fresh in zip(totals, parser_fuzz.run(seed, 5000), strict=True)]
        seed += 1
    return totals[0], totals[1], totals[2]


def make_table(fd: int) -> MemoryTable:
    """The same file as four regions that touch, so that buffers cross from one to the next."""
    quarter = MEMORY_BYTES // 4
    return MemoryTable(
        [
            Mapping(
                fd,
                guest_address=GUEST_BASE + part * quarter,
                size=quarter,
                user_address=USER_BASE + part * quarter,
                offset=part * quarter,
            )
            for part in range(4)
        ]
    )


def start(queue: Queue, table: MemoryTable, kick: int, base: int) -> None:
    queue.start(
        table,
        size=ENTRIES,
        descriptors=USER_BASE + DESCRIPTORS,
        available=USER_BASE + AVAILABLE,
        used=USER_BASE + USED,
        base=base,
        features=1 << 29,
        kick=kick,
    )


def fuzz_reactor(seconds: float, seed: int, io: str) -> tuple[int, int]:
    """Returns the heads made available, and how often the queue was found broken and started again."""
    memory_fd = os.memfd_create("guest")
    os.ftruncate(memory_fd, MEMORY_BYTES)
    memory = mmap.mmap(memory_fd, MEMORY_BYTES)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    kick = os.eventfd(0)
    made = restarts = 0
    with tempfile.TemporaryFile() as image:
        image.truncate(2048 * 512)
        limits = {"max_discard_sectors": 4096, "max_write_zeroes_sectors": 4096, "max_segments": 16}
        binding = Binding(image.fileno(), 2048, discard=True, write_zeroes=True, zero_range=True, **limits)
        binding.negotiate(~0 & 0xFFFFFFFF)
        reactor = Reactor("fuzz", io=io)
        queue = Queue(reactor, binding, 0)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            memory[AVAILABLE : AVAILABLE + 4] = memory[USED : USED + 4] = bytes(4)
            start(queue, make_table(memory_fd), kick, 0)
            made += driver_fuzz.attack(
                address, MEMORY_BYTES, GUEST_BASE, DESCRIPTORS, AVAILABLE, USED, ENTRIES, kick, seed, 200
            )
            queue.set_memory(make_table(memory_fd))
            restarts += queue.broken
            queue.stop()
            binding.take_events()
            seed += 1
        assert queue.statistics()["in_flight"] == 0
        reactor.close()
    return made, restarts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    print(f"fuzzing for {options.seconds:.0f} s, seed {options.seed}", flush=True)
    parses, accepted, refused = fuzz_parser(options.seconds / 2, options.seed)
    print(f"parser: {parses} chains, {accepted} accepted for I/O, {refused} without a place for an answer", flush=True)
    for io in ("io_uring", "threads"):
        made, restarts = fuzz_reactor(options.seconds / 4, options.seed, io)
        print(f"reactor ({io}): {made} heads, queue broken and started again {restarts} times", flush=True)
    print("clean")
    return 0


if __name__ == "__main__":
    sys.exit(main())
