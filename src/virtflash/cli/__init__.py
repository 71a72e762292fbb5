"""The command line. Commands are imported when they are called: most of what they need takes long to import."""

import importlib

import click

from virtflash import __version__

COMMANDS = {
    "serve": "serve a raw image or block device to a virtual machine over vhost-user",
    "bench": "measure this or any other vhost-user-blk server",
    "demo": "boot two real Linux guests on two volumes, and see what becomes of them",
    "completion": "print what completes this command line in bash, zsh or fish",
}


class LazyGroup(click.Group):
    """A group whose commands live in `virtflash.cli.NAME`, as an object called NAME."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(f"virtflash.cli.{cmd_name}"), cmd_name)
        return command

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list, without importing what it names."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def print_version(context: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if not wanted or context.resilient_parsing:
        return
    import platform  # noqa: PLC0415

    from virtflash.engine import versions  # noqa: PLC0415

    compiled = ", ".join(f"{name} {version}" for name, version in versions().items())
    click.echo(f"virtflash {__version__} (Python {platform.python_version()}; compiled in: {compiled})")
    context.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=print_version,
    help="Print the versions of this program and of what was compiled in.",
)
def virtflash() -> None:
    """virtflash: a virtio block server made for flash that several virtual machines share."""


def run(command: click.Command, name: str) -> int:
    """Run a command; returns the exit status. What the user got wrong is told in one line."""
    try:
        result = command.main(prog_name=name, standalone_mode=False)
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx is not None else name
        click.echo(f"{path}: {error.format_message()} (see {path} --help)", err=True)
        return error.exit_code
    except click.ClickException as error:
        click.echo(f"{name}: {error.format_message()}", err=True)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return 130
    return result if isinstance(result, int) else 0


def main() -> int:
    """The program `virtflash`."""
    return run(virtflash, "virtflash")
