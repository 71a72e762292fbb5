"""`virtflash-vhost-user-blk`: the back-end program as management software expects it.

Its options are those of the vhost-user back-end program conventions and no others; see packaging/50-virtflash.json.
"""

from pathlib import Path

import click

from virtflash.cli import run
from virtflash.cli.serve import CAPABILITIES, serve_volumes


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--socket-path", type=click.Path(path_type=Path), metavar="PATH", help="UNIX socket to listen on.")
@click.option("--fd", type=click.IntRange(min=0), metavar="N", help="A listening socket that was inherited, instead.")
@click.option("--blk-file", type=click.Path(path_type=Path), metavar="FILE", help="Raw image or block device.")
@click.option("--read-only", is_flag=True, help="Refuse whatever would change data.")
@click.option("--print-capabilities", is_flag=True, help="Print what this back end can, as JSON, and exit.")
def vhost_user_blk(
    *,
    socket_path: Path | None,
    fd: int | None,
    blk_file: Path | None,
    read_only: bool,
    print_capabilities: bool,
) -> int:
    """Serve a raw image or block device to a virtual machine over vhost-user."""
    if print_capabilities:
        click.echo(CAPABILITIES)
        return 0
    if blk_file is None:
        raise click.UsageError("name what to serve: --blk-file FILE")
    if (socket_path is None) == (fd is None):
        raise click.UsageError("name where to serve it: either --socket-path PATH or --fd N")
    from virtflash.server import Options, Volume  # noqa: PLC0415

    return serve_volumes([Volume(image=blk_file, socket_path=socket_path, fd=fd)], Options(read_only=read_only))


def main() -> int:
    """The program `virtflash-vhost-user-blk`."""
    return run(vhost_user_blk, "virtflash-vhost-user-blk")
