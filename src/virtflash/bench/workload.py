"""What is asked of a server when it is measured."""

from dataclasses import asdict, dataclass
from typing import Literal

Direction = Literal["read", "write", "mixed"]
WRITE_PERCENT: dict[Direction, int] = {"read": 0, "write": 100, "mixed": 50}


@dataclass(frozen=True)
class Workload:
    """Random requests of `block_bytes`, `depth` in flight on each of `queues`; "mixed" writes every second one."""

    direction: Direction = "read"
    block_bytes: int = 4096
    depth: int = 32
    queues: int = 1

    @property
    def writes(self) -> bool:
        return self.direction != "read"

    def __str__(self) -> str:
        queues = f", {self.queues} queues" if self.queues > 1 else ""
        return f"{self.direction} {size_text(self.block_bytes)}, depth {self.depth}{queues}"

    def to_json(self) -> dict[str, object]:
        return asdict(self)


# One request at a time, a busy queue, a full one; data to a writer; and large transfers.
STANDARD = (
    Workload("read", 4096, 1),
    Workload("read", 4096, 32),
    Workload("read", 4096, 128),
    Workload("write", 4096, 32),
    Workload("read", 131072, 16),
)


def size_text(count: int) -> str:
    """Bytes, as people write them: "4 KiB", "512 B"."""
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if count >= unit and count % unit == 0:
            return f"{count // unit} {name}"
    return f"{count} B"
