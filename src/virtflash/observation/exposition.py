"""What every way of offering metrics has in common."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from virtflash.status import Status

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


class ExpositionError(Exception):
    """Metrics cannot be offered there; one line."""


def registry_of(status: Callable[[], Status]) -> "CollectorRegistry":
    """Of this server's metrics and nothing else; `status` is called for each exposition."""
    from prometheus_client import CollectorRegistry  # noqa: PLC0415 - a server without metrics does not wait for it

    from virtflash.observation.metrics import StatusCollector  # noqa: PLC0415

    registry = CollectorRegistry(auto_describe=False)
    registry.register(StatusCollector(status))
    return registry
