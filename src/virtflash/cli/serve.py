"""`virtflash serve`: the server's command line."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from virtflash.cli import CommandError
from virtflash.cli.sizes import Size
from virtflash.standard_output import abandon_output

if TYPE_CHECKING:
    from virtflash.logs import Log
    from virtflash.server import Options, Volume

CAPABILITIES = json.dumps({"type": "block", "features": ["read-only", "blk-file"]})  # of the program conventions


class NamedPath(click.Path):
    """A path that has a name."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not value:
            self.fail("an empty path", param, ctx)
        return super().convert(value, param, ctx)


PATH = NamedPath(path_type=Path)


@click.command()
@click.argument("configuration", type=PATH, required=False)
@click.option(
    "--image",
    "--blk-file",
    "images",
    type=PATH,
    multiple=True,
    metavar="FILE",
    help="Raw image file or block device to serve; several are served at several sockets, in their order.",
)
@click.option(
    "--flash",
    "flashes",
    type=PATH,
    multiple=True,
    metavar="FILE",
    help="Emulated flash to serve, as `virtflash create` makes it; of several each has its socket, behind the images'.",
)
@click.option(
    "--null",
    "null",
    type=Size(),
    metavar="SIZE",
    help="Serve a disk of this size that keeps nothing, to measure with (8GiB).",
)
@click.option(
    "--socket", "--socket-path", "sockets", type=PATH, multiple=True, metavar="PATH", help="UNIX socket to listen on."
)
@click.option("--fd", type=click.IntRange(min=0), metavar="N", help="A listening socket that was inherited, instead.")
@click.option(
    "--host-sync/--no-host-sync",
    default=True,
    show_default=True,
    help="Emulated flash survives a crash of this host too: a flush reaches its disk.",
)
@click.option(
    "--timing", type=click.Choice(["real"]), help="Emulated flash takes the time that the real part would take."
)
@click.option(
    "--temperature",
    type=click.FloatRange(-55, 175),
    metavar="CELSIUS",
    help="Of the emulated part, from now on; heat ages its data.",
)
@click.option("--direct", is_flag=True, help="Go round the host's page cache (O_DIRECT).")
@click.option("--read-only", is_flag=True, help="Refuse whatever would change data.")
@click.option("--queues", type=click.IntRange(1, 64), default=1, show_default=True, help="Virtqueues offered.")
@click.option(
    "--reactors",
    type=click.IntRange(0, 64),
    default=0,
    metavar="N",
    help="Threads that serve queues; 0, the default: one for each queue, up to half of the processors.",
)
@click.option(
    "--serial",
    metavar="TEXT",
    help="Serial number that guests read, up to 20 characters, the image's name by default. "
    "Several volumes get -0, -1, ... behind it.",
)
@click.option("--spec", type=click.Choice(["1.0"]), help="Offer what a driver of this version knows, and TRIM.")
@click.option(
    "--io",
    type=click.Choice(["auto", "io_uring", "io_uring-plain", "threads"]),
    default="auto",
    show_default=True,
    help="How I/O is done; auto takes the best that the kernel allows.",
)
@click.option(
    "--statistics", type=PATH, metavar="FILE", help="Write counters there as JSON at the end, and on SIGUSR1."
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    help="The least that is logged, to standard error; info, if the configuration says nothing else.",
)
@click.option("--log-json", is_flag=True, help="Log as JSON, one object a line.")
@click.option("--print-capabilities", is_flag=True, help="Print what this back end can, as JSON, and exit.")
def serve(
    *,
    configuration: Path | None,
    images: tuple[Path, ...],
    flashes: tuple[Path, ...],
    null: int | None,
    sockets: tuple[Path, ...],
    fd: int | None,
    log_level: str | None,
    log_json: bool,
    print_capabilities: bool,
    **how: Any,
) -> int:
    """Serve the volumes of CONFIGURATION, a TOML file, to virtual machines as virtio block devices, over vhost-user;
    or, without one, raw images, block devices or emulated flash named by options.

    Runs in the foreground until SIGTERM. A front end may leave and come back, or another one may come. SIGHUP reads the
    configuration again; without one, it looks whether an image has grown and tells its guest.
    """
    if print_capabilities:
        click.echo(CAPABILITIES)
        return 0
    if configuration is not None:
        check_configuration_alone()
        return serve_configuration(configuration, log_level=log_level, log_json=log_json)
    count = len(images) + len(flashes)
    check_what_and_where(images=count, null=null is not None, sockets=len(sockets), fd=fd is not None)
    check_named_once([*images, *flashes, *sockets])
    check_options_of_kind(images=bool(images), flashes=bool(flashes), how=how)
    from virtflash.server import Options, Volume  # noqa: PLC0415

    places: list[tuple[Path | None, int | None]] = [(path, None) for path in sockets] or [(None, fd)]
    served: list[Volume] = [Volume(image=image) for image in images] + [Volume(flash=flash) for flash in flashes]
    volumes = [
        replace(volume, socket_path=path, fd=inherited)
        for volume, (path, inherited) in zip(served or [Volume(null_bytes=null)], places, strict=True)
    ]
    return serve_volumes(volumes, Options(**how), log_level=log_level or "info", log_json=log_json)


