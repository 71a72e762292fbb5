"""The command line. Commands are imported when they are called: most of what they need takes long to import."""

import importlib
import sys

import click

from virtflash import __version__
from virtflash.standard_output import abandon_output

COMMANDS = {
    "create": "make an emulated eMMC, NAND or NOR flash in a file",
    "serve": "serve a raw image, block device or emulated flash to a virtual machine over vhost-user",
    "provision": "fill a volume of a configuration with a raw image, and read it back",
    "check-config": "tell all that is wrong with a configuration of flashes and volumes",
    "ctl": "control a running server, or watch what happens to it",
    "info": "tell wear, errors and lifetime of an emulated flash",
    "log": "read what happened to an emulated flash and its volumes: its black box",
    "top": "show live what a server's volumes and flashes do",
    "lab": "the laboratory: run an emulated flash through years in minutes",
    "bench": "measure this or any other vhost-user-blk server",
    "demo": "boot two real Linux guests on emulated eMMCs, and see what becomes of the flash",
    "completion": "print what completes this command line in bash, zsh or fish",
}


class LazyGroup(click.Group):
    """A group whose commands live in `virtflash.cli.NAME`, as an object called NAME; with _ for a hyphen."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        name = cmd_name.replace("-", "_")
        command: click.Command = getattr(importlib.import_module(f"virtflash.cli.{name}"), name)
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


@click.group(cls=LazyGroup, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=print_version,
    help="Print the versions of this program and of what was compiled in.",
)
@click.pass_context
def virtflash(context: click.Context) -> None:
    """virtflash: a virtio block server made for flash that several virtual machines share."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


class CommandError(click.ClickException):
    """Something is in the way that is no misuse of the command line; one line. Told with the command's name."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        context = click.get_current_context(silent=True)
        self.command_path = "virtflash" if context is None else context.command_path


def run(command: click.Command, name: str) -> int:
    """Run a command; returns the exit status. What is wrong is told in one line."""
    try:
        result = command.main(prog_name=name, standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx is not None else name
        return complain(f"{path}: {error.format_message().rstrip('.')}; see {path} --help", error.exit_code)
    except CommandError as error:
        return complain(f"{error.command_path}: {error.format_message()}", error.exit_code)
    except click.ClickException as error:
        return complain(f"{name}: {error.format_message()}", error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        return 130
    except OSError as error:
        abandon_output()
        return complain(f"{name}: {error.strerror or error}", 1)
    return result if isinstance(result, int) else 0


def complain(text: str, status: int) -> int:
    """One line on standard error, whatever it was made of."""
    click.echo(" ".join(text.split()), err=True)
    return status


def main() -> int:
    """The program `virtflash`."""
    return run(virtflash, "virtflash")
