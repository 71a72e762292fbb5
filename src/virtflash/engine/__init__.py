"""The data plane: rings, requests and I/O, compiled and without the GIL.

A library of two nouns. A `Reactor` is a thread that serves queues; a `Queue` is a ring bound to what it serves (a
`Binding`). Python creates, starts, stops and reads statistics; it never touches a ring that runs.
"""

from virtflash.engine.reactor import (
    LATENCY_BOUNDS,
    QUEUE_ENTRIES_MAX,
    Binding,
    Mapping,
    MemoryTable,
    Queue,
    Reactor,
    versions,
)

__all__ = ["LATENCY_BOUNDS", "QUEUE_ENTRIES_MAX", "Binding", "Mapping", "MemoryTable", "Queue", "Reactor", "versions"]
