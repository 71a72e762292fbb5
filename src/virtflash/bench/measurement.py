"""One measurement: a workload against a running server, and the figures that come of it."""

import bisect
import os
import socket
import statistics
import struct
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from virtflash.bench.load import Load, bucket_bounds
from virtflash.bench.load_queue import CHAIN_DESCRIPTORS, QUEUE_SIZE_MAX, LoadQueue, memory_bytes, queue_size
from virtflash.bench.workload import Workload, size_text
from virtflash.driver.blk import BlkDriver
from virtflash.driver.errors import FrontEndError
from virtflash.driver.front_end import FrontEnd
from virtflash.driver.guest_memory import GuestMemory
from virtflash.virtio.blk import SECTOR_BYTES, BlkFeature
from virtflash.virtio.ring_features import RingFeature

PROGRESS_SECONDS = 0.1
MEMORY_LIMIT = 4 << 30
GUEST_ADDRESS = 1 << 20

Progress = Callable[[float, int], None]  # share of the measurement that is done (0 to 1), requests so far


@dataclass(frozen=True)
class Settings:
    """How to measure, whatever the workload. `spin_ns`: how long a queue's thread looks before it sleeps; -1: for ever.

    `indirect` None: only where direct chains would not fit into the ring. `verify`: fill the device with stamps first,
    and check what is read.
    """

    seconds: float = 3.0
    spin_ns: int = 0
    indirect: bool | None = None
    verify: bool = False


@dataclass(frozen=True)
class Measurement:
    """`requests` succeeded in `seconds`; `counts` is their latency, as `bucket_bounds` says. `served` are those and
    what succeeded after the end; with what `failed` or was `mismatched` beside them, the server took `cpu_seconds`.
    """

    workload: Workload
    seconds: float
    requests: int
    served: int
    failed: int
    mismatched: int
    kicks: int
    interrupts: int
    counts: tuple[int, ...]
    cpu_seconds: float | None = None

    @property
    def iops(self) -> float:
        return self.requests / self.seconds

    @property
    def bytes_per_second(self) -> float:
        return self.iops * self.workload.block_bytes

    @property
    def wrong(self) -> int:
        """Requests that failed or gave the wrong data."""
        return self.failed + self.mismatched

    @property
    def cpu_per_million(self) -> float | None:
        """CPU seconds of the server for a million requests (microseconds for one).

        None: the server is out of sight, or part of its time went into requests that failed.
        """
        if self.cpu_seconds is None or not self.served or self.wrong:
            return None
        return self.cpu_seconds / self.served * 1e6

    def latency_us(self, percent: float) -> float | None:
        """Microseconds within which `percent` of the requests completed; between the bounds of a bucket, a line.

        None: no request succeeded.
        """
        if not self.requests:
            return None
        bounds = [0, *bucket_bounds()]
        sums = [0, *accumulate(self.counts)]
        wanted = sums[-1] * percent / 100
        after = bisect.bisect_left(sums, wanted, lo=1, hi=len(sums) - 1)
        share = (wanted - sums[after - 1]) / max(1, self.counts[after - 1])
        return (bounds[after - 1] + share * (bounds[after] - bounds[after - 1])) / 1000

    def to_json(self) -> dict[str, object]:
        return {
            "seconds": self.seconds,
            "requests": self.requests,
            "failed": self.failed,
            "mismatched": self.mismatched,
            "iops": round(self.iops, 1),
            "bytes_per_second": round(self.bytes_per_second),
            "latency_us": {f"p{percent:g}": self._rounded_latency(percent) for percent in (50, 90, 99, 99.9, 100)},
            "cpu_seconds_per_million": self.cpu_per_million,
            "kicks": self.kicks,
            "interrupts": self.interrupts,
        }

    def _rounded_latency(self, percent: float) -> float | None:
        latency = self.latency_us(percent)
        return None if latency is None else round(latency, 2)


def measure(
    server: str | os.PathLike[str] | FrontEnd, workload: Workload, settings: Settings, progress: Progress | None = None
) -> Measurement:
    """Connect to the server (or take over the connection), run the workload, and leave.

    FrontEndError: the server cannot be used, or not with this workload.
    """
    front_end = server if isinstance(server, FrontEnd) else FrontEnd(server)
    with front_end, GuestMemory((GUEST_ADDRESS, _memory_bytes(workload))) as memory:
        driver = BlkDriver(front_end, queues=workload.queues, memory=memory, start=False)
        with driver:
            driver.negotiate()
            check_device(driver, workload)
            queues = _start(driver, workload, settings)
            return _run(driver, queues, workload, settings, progress or (lambda _share, _requests: None))


def _memory_bytes(workload: Workload) -> int:
    needed = memory_bytes(workload)
    if needed > MEMORY_LIMIT:
        raise FrontEndError(f"{workload}: needs {needed >> 20} MiB of memory; the limit is {MEMORY_LIMIT >> 20} MiB")
    return needed


