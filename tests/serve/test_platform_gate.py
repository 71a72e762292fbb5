"""Verdicts are carried out on a thread of their own, while volumes come, go, and are looked at: whatever the order."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from configured import Configured

from virtflash import platform_gate
from virtflash.config import Volume, read_configuration
from virtflash.config.quantities import Size
from virtflash.health.platform_state import PERMISSIONS, PlatformState
from virtflash.health.policy import FREE, Verdict
from virtflash.server import Served
from virtflash.service import Service
from virtflash.surroundings import Surroundings

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


def test_a_verdict_that_comes_while_a_volume_is_made(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds for that volume too: between its first state and its door there is no moment at which it is missed."""
    serve = service.server.serve
    applies = threading.Thread(target=service.gate.apply, args=({"late": READ_ONLY},))

    def slowly(*arguments: Any, **options: Any) -> Served:
        applies.start()
        applies.join(0.2)  # it waits, or is done
        return serve(*arguments, **options)

    monkeypatch.setattr(service, "on_change", None)
    monkeypatch.setattr(service.server, "serve", slowly)
    served = service.make("late", LATE)
    applies.join()
    assert refused(service, "late") == REFUSED
    assert served.export.verdict == READ_ONLY


def test_a_change_that_failed_is_made_the_next_time(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as failing:
        failing.setattr(platform_gate, "throttle", raise_trouble)
        with pytest.raises(OSError, match="trouble"):
            service.gate.apply({"cluster": READ_ONLY, "infotainment": READ_ONLY})
    service.gate.apply({"cluster": READ_ONLY, "infotainment": READ_ONLY})
    assert refused(service, "cluster") == refused(service, "infotainment") == REFUSED
    service.gate.apply({"cluster": FREE, "infotainment": FREE})
    assert refused(service, "cluster") == refused(service, "infotainment") == set()


def raise_trouble(*_arguments: object) -> None:
    raise OSError(5, "trouble")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_the_watchdog_is_not_fed_where_nobody_judges_any_more(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A mistake of ours in what a verdict does: systemd starts the server anew then."""
    configured = Configured(tmp_path, {"cluster": "8 MiB"})
    with (
        Service.create(configured.path, read_configuration(configured.path)) as service,
        Surroundings(service) as surroundings,
    ):
        assert surroundings._reactors_answer(10)
        monitor = surroundings._watch._monitor
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(monitor, "_judge", lambda _arrived: 1 // 0)
            configured.ask("simulate", sensor="emmc0.temperature", value=30.0)
            monitor._thread.join(10)
        assert not surroundings._reactors_answer(10)
    assert "the platform is not watched any more" in caplog.text
