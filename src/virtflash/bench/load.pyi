"""The load loop: random requests on one started queue, as many in flight as asked for, without the GIL."""

def bucket_bounds() -> list[int]:
    """Nanoseconds: bucket i counts what took less than `bounds[i]` and not less than `bounds[i - 1]`."""

class Load:
    """Requests on one queue, run by one thread.

    `memory` is a region of guest memory; everything that lies in it is named by its offset there, in bytes: `available`
    and `used` rings, `slot_lines` (64 bytes for each of `depth` slots), `data` (`block_bytes` for each), and
    `descriptor_flags`, the le16 of the first slot's data descriptor, with the distance to the next slot's. The head of
    slot i is `head_stride` * i. Blocks (of `block_bytes`) are chosen from `first_block` on, `blocks` of them.

    `sequential`: each block once, however long it takes. `verify`: stamp what is written, check what is read.
    `spin_ns`: how long to look for completions before sleeping; -1: for ever. `stall_ns`: give up without progress.
    """

    def __init__(
        self,
        memory: bytearray | memoryview,
        *,
        size: int,
        available: int,
        used: int,
        slot_lines: int,
        data: int,
        descriptor_flags: int,
        descriptor_flags_stride: int,
        head_stride: int,
        depth: int,
        block_bytes: int,
        first_block: int,
        blocks: int,
        write_percent: int,
        event_idx: bool,
        kick_fd: int,
        call_fd: int,
        error_fd: int,
        peer_fd: int,
        sequential: bool = False,
        verify: bool = False,
        spin_ns: int = 0,
        stall_ns: int = 10_000_000_000,
        seed: int = 1,
    ) -> None: ...
    def run(self, seconds: float) -> None:
        """Run for `seconds`, then wait for what is in flight. The ring must be idle, and nobody else may touch it.

        DeadlineError, QueueStoppedError, ClosedError, FrontEndError: see SplitQueue.
        """
    def stop(self) -> None:
        """Let run() end early. From any thread."""
    @property
    def completed(self) -> int:
        """Requests that succeeded so far. From any thread, while it runs too; so are the other counters."""
    @property
    def drained(self) -> int:
        """Requests that succeeded after the end of the time and are not in `completed` nor in the histogram."""
    @property
    def failed(self) -> int:
        """Requests that failed, and so are in no other figure; nor are those that are in `mismatched`."""
    @property
    def mismatched(self) -> int:
        """Reads that gave another sector than the one asked for."""
    @property
    def kicks(self) -> int: ...
    @property
    def interrupts(self) -> int:
        """Times that the loop slept and was woken."""
    @property
    def seconds(self) -> float:
        """How long the last run took, with what it waited for at the end."""
    def latency(self) -> list[int]:
        """Requests in each bucket of `bucket_bounds`."""
