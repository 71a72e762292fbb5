"""The settings of a unit, as systemd puts them together from its file and from drop-ins."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from requirements import require

SYSTEMD = Path(__file__).resolve().parent.parent.parent / "packaging/systemd"
SERVICE = SYSTEMD / "virtflash.service"
METRICS_ADDRESS = SYSTEMD / "metrics-address.conf"


def analyze(*arguments: object) -> subprocess.CompletedProcess[str]:
    require("systemd-analyze")
    command = ["systemd-analyze", "--no-pager", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


class UnitSettings:
    """`files`: the unit, then its drop-ins. What is said twice adds up; an empty value begins anew."""

    def __init__(self, files: Sequence[Path] = (SERVICE,)) -> None:
        self._values: dict[str, list[str]] = {}
        for file in files:
            for line in file.read_text().splitlines():
                key, is_setting, value = line.partition("=")
                if is_setting and not line.startswith("#"):
                    self._add(key, value)

    def _add(self, key: str, value: str) -> None:
        self._values.setdefault(key, []).append(value)
        if not value:
            self._values[key].clear()

    def all(self, key: str) -> list[str]:
        return self._values.get(key, [])

    def words(self, key: str) -> list[str]:
        return " ".join(self.all(key)).split()

    def last(self, key: str) -> str:
        """ "" where it is not set."""
        return next(reversed(self.all(key)), "")

    def says(self, key: str) -> bool:
        return self.last(key) in ("yes", "true", "on", "1")

    def allowed_calls(self) -> set[str]:
        """SystemCallFilter: lists are united, ~ lists taken away, in their order."""
        allowed = members("@default")  # in every list of what is allowed
        for words in self.all("SystemCallFilter"):
            calls = {call for word in words.removeprefix("~").split() for call in members(word)}
            allowed = allowed - calls if words.startswith("~") else allowed | calls
        return allowed


def members(word: str) -> set[str]:
    """The calls of a group; of a call, itself."""
    if not word.startswith("@"):
        return {word}
    listed = analyze("syscall-filter", word).stdout.splitlines()[1:]
    names = [line.strip() for line in listed if line.strip() and not line.strip().startswith("#")]
    return {call for name in names for call in members(name)}
