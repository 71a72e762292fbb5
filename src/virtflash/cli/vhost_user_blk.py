"""`virtflash-vhost-user-blk`: the back-end program as management software expects it.

Its options are those of the vhost-user back-end program conventions and no others; see packaging/50-virtflash.json.
"""

import json
from pathlib import Path

import click

CAPABILITIES = json.dumps({"type": "block", "features": ["read-only", "blk-file"]})


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--socket-path", type=click.Path(path_type=Path), metavar="PATH", help="UNIX socket to listen on.")
@click.option("--fd", type=click.IntRange(min=0), metavar="N", help="A listening socket that was inherited, instead.")
@click.option("--blk-file", type=click.Path(path_type=Path), metavar="FILE", help="Raw image or block device.")
@click.option("--read-only", is_flag=True, help="Refuse whatever would change data.")
@click.option("--print-capabilities", is_flag=True, help="Print what this back end can, as JSON, and exit.")
@click.pass_context
def main(
    context: click.Context,
    *,
    socket_path: Path | None,
    fd: int | None,
    blk_file: Path | None,
    read_only: bool,
    print_capabilities: bool,
) -> None:
    """Serve a raw image or block device to a virtual machine over vhost-user."""
    if print_capabilities:
        click.echo(CAPABILITIES)
        return
    if blk_file is None:
        raise click.UsageError("name what to serve: --blk-file FILE")
    from virtflash.cli.serve import serve  # noqa: PLC0415

    arguments = ["--blk-file", str(blk_file)]
    arguments += ["--socket-path", str(socket_path)] if socket_path is not None else []
    arguments += ["--fd", str(fd)] if fd is not None else []
    arguments += ["--read-only"] if read_only else []
    serve.main(arguments, prog_name="virtflash-vhost-user-blk")
