"""Verdicts are carried out on a thread of their own, while volumes come, go, and are looked at: whatever the order."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from configured import Configured

from virtflash.config import Volume
from virtflash.config.quantities import Size
from virtflash.health.platform_state import PERMISSIONS, PlatformState
from virtflash.health.policy import FREE, Verdict
from virtflash.service import Service

FROZEN = Verdict(PlatformState.READ_ONLY, freeze=True)
READ_ONLY = Verdict(PlatformState.READ_ONLY)
REFUSED = PERMISSIONS[PlatformState.READ_ONLY].refused
LATE = Volume(flash="emmc0", size=Size(2 << 20), socket="late.sock")


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """Without a monitor: the tests apply verdicts themselves."""
    with Configured(tmp_path, {"cluster": "8 MiB", "infotainment": "16 MiB"}).served() as service:
        yield service


def refused(service: Service, name: str) -> set[str]:
    served = service.server.find(name)
    assert served is not None
    return served.export.binding.gate[0]


def test_a_volume_goes_while_it_is_frozen(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can flush it any more; the others are frozen all the same, and who applies goes on."""
    flash = service.server.flashes["emmc0"]
    is_unstable = flash.is_unstable

    def too_late(name: str) -> bool:
        if name == "cluster":
            service.server.stop_serving(next(each for each in service.server.served if each.export.name == name))
            flash.pool.delete(name)
        return is_unstable(name)

    monkeypatch.setattr(flash, "is_unstable", too_late)
    service.gate.apply({"cluster": FROZEN, "infotainment": FROZEN})
    assert service.server.find("cluster") is None
    assert refused(service, "infotainment") == REFUSED
