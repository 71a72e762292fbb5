"""The memory barrier that Python lacks."""

def fence() -> None:
    """A full barrier between everything before and everything after it, on the CPU and in the compiler."""
