"""The memory barrier that Python lacks."""

from virtflash.engine.atomics cimport fence_full


def fence() -> None:
    """A full barrier between everything before and everything after it, on the CPU and in the compiler."""
    fence_full()