def check_device(driver: BlkDriver, workload: Workload) -> None:
    """FrontEndError: the device is not for this workload."""
    config, features = driver.config, driver.front_end.features
    there = config.num_queues if features & BlkFeature.MQ else 1
    if workload.queues > there:
        raise FrontEndError(f"{workload}: the device has {there} queue{'s' if there > 1 else ''}")
    if workload.writes and features & BlkFeature.RO:
        raise FrontEndError(f"{workload}: the device is read-only")
    if workload.block_bytes % SECTOR_BYTES or not workload.block_bytes:
        raise FrontEndError(f"{workload}: a block is not a multiple of {SECTOR_BYTES} bytes")
    if workload.block_bytes > config.capacity * SECTOR_BYTES:
        raise FrontEndError(f"{workload}: the device has only {size_text(config.capacity * SECTOR_BYTES)}")
    # QEMU's daemon offers SIZE_MAX and leaves the field at 0, which can only mean that there is none.
    if features & BlkFeature.SIZE_MAX and 0 < config.size_max < workload.block_bytes:
        raise FrontEndError(f"{workload}: the device takes at most {size_text(config.size_max)} in one buffer")


def _start(driver: BlkDriver, workload: Workload, settings: Settings) -> list[LoadQueue]:
    # Some servers are much slower with them; none shall look worse than it is.
    needed = workload.depth * CHAIN_DESCRIPTORS > QUEUE_SIZE_MAX
    indirect = needed if settings.indirect is None else settings.indirect
    if indirect and not driver.front_end.features & RingFeature.INDIRECT_DESC:
        raise FrontEndError(f"{workload}: the device offers no indirect descriptors")
    try:
        driver.queue_size = queue_size(workload, indirect=indirect)
    except ValueError as error:
        raise FrontEndError(f"{workload}: {error}") from None
    driver.share_memory()
    driver.make_queues()
    queues = [LoadQueue(queue, workload, indirect=indirect) for queue in driver.queues]
    driver.start_queues()
    return queues


def _run(
    driver: BlkDriver, queues: list[LoadQueue], workload: Workload, settings: Settings, progress: Progress
) -> Measurement:
    blocks = driver.capacity * SECTOR_BYTES // workload.block_bytes
    if settings.verify:
        _fill(queues, blocks, progress)
    loads = [queue.load(0, blocks, verify=settings.verify, spin_ns=settings.spin_ns) for queue in queues]
    server = server_process(driver.front_end)
    before = cpu_seconds(server)
    run_loads(loads, settings.seconds, lambda seconds, done: progress(min(1.0, seconds / settings.seconds), done))
    after = cpu_seconds(server)
    used = None if before is None or after is None else after - before
    return _figures(workload, settings.seconds, loads, used)


def _fill(queues: list[LoadQueue], blocks: int, progress: Progress) -> None:
    """Stamp every block of the device, each queue its share."""
    borders = [blocks * i // len(queues) for i in range(len(queues) + 1)]
    loads = [
        queue.load(first, after - first, fill=True)
        for queue, first, after in zip(queues, borders[:-1], borders[1:], strict=True)
    ]
    run_loads(loads, 0, lambda _seconds, done: progress(done / blocks, done))
    failed = sum(load.failed for load in loads)
    if failed:
        raise FrontEndError(f"{failed} of {blocks} writes failed while the device was filled")


def run_loads(loads: Sequence[Load], seconds: float, progress: Callable[[float, int], None]) -> None:
    """Run each in a thread of its own until all are done, or one failed: its error."""
    with ThreadPoolExecutor(len(loads)) as threads:
        try:  # from before the first begins: a signal may come between that and the next line, and would wait for it
            running = {threads.submit(load.run, seconds) for load in loads}
            _follow(running, loads, progress)
        finally:
            for load in loads:
                load.stop()
    for future in running:
        future.result()


def _follow(running: set[Future[None]], loads: Sequence[Load], progress: Callable[[float, int], None]) -> None:
    """Tell of the progress until all are done, or one failed."""
    elapsed = 0.0
    while True:
        done, running_still = wait(running, PROGRESS_SECONDS, return_when=FIRST_EXCEPTION)
        if not running_still or any(future.exception() for future in done):
            return
        elapsed += PROGRESS_SECONDS
        progress(elapsed, sum(load.completed for load in loads))


def _figures(workload: Workload, seconds: float, loads: Sequence[Load], cpu: float | None) -> Measurement:
    requests = sum(load.completed for load in loads)
    return Measurement(
        workload,
        seconds,
        requests,
        served=requests + sum(load.drained for load in loads),
        failed=sum(load.failed for load in loads),
        mismatched=sum(load.mismatched for load in loads),
        kicks=sum(load.kicks for load in loads),
        interrupts=sum(load.interrupts for load in loads),
        counts=tuple(map(sum, zip(*(load.latency() for load in loads), strict=True))),
        cpu_seconds=cpu,
    )


def server_process(front_end: FrontEnd) -> int:
    """The process that made the socket listen, as the kernel knows it; 0: it is out of our sight."""
    credentials = front_end.channel.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[0])


def cpu_seconds(process: int) -> float | None:
    """User and system time of a process; None: there is no such process to be seen."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def median(values: Sequence[float | None]) -> float | None:
    """None: one of the values is not known."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if len(known) == len(values) else None
