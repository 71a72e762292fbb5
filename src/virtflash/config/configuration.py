"""What a configuration says: a class for each kind of section, a field for each key, whose description is its manual.

msgspec's structs, because the same types say what the control socket takes and what the JSON Schema allows.
"""

from typing import Annotated, Literal

from msgspec import Meta, field

from virtflash.config.quantities import ByteRate, Duration, RequestRate, Size
from virtflash.config.section import Section
from virtflash.config.sensors import Sensor

LogLevel = Literal["debug", "info", "warning", "error"]
Word = Annotated[str, Meta(min_length=1)]
Serial = Annotated[str, Meta(max_length=20)]  # virtio 1.4 §5.2.6: what GET_ID has room for
Celsius = Annotated[float, Meta(ge=-273.15, le=1000)]
Threshold = str | int | float  # what it may be depends on the sensor: `measured`


class Server(Section, frozen=True, kw_only=True):
    """The server itself."""

    log_level: Annotated[LogLevel, Meta(description="what is logged")] = "info"
    statistics: Annotated[str | None, Meta(description="a file of counters, written on SIGUSR1 and at the end")] = None
    reactors: Annotated[int, Meta(ge=0, le=64, description="threads of the data plane; 0: by the processors")] = 0
    io: Annotated[
        Literal["auto", "io_uring", "io_uring-plain", "threads"], Meta(description="how files are read and written")
    ] = "auto"
    control: Annotated[
        Word | None, Meta(description="the socket that `virtflash ctl` and `top` talk to; left out: none")
    ] = None
    metrics: Annotated[
        Annotated[str, Meta(pattern=r"^.+:[0-9]{1,5}$")] | None,
        Meta(description='where Prometheus may ask, such as "127.0.0.1:9477"; left out: nowhere'),
    ] = None
    metrics_file: Annotated[
        Annotated[str, Meta(pattern=r"\.prom$")] | None,
        Meta(description="a file for the node exporter's textfile collector, written every 15 s"),
    ] = None


class Flash(Section, frozen=True, kw_only=True):
    """One flash, which its volumes share."""

    kind: Annotated[Literal["emmc", "nand", "nor"], Meta(description="what it is; all three are emulated")]
    path: Annotated[str, Meta(min_length=1, description="its image, made by `virtflash create`")]
    capacity: Annotated[Size | None, Meta(description="what it must have; the image is refused if it has not")] = None
    isolation: Annotated[
        Literal["shared", "blocks"],
        Meta(description="may the data of several volumes lie in one erase block, or does each have blocks of its own"),
    ] = "shared"
    host_sync: Annotated[bool, Meta(description="what is stable survives a crash of this host too")] = True
    timing: Annotated[Literal["real", "none"], Meta(description="as slow as the part, or as fast as it goes")] = "none"
    temperature: Annotated[Celsius | None, Meta(description="degC, of the emulated part; left out: as it was left")] = (
        None
    )


class Volume(Section, frozen=True, kw_only=True):
    """What one virtual machine owns of a flash."""

    flash: Annotated[str, Meta(description="the flash that it lies on")]
    size: Annotated[Size, Meta(description="what its machine sees")]
    socket: Annotated[str, Meta(min_length=1, description="where its machine connects")]
    owner: Annotated[
        Word | None, Meta(description="the user, or `group:NAME`, that may connect; left out: who can")
    ] = None
    mode: Annotated[str, Meta(pattern="^0?[0-7]{3}$", description="permissions of the socket, in octal")] = "0600"
    device: Annotated[Literal["blk"], Meta(description="what its machine sees")] = "blk"
    queues: Annotated[int, Meta(ge=1, le=64, description="request queues")] = 1
    read_only: Annotated[bool, Meta(description="its machine cannot write")] = False
    serial: Annotated[Serial | None, Meta(description="what its machine is told; left out: the volume's name")] = None
    secure_delete: Annotated[bool, Meta(description="when it is deleted, no copy is left on the medium")] = False
    priority: Annotated[
        Literal["normal", "critical"],
        Meta(description="critical: what it reads does not wait for what others write and trim"),
    ] = "normal"
    iops: Annotated[RequestRate | None, Meta(description="most requests; left out: no limit")] = None
    iops_burst: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="requests that may come at once; left out: those of a tenth of a second"),
    ] = None
    bandwidth: Annotated[ByteRate | None, Meta(description="most bytes read and written; left out: no limit")] = None
    bandwidth_burst: Annotated[
        Size | None, Meta(description="bytes that may come at once; left out: those of a tenth of a second")
    ] = None
    wear_budget: Annotated[
        ByteRate | None, Meta(description="most bytes programmed on the flash, amplification included")
    ] = None
    wear_burst: Annotated[
        Size | None, Meta(description="what of the budget can be saved up and spent at once; left out: of an hour")
    ] = None
    when_spent: Annotated[
        Literal["throttle", "read-only", "alarm"], Meta(description="what becomes of writes beyond the budget")
    ] = "throttle"


class Rule(Section, frozen=True, kw_only=True):
    """When volumes are in another state than normal. Both thresholds are in the unit of what the sensor measures."""

    sensor: Annotated[
        str, Meta(min_length=1, description="FLASH.QUANTITY, such as `emmc0.temperature`, or `platform.NAME`")
    ]
    above: Annotated[Threshold | None, Meta(description="the threshold, with its unit")] = None
    below: Annotated[Threshold | None, Meta(description="the threshold, with its unit")] = None
    until: Annotated[Threshold | None, Meta(description="where it ends; left out: at the threshold")] = None
    delay: Annotated[Duration | None, Meta(description="for how long it must hold; left out: not at all")] = None
    state: Annotated[
        Literal["durable", "throttled", "read-only", "offline", "alarm"],
        Meta(description="what the volumes are then in; alarm: it is told, and nothing else"),
    ]
    limit: Annotated[
        ByteRate | None, Meta(description="most bytes written and trimmed while throttled; left out: 1 MB/s")
    ] = None
    on_enter: Annotated[
        Literal["flush", "freeze"],
        Meta(description="what was accepted and is not stable: made stable first, or nothing is written any more"),
    ] = "flush"
    volumes: Annotated[list[str], Meta(description="those concerned; none: all of that flash")] = []
    stale: Annotated[
        Duration | None, Meta(description="no reading for so long, and the sensor is stale; left out: 30 s")
    ] = None
    on_stale: Annotated[
        Literal["normal", "durable", "throttled", "read-only", "offline", "alarm"] | None,
        Meta(description="what the volumes are in while it is stale; left out: durable, or alarm where `state` is"),
    ] = None


class Health(Section, frozen=True, kw_only=True):
    """What the platform's state does to writes."""

    defaults: Annotated[bool, Meta(description="rules that each kind of flash has, where the file has none")] = True
    rule: Annotated[list[Rule], Meta(description="in any order: the strictest state holds")] = []


class Configuration(Section, frozen=True, kw_only=True):
    """All of a file."""

    server: Annotated[Server, Meta(description="the server itself")] = field(default_factory=Server)
    flash: Annotated[dict[str, Flash], Meta(description="by name")]
    volume: Annotated[dict[str, Volume], Meta(description="by name")]
    sensor: Annotated[dict[str, Sensor], Meta(description="by name")] = field(default_factory=dict)
    health: Annotated[Health, Meta(description="rules")] = field(default_factory=Health)
