"""What a configuration that was read again changes: what can be while guests run, and what waits for the next start.

Pure: two configurations in, a plan out; `Service` carries it out.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from msgspec import structs

from virtflash.config import Configuration, Volume
from virtflash.config.section import Section

LIMITS = frozenset(("iops", "iops_burst", "bandwidth", "bandwidth_burst", "wear_budget", "wear_burst", "when_spent"))
LIVE_VOLUME = LIMITS | {"size", "owner", "mode", "secure_delete"}
LIVE_SERVER = frozenset(("log_level",))
LIVE_FLASH = frozenset(("temperature",))


@dataclass(frozen=True)
class Change:
    """A key with a new value. `section`: as ("volume", "cluster"); `text`: for people."""

    section: tuple[str, ...]
    key: str
    old: Any
    new: Any

    @property
    def text(self) -> str:
        return f"[{'.'.join(self.section)}] {self.key}: {said(self.old)} -> {said(self.new)}"


@dataclass
class Plan:
    """`changes`: can be made now; `refused`: in words, with what to do."""

    added: dict[str, Volume] = field(default_factory=dict)
    removed: list[str] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    has_other_rules: bool = False


def said(value: Any) -> str:
    return "nothing" if value is None else str(value)


def plan(old: Configuration, new: Configuration, *, made_meanwhile: Sequence[str] = ()) -> Plan:
    """`made_meanwhile`: volumes that an operator has made, and which no file names: they stay."""
    made = Plan()
    compare(made, ("server",), old.server, new.server, LIVE_SERVER)
    plan_flashes(made, old, new)
    for name, volume in new.volume.items():
        if name in old.volume:
            plan_volume(made, name, old.volume[name], volume)
        elif volume.flash in old.flash:
            made.added[name] = volume
        else:
            made.refused.append(f"[volume.{name}]: its flash is opened when the server starts again")
    made.removed = [name for name in old.volume if name not in new.volume and name not in made_meanwhile]
    if old.sensor != new.sensor:
        made.refused.append("[sensor]: sensors are made anew when the server starts again")
    made.has_other_rules = old.health != new.health
    return made


def plan_flashes(made: Plan, old: Configuration, new: Configuration) -> None:
    for name, flash in old.flash.items():
        if name not in new.flash:
            made.refused.append(f"[flash.{name}]: it is closed when the server starts again")
        else:
            compare(made, ("flash", name), flash, new.flash[name], LIVE_FLASH)
    for name in new.flash:
        if name not in old.flash:
            made.refused.append(f"[flash.{name}]: it is opened when the server starts again")


def plan_volume(made: Plan, name: str, old: Volume, new: Volume) -> None:
    if new.size < old.size:
        made.refused.append(f"[volume.{name}] size: {old.size} -> {new.size}: a volume never shrinks; make another one")
        new = structs.replace(new, size=old.size)
    compare(made, ("volume", name), old, new, LIVE_VOLUME)


def compare(made: Plan, section: tuple[str, ...], old: Section, new: Section, live: frozenset[str]) -> None:
    for change in differences(section, old, new):
        if change.key in live:
            made.changes.append(change)
        else:
            made.refused.append(f"{change.text}: takes effect when the server starts again")


def differences(section: tuple[str, ...], old: Section, new: Section) -> Iterator[Change]:
    for key in old.__struct_fields__:
        before, after = getattr(old, key), getattr(new, key)
        if before != after:
            yield Change(section, key, before, after)
