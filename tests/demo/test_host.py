"""What the demonstration says of a host that is not fit for it."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from virtflash import children
from virtflash.backing import BackingError
from virtflash.cli import demo as command
from virtflash.demo import demo, host
from virtflash.demo.uml_guest import GuestError, UmlGuest


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever of it is there."""
    monkeypatch.setattr(host, "find_kernel", lambda: "linux.uml")
    monkeypatch.setattr(host, "TOOLS", {})


@pytest.mark.parametrize("variable", host.VARIABLES)
def test_a_directory_that_is_not_there(variable: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(variable, str(tmp_path / "none"))
    with pytest.raises(GuestError, match=f"^{variable}={tmp_path}/none: there is no such directory"):
        host.check_host()


def test_a_program_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "TOOLS", {"no-such-program": "its-package"})
    with pytest.raises(GuestError, match="apt-get install its-package"):
        host.check_host()


@pytest.mark.parametrize("together", [False, True])
def test_too_little_room(together: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(host, "places", lambda: (tmp_path if together else Path("/dev/shm"), tmp_path))
    monkeypatch.setattr(host, "MEMORY_BYTES", 0)
    monkeypatch.setattr(host, "VOLUME_BYTES", 1 << 60)
    with pytest.raises(GuestError, match=rf"^{tmp_path}: {1 << 40} MiB are needed there and \d+ MiB are free"):
        host.check_host()


def test_a_full_disk_is_named_before_what_came_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(_runs: object, _progress: object) -> None:
        raise GuestError("guest cluster: it died", "Kernel panic")

    monkeypatch.setattr(demo, "check_host", lambda: None)
    monkeypatch.setattr(demo, "parts", list)
    monkeypatch.setattr(demo, "_watch", failing)
    monkeypatch.setattr(host, "places", lambda: (Path("/full"), Path("/full")))
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=0))
    with pytest.raises(GuestError) as caught:
        demo.run_demo(None)  # type: ignore[arg-type]
    assert caught.value.reason == "/full is full (guest cluster: it died)"
    assert caught.value.console == "Kernel panic"


def test_an_image_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_arguments: object, **_options: object) -> None:
        raise BackingError("/tmp/cluster.vflash: cannot be made: No space left on device")

    monkeypatch.setattr(demo, "check_host", lambda: None)
    monkeypatch.setattr(demo, "create_flash", failing)
    monkeypatch.setattr(children, "unwind_on_signals", lambda: None)
    result = CliRunner().invoke(command.demo)
    assert result.exit_code == 1
    assert result.stderr == ("virtflash demo: failed: /tmp/cluster.vflash: cannot be made: No space left on device\n")


def test_the_step_at_which_a_script_failed(tmp_path: Path) -> None:
    guest = UmlGuest("one", [], "", tmp_path)
    guest.console.lines += ["virtflash-guest: step sync", "sync: error", "virtflash-guest: status 1"]
    with pytest.raises(GuestError) as caught:
        guest.outcome()
    assert caught.value.reason == 'guest one: its script ended with status 1 at "sync"'
    assert "sync: error" in caught.value.console
