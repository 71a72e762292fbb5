"""`virtflash serve`: the server's command line, and what it says when it begins."""

import sys
from pathlib import Path

import click

from virtflash.cli.sizes import Size

PATH = click.Path(path_type=Path)


@click.command()
@click.option(
    "--image",
    "--blk-file",
    "images",
    type=PATH,
    multiple=True,
    metavar="FILE",
    help="Raw image file or block device to serve; several are served at several sockets, in their order.",
)
@click.option("--null", "null", type=Size(), metavar="SIZE", help="Serve a disk that keeps nothing, to measure with.")
@click.option(
    "--socket", "--socket-path", "sockets", type=PATH, multiple=True, metavar="PATH", help="UNIX socket to listen on."
)
@click.option("--fd", type=click.IntRange(min=0), metavar="N", help="A listening socket that was inherited, instead.")
@click.option("--direct", is_flag=True, help="Go round the host's page cache (O_DIRECT).")
@click.option("--read-only", is_flag=True, help="Refuse whatever would change data.")
@click.option("--queues", type=click.IntRange(1, 64), default=1, show_default=True, help="Virtqueues offered.")
@click.option(
    "--reactors",
    type=click.IntRange(1, 64),
    metavar="N",
    help="Threads that serve queues; default: one for each queue, up to half of the processors.",
)
@click.option(
    "--serial", metavar="TEXT", help="Serial number that guests read, up to 20 characters; default: the name."
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
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True
)
@click.option("--log-json", is_flag=True, help="Log as JSON, one object a line.")
@click.option("--print-capabilities", is_flag=True, help="Print what this back end can, as JSON, and exit.")
@click.pass_context
def serve(context: click.Context, /, *, print_capabilities: bool, **parameters: object) -> None:
    """Serve raw images or block devices to virtual machines as virtio block devices, over vhost-user.

    Runs in the foreground until SIGTERM. A front end may leave and come back, or another one may come. SIGHUP looks whether
    an image has grown and tells its guest.
    """
    if print_capabilities:
        from virtflash.cli.vhost_user_blk import CAPABILITIES  # noqa: PLC0415

        click.echo(CAPABILITIES)
        return
    context.exit(run(**parameters))  # type: ignore[arg-type]


def run(
    *,
    images: tuple[Path, ...],
    null: int | None,
    sockets: tuple[Path, ...],
    fd: int | None,
    direct: bool,
    read_only: bool,
    queues: int,
    reactors: int | None,
    serial: str | None,
    spec: str | None,
    io: str,
    statistics: Path | None,
    log_level: str,
    log_json: bool,
) -> int:
    """Serve until told to stop; returns the exit status."""
    from virtflash.announcement import announce  # noqa: PLC0415
    from virtflash.backing import BackingError  # noqa: PLC0415
    from virtflash.logs import set_up_logging  # noqa: PLC0415
    from virtflash.server import Options, Server, ServerError, Volume, block_signals  # noqa: PLC0415
    from virtflash.vhost_user.listening_socket import SocketError  # noqa: PLC0415

    backed = len(images) or (null is not None)
    check_usage(images=len(images), null=null is not None, sockets=len(sockets), fd=fd is not None)
    places: list[tuple[Path | None, int | None]] = [(path, None) for path in sockets] or [(None, fd)]
    volumes = [
        Volume(images[i] if images else None, null, socket_path, inherited)
        for i, (socket_path, inherited) in zip(range(backed), places, strict=True)
    ]
    options = Options(read_only, direct, queues, reactors or 0, serial, spec, io, statistics)
    set_up_logging(log_level, as_json=log_json)
    block_signals()
    try:
        server = Server.create(volumes, options)
    except (BackingError, SocketError, ServerError, OSError) as error:
        click.echo(f"virtflash serve: {error}", err=True)
        return 1
    with server:
        announce(server, as_json=log_json)
        server.run()
    return 0


def check_usage(*, images: int, null: bool, sockets: int, fd: bool) -> None:
    """click.UsageError: what to serve, or where, is missing or said twice."""
    if bool(images) == null:
        raise click.UsageError("name what to serve: either --image FILE or --null SIZE")
    if bool(sockets) == fd:
        raise click.UsageError("name where to serve it: either --socket PATH or --fd N")
    if (images or 1) != (sockets or 1):
        raise click.UsageError(f"{images} images at {sockets or 1} sockets: each image needs a socket of its own")
