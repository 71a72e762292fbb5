"""What a server says when it begins: what it serves, how, and the options with which QEMU attaches a guest."""

import platform
import shlex
import sys

from virtflash.export import Export
from virtflash.server import Served, Server
from virtflash.service import Service
from virtflash.shared_flash import SharedFlash
from virtflash.text_table import aligned
from virtflash.virtio.blk import SECTOR_BYTES, BlkFeature

MACHINES = {"x86_64": "q35", "aarch64": "virt"}  # as QEMU calls them
IO_WORDS = {
    "io_uring": "io_uring with deferred task work and registered files",
    "io_uring-plain": "io_uring, without deferred task work",
    "threads": "a pool of threads, no io_uring",
}
SHOWN_FEATURES = (
    BlkFeature.RO,
    BlkFeature.FLUSH,
    BlkFeature.CONFIG_WCE,
    BlkFeature.MQ,
    BlkFeature.DISCARD,
    BlkFeature.WRITE_ZEROES,
    BlkFeature.SECURE_ERASE,
    BlkFeature.LIFETIME,
)


def announce(server: Server, *, as_json: bool) -> None:
    """As text on standard output, or, where logs are JSON, as one log entry for each volume. OSError: not written."""
    for number, served in enumerate(server.served):
        if as_json:
            extra = {"event": {"kind": "serving", **describe(server, served, number)}}
            served.export.log.info("serving at %s", served.at, extra=extra)
        elif sys.stdout is not None:  # closed by whoever started us
            sys.stdout.write(text(server, served, number))
    if sys.stdout is not None:
        sys.stdout.flush()


def announce_service(service: Service, *, as_json: bool) -> None:
    """As `announce`, of a configuration: a line for each volume, since there may be many."""
    server = service.server
    if as_json or sys.stdout is None:
        return announce(server, as_json=as_json)
    for name, flash in server.flashes.items():
        size, free = (
            human(count * SECTOR_BYTES) for count in (flash.backing.capacity_sectors, flash.pool.free_sectors)
        )
        sys.stdout.write(
            f"virtflash serves {name}, {part_of(flash)} of {size} ({flash.backing.description}), {free} free\n"
        )
        volumes = [served for served in server.served if served.flash is flash]
        rows = [
            (served.export.name, human(served.export.device.capacity_sectors * SECTOR_BYTES), served.at)
            for served in volumes
        ]
        sys.stdout.writelines(f"  {line}\n" for line in aligned([("volume", "size", "socket"), *rows], left=3))
    sys.stdout.flush()
    return None


def part_of(flash: SharedFlash) -> str:
    return flash.storage.profile.part.name


def describe(server: Server, served: Served, number: int) -> dict[str, object]:
    export = served.export
    return {
        "backing": export.backing.description,
        "read_only": export.backing.read_only,
        "direct": export.backing.direct,
        "flash": part_name(served),
        "io": served.reactor.io_path,
        "reactors": len(server.reactors),
        "bytes": export.device.capacity_sectors * SECTOR_BYTES,
        "socket": served.at,
        "queues": export.queue_count,
        "features": feature_names(export),
        "qemu": qemu_options(served, number),
    }


def text(server: Server, served: Served, number: int) -> str:
    export, backing = served.export, served.export.backing
    how = ["direct" if backing.direct else "buffered"] if backing.fd >= 0 else []
    how += [name] if (name := part_name(served)) is not None else []
    how += ["read-only"] if backing.read_only else []
    reactor = served.reactor
    reason = f" ({reactor.io_reason})" if reactor.io_reason else ""
    kind = "block device " if backing.block_device else "emulated flash " if backing.flash is not None else ""
    size = human(export.device.capacity_sectors * SECTOR_BYTES)
    lines = [
        f"virtflash serves {kind}{backing.description} ({', '.join([size, *how])})",
        f"  socket    {served.at}",
        f"  queues    {export.queue_count}, on {len(server.reactors)} reactor{'s' if len(server.reactors) > 1 else ''}",
        f"  I/O       {IO_WORDS[reactor.io_path]}{reason}",
        f"  offers    {' '.join(feature_names(export))}",
        f"  attach    qemu-system-{platform.machine()} {qemu_options(served, number)}",
    ]
    return "\n".join(lines) + "\n"


def part_name(served: Served) -> str | None:
    """Of the flash that it lies on, if that is emulated."""
    if served.flash is not None:
        return part_of(served.flash)
    storage = served.export.backing.flash
    return None if storage is None else storage.profile.part.name


def feature_names(export: Export) -> list[str]:
    return [str(feature.name) for feature in SHOWN_FEATURES if export.features & feature]


def qemu_options(served: Served, number: int) -> str:
    """What to paste behind a QEMU binary. The second and third option share the guest's memory with us."""
    path = served.at.replace(",", ",,")  # QEMU's own quoting
    queues = f",num-queues={served.export.queue_count}" if served.export.features & BlkFeature.MQ else ",num-queues=1"
    options = [
        "-m", "1G",
        "-object", "memory-backend-memfd,id=mem,size=1G,share=on",
        "-machine", f"{MACHINES.get(platform.machine(), 'q35')},memory-backend=mem",
        "-chardev", f"socket,id=vf{number},path={path}",
        "-device", f"vhost-user-blk-pci,chardev=vf{number}{queues}",
    ]  # fmt: skip
    return shlex.join(options)


def human(size: int) -> str:
    """Bytes in the largest unit that gives a short number: "1 GiB", "1.5 MiB", "512 bytes"."""
    for unit, name in ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= unit:
            return f"{size / unit:.4g} {name}"
    return f"{size} bytes"
