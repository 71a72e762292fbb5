"""What can be asked of a running server. A method here is a method on the wire, with its parameters by their names.

What is said of it here is all there is: types check what comes, docstrings and descriptions are what `virtflash ctl
--help` shows. A parameter that is a struct stands for its fields.
"""

from collections.abc import Callable
from typing import Annotated, Literal, Protocol, TypeVar

from msgspec import UNSET, Meta, Struct, UnsetType

from virtflash.config.configuration import LogLevel, Volume
from virtflash.config.quantities import ByteRate, Duration, RequestRate, Size
from virtflash.config.section import Section
from virtflash.status import Limits, SensorStatus, Status, VolumeStatus, WearStatus

F = TypeVar("F", bound=Callable[..., object])

TTL = Duration.read("10 s")  # of what is pushed
EVENTS_KEPT = 256  # that happened before anybody asked

Name = Annotated[str, Meta(min_length=1, description="a volume")]
NewName = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}(?!\n)$",
        description="up to 63 letters, digits, '_', '-' and '.', not beginning with those three",
    ),
]
OneVolume = Annotated[str | None, Meta(description="a volume; left out: all of them")]
OneFlash = Annotated[str | None, Meta(description="a flash; left out: all of them")]


class OperatorError(Exception):
    """It cannot be done. One line that says what is wrong, where, and what to do."""


class NewLimits(Section, frozen=True, kw_only=True):
    """What becomes of a volume's limits. What is left out stays; null: no limit."""

    iops: Annotated[RequestRate | UnsetType | None, Meta(description="most requests; null: no limit")] = UNSET
    iops_burst: Annotated[
        Annotated[int, Meta(ge=1)] | UnsetType | None,
        Meta(description="requests that may come at once; null: those of a tenth of a second"),
    ] = UNSET
    bandwidth: Annotated[
        ByteRate | UnsetType | None, Meta(description="most bytes read and written; null: no limit")
    ] = UNSET
    bandwidth_burst: Annotated[
        Size | UnsetType | None, Meta(description="bytes that may come at once; null: those of a tenth of a second")
    ] = UNSET
    wear_budget: Annotated[
        ByteRate | UnsetType | None, Meta(description="most bytes programmed on the flash; null: no limit")
    ] = UNSET
    wear_burst: Annotated[
        Size | UnsetType | None, Meta(description="what of the budget can be saved up; null: of an hour")
    ] = UNSET
    when_spent: Annotated[
        Literal["throttle", "read-only", "alarm"] | UnsetType,
        Meta(description="what becomes of writes beyond the budget"),
    ] = UNSET


class Reloaded(Struct, frozen=True, kw_only=True):
    """What came of a configuration that was read again. All in words, a line each."""

    applied: list[str]
    refused: list[str]  # what cannot change while the server runs, and stays as it was


class Parameter(Struct, frozen=True, kw_only=True):
    """Of a method."""

    name: str
    type: str  # in words: size, rate, requests, time, text, number, true|false, the words that are allowed
    required: bool
    description: str
    default: object = UNSET  # UNSET: none
    json_schema: dict[str, object]


class MethodDescription(Struct, frozen=True, kw_only=True):
    """What a server says of one of its methods."""

    name: str
    summary: str
    details: str
    parameters: list[Parameter]
    result: str  # in words


class Watching(Struct, frozen=True, kw_only=True):
    """Events follow, as notifications."""

    last: int  # the number of the newest event so far


def takes_long(method: F) -> F:
    """It is called on a thread that does one such call after another, so that others are answered meanwhile."""
    method.__dict__["takes_long"] = True
    return method