def check_configuration_alone() -> None:
    """click.UsageError: options that say what a configuration says."""
    context = click.get_current_context()
    allowed = {"configuration", "log_level", "log_json", "print_capabilities"}
    for parameter in context.command.params:
        name = parameter.name or ""
        if name not in allowed and context.get_parameter_source(name) is not ParameterSource.DEFAULT:
            raise click.UsageError(f"{parameter.opts[0]} beside a configuration: write it there")


def serve_configuration(path: Path, *, log_level: str | None, log_json: bool) -> int:
    """Serve a file of flashes and volumes until told to stop; returns the exit status."""
    from virtflash.announcement import announce_service  # noqa: PLC0415
    from virtflash.config import ConfigurationError, read_configuration  # noqa: PLC0415
    from virtflash.logs import set_up_logging  # noqa: PLC0415
    from virtflash.server import block_signals  # noqa: PLC0415
    from virtflash.service import Service  # noqa: PLC0415
    from virtflash.surroundings import Surroundings  # noqa: PLC0415
    from virtflash.systemd import SystemdError, listening_sockets  # noqa: PLC0415

    try:
        inherited = listening_sockets()
        configuration = read_configuration(path)
        set_up_logging(log_level or configuration.server.log_level, as_json=log_json)
        block_signals()
        service = Service.create(path, configuration, inherited)
        with service, Surroundings(service) as surroundings:
            tell(partial(announce_service, service, as_json=log_json), service.server.log)
            surroundings.ready()
            service.server.run()
    except SystemdError as error:
        raise CommandError(str(error)) from error
    except ConfigurationError as error:
        for problem in error.problems:
            click.echo(problem, err=True)
        return 1
    return 0


def tell(announce: Callable[[], None], log: "Log") -> None:
    """Print what is served. Nobody has to read it for guests to be served."""
    try:
        announce()
    except OSError as error:
        log.warning("what is served could not be printed: %s", error.strerror)
        abandon_output()


def check_what_and_where(*, images: int, null: bool, sockets: int, fd: bool) -> None:
    """click.UsageError: what to serve, or where, is missing or said twice."""
    if bool(images) == null:
        raise click.UsageError("name what to serve: --image FILE, --flash FILE or --null SIZE")
    if bool(sockets) == fd:
        raise click.UsageError("name where to serve it: either --socket PATH or --fd N")
    if (images or 1) != (sockets or 1):
        raise click.UsageError(f"volumes to serve: {images or 1}, sockets: {sockets or 1}; each needs one of its own")


def check_options_of_kind(*, images: bool, flashes: bool, how: dict[str, Any]) -> None:
    """click.UsageError: an option of what is not served."""
    if how["direct"] and flashes and not images:
        raise click.UsageError("--direct is of images; emulated flash has no page cache to go round")
    if not flashes and (how["timing"] is not None or how["temperature"] is not None or not how["host_sync"]):
        raise click.UsageError("--timing, --temperature and --no-host-sync are of emulated flash: name it with --flash")


def check_named_once(paths: Sequence[Path]) -> None:
    """click.UsageError: a path that is empty, or the same file twice."""
    seen: set[Path] = set()
    for path in paths:
        if path in seen or path.resolve() in seen:
            raise click.UsageError(f"{path} is named twice")
        seen |= {path, path.resolve()}


def serve_volumes(
    volumes: "Sequence[Volume]", options: "Options", *, log_level: str = "info", log_json: bool = False
) -> int:
    """Serve until told to stop; returns the exit status."""
    from virtflash.announcement import announce  # noqa: PLC0415
    from virtflash.backing import BackingError  # noqa: PLC0415
    from virtflash.logs import set_up_logging  # noqa: PLC0415
    from virtflash.server import Server, ServerError, block_signals  # noqa: PLC0415
    from virtflash.statistics_file import StatisticsError  # noqa: PLC0415
    from virtflash.vhost_user.listening_socket import SocketError  # noqa: PLC0415

    set_up_logging(log_level, as_json=log_json)
    block_signals()
    try:
        server = Server.create(volumes, options)
    except (BackingError, SocketError, ServerError, StatisticsError, OSError) as error:
        raise CommandError(str(error)) from error
    with server:
        tell(partial(announce, server, as_json=log_json), server.log)
        server.run()
    return 0
