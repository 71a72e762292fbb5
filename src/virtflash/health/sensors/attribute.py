"""An attribute of sysfs: a small file with a number in it, that may be gone, empty, or say nonsense."""

from pathlib import Path

from virtflash.health.sensors.sensor import SensorError

LONGEST = 4096  # bytes: a page, as sysfs has it
SHOWN = 40
COLDEST, HOTTEST = -273.15, 1000.0  # degrees Celsius; the kernel says -274 of what it does not know


def read_text(path: Path) -> str:
    """Without what surrounds it. SensorError."""
    try:
        with path.open("rb") as file:
            text = file.read(LONGEST).decode().strip()
    except OSError as error:
        raise SensorError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SensorError(f"{path}: there is no text in it") from None
    if not text:
        raise SensorError(f"{path}: it is empty")
    return text


def read_integer(path: Path) -> int:
    """SensorError."""
    return integer(path, read_text(path), 10)


def integer(path: Path, text: str, base: int) -> int:
    """SensorError: it is none."""
    try:
        return int(text, base)
    except ValueError:
        raise SensorError(f"{path}: a number is expected; it says {text[:SHOWN]!r}") from None


def read_celsius(path: Path) -> float:
    """Of thousandths of a degree. SensorError: there are none, or nothing can be as hot or cold as that."""
    celsius = read_integer(path) / 1000
    if not COLDEST <= celsius <= HOTTEST:
        raise SensorError(f"{path}: {celsius:g} degC is no temperature")
    return celsius


def says(path: Path, word: str) -> bool:
    """Is that all it says? What cannot be read says nothing."""
    try:
        return read_text(path) == word
    except SensorError:
        return False


def listed(names: list[str]) -> str:
    return ", ".join(names) or "none"