class Operator(Protocol):
    """What a server lets one do. Implemented by the server; OperatorError: it cannot be done.

    Methods marked `takes_long` are called on one thread, the others on another one, at the same time.
    """

    def status(self) -> Status:
        """All that the server tells of itself: volumes, flashes, threads."""

    def volumes(self) -> list[VolumeStatus]:
        """What is served: each volume with its state, its counters and its limits."""

    @takes_long
    def create(self, name: NewName, volume: Volume) -> VolumeStatus:
        """Make a volume, and serve it at once.

        The parameters are the keys of a configuration's [volume.NAME]. It is not written into the configuration.
        """

    @takes_long
    def delete(
        self,
        name: Name,
        secure: Annotated[
            bool | None, Meta(description="leave no copy on the medium; null: as its secure_delete says")
        ] = None,
    ) -> None:
        """Serve a volume no more, and erase what it holds. Its machine is cut off."""

    @takes_long
    def grow(self, name: Name, size: Annotated[Size, Meta(description="what its machine shall see")]) -> VolumeStatus:
        """Make a volume larger. Its machine is told at once. Volumes never shrink."""

    @takes_long
    def flush(self, name: OneVolume = None) -> None:
        """Make stable what was written."""

    @takes_long
    def erase(
        self, name: Name, secure: Annotated[bool, Meta(description="leave no copy on the medium")] = False
    ) -> None:
        """Erase all that a volume holds, and go on serving it."""

    @takes_long
    def refresh(
        self,
        flash: OneFlash = None,
        older_than: Annotated[
            Duration | None, Meta(description="since it was written; left out: what the flash itself finds too old")
        ] = None,
    ) -> dict[str, int]:
        """Write data anew before it fades. Tells, for each flash, how many blocks will be.

        It is done while no machine writes. Blocks that are still being filled are left out.
        """

    def sensors(self) -> list[SensorStatus]:
        """What the platform's health is judged by: each sensor that a rule is about, and what it said last."""

    def push(
        self,
        sensor: Annotated[str, Meta(min_length=1, description="such as platform.supply")],
        value: Annotated[float, Meta(description="in the sensor's unit")],
        ttl: Annotated[Duration, Meta(description="for how long it is good")] = TTL,
    ) -> None:
        """Tell what the platform has measured. When its time is over and nothing new has come, the sensor is stale."""

    def simulate(
        self,
        sensor: Annotated[str, Meta(min_length=1, description="of an emulated flash, such as emmc0.temperature")],
        value: Annotated[float | None, Meta(description="in the sensor's unit; left out: what is measured")] = None,
    ) -> None:
        """Let an emulated flash measure something from now on: heat, a brown-out, a worn reserve."""

    @takes_long
    def reload(self) -> Reloaded:
        """Read the configuration again and apply what can change while the server runs. A bad file changes nothing."""

    def limits(self, name: Name, change: NewLimits) -> Limits:
        """Change the limits of a volume until the server ends. With nothing but its name it only tells them."""

    def wear(self, name: OneVolume = None) -> list[WearStatus]:
        """What each volume has cost its flash, and what is left of its budget."""

    def log_level(
        self, level: Annotated[LogLevel | None, Meta(description="the least that is logged; left out: as it is")] = None
    ) -> LogLevel:
        """Change what is logged, and tell what is."""

    def shutdown(self) -> None:
        """End the server, as SIGTERM does. Returns before anything has ended."""


class Connected(Protocol):
    """What a connection does by itself, whatever the server is."""

    def watch(
        self,
        events: Annotated[tuple[str, ...], Meta(description="kinds of events; none: all of them")] = (),
        volume: Annotated[str | None, Meta(description="events of this volume; left out: of all, and of none")] = None,
        recent: Annotated[
            int, Meta(ge=0, le=EVENTS_KEPT, description="so many that have happened already come first")
        ] = 0,
        since: Annotated[
            Annotated[int, Meta(ge=0)] | None,
            Meta(description="those after the event of this number come first, if they are still kept"),
        ] = None,
    ) -> Watching:
        """Tell this connection what happens, until it closes.

        Each event comes as a notification {"jsonrpc":"2.0","method":"event","params":{...}}. Watching again changes
        what is watched.
        """

    def methods(self) -> list[MethodDescription]:
        """What can be asked for, with all parameters."""
