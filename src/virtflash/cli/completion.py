"""`virtflash completion SHELL`."""

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print what completes virtflash's command line in SHELL.

    \b
    bash:  eval "$(virtflash completion bash)"     in ~/.bashrc
    zsh:   eval "$(virtflash completion zsh)"      in ~/.zshrc
    fish:  virtflash completion fish >~/.config/fish/completions/virtflash.fish
    """
    from virtflash.cli import virtflash  # noqa: PLC0415

    made = get_completion_class(shell)
    if made is None:
        raise click.ClickException(f"nothing completes in {shell}")
    click.echo(made(virtflash, {}, "virtflash", "_VIRTFLASH_COMPLETE").source())
