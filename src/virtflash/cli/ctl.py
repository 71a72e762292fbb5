"""`virtflash ctl`: call a method of a running server, or watch what happens to it."""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from virtflash.cli import CommandError
from virtflash.standard_output import written_out

if TYPE_CHECKING:
    from virtflash.control.client import Client
    from virtflash.control.operator import MethodDescription, Parameter

WIDTH_MOST = 100
COMPLETION_SECONDS = 2.0
JSON_KINDS = {bool: "boolean", int: "integer", float: "number", list: "array", dict: "object", str: "string"}


def ask_methods(client: "Client") -> list["MethodDescription"]:
    """ControlError. What is not as we know it is left out: a server of another version."""
    import msgspec  # noqa: PLC0415

    from virtflash.control.client import ControlError  # noqa: PLC0415
    from virtflash.control.operator import MethodDescription  # noqa: PLC0415

    try:
        return msgspec.convert(client.call("methods"), list[MethodDescription])
    except msgspec.ValidationError as error:
        raise ControlError(
            f"this server tells of its methods in another way than this program knows: {error}"
        ) from None


def complete_method(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return [
        CompletionItem(method.name, help=method.summary)
        for method in methods_to_complete(context)
        if method.name.startswith(incomplete)
    ]


def complete_key(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return [
        CompletionItem(f"{parameter.name}=", help=parameter.description)
        for method in methods_to_complete(context)
        if method.name == context.params.get("method")
        for parameter in method.parameters
        if parameter.name.startswith(incomplete)
    ]


def methods_to_complete(context: click.Context) -> list["MethodDescription"]:
    """None, where no server answers."""
    from virtflash.control.client import Client, ControlError  # noqa: PLC0415

    try:
        with Client(context.params["socket"], timeout=COMPLETION_SECONDS) as client:
            return ask_methods(client)
    except (ControlError, KeyError):
        return []


@click.command(add_help_option=False)
@click.argument("socket", type=click.Path(path_type=Path), required=False)
@click.argument("method", required=False, shell_complete=complete_method)
@click.argument("parameters", nargs=-1, metavar="[KEY=VALUE]...", shell_complete=complete_key)
@click.option(
    "--json", "as_json", is_flag=True, help="Print what the server answers as JSON; of events a line for each."
)
@click.option(
    "-h", "--help", "wants_help", is_flag=True, help="With a SOCKET, or a METHOD too: what that server can do."
)
@click.pass_context
def ctl(
    context: click.Context,
    *,
    socket: Path | None,
    method: str | None,
    parameters: tuple[str, ...],
    as_json: bool,
    wants_help: bool,
) -> None:
    """Call METHOD of the server whose control socket SOCKET is: the `control` of its configuration.

    \b
    virtflash ctl SOCKET --help                    the methods of that server, with their parameters
    virtflash ctl SOCKET METHOD --help             all about one of them
    virtflash ctl SOCKET status                    how it is
    virtflash ctl SOCKET grow name=radio size="2 GiB"
    virtflash ctl SOCKET watch                     events, until Ctrl-C

    A VALUE is JSON where it can be read as that, and where the method takes such; else it is text.
    """
    if socket is None:
        if not wants_help:
            raise click.UsageError("name the control socket of a server")
        click.echo(context.get_help())
        return
    from virtflash.control.client import Client, ControlError  # noqa: PLC0415

    try:
        with Client(socket) as client:
            talk(client, method, parameters, as_json=as_json, wants_help=wants_help)
    except ControlError as error:
        raise CommandError(str(error)) from error


def talk(client: "Client", name: str | None, written: Sequence[str], *, as_json: bool, wants_help: bool) -> None:
    """ControlError, click.UsageError."""
    known = {method.name: method for method in ask_methods(client)}
    if wants_help:
        show_help(known, name)
        return
    if name is None:
        raise click.UsageError(f"name a method; this server has {', '.join(known)}")
    given = values(written, {each.name: each for each in known[name].parameters} if name in known else {})
    if name == "watch":
        watch(client, given, as_json=as_json)
    else:
        show(name, client.call(name, **given), as_json=as_json)


def values(written: Sequence[str], known: Mapping[str, "Parameter"]) -> dict[str, Any]:
    """click.UsageError: what is no KEY=VALUE, or is there twice."""
    given: dict[str, Any] = {}
    for word in written:
        key, equals, text = word.partition("=")
        if not equals or not key:
            example = next(iter(known), "name")
            raise click.UsageError(
                f"{word!r}: write parameters as KEY=VALUE, such as {example}={word.strip('=') or '...'}"
            )
        if key in given:
            raise click.UsageError(f"{key} is given twice")
        given[key] = value(text, known[key].json_schema if key in known else {})
    return given


def value(text: str, schema: Mapping[str, Any]) -> Any:
    """JSON where it is some, unless the method takes text there and nothing of that kind."""
    import msgspec  # noqa: PLC0415

    kinds = json_kinds(schema)
    try:
        read = msgspec.json.decode(text.encode(errors="surrogateescape"))
    except (ValueError, RecursionError):
        read = text
    if isinstance(read, str):
        return read.split(",") if kinds == {"array"} else read
    kind = "null" if read is None else JSON_KINDS[type(read)]
    fits = kind in kinds or (kind == "integer" and "number" in kinds)
    return text if "string" in kinds and not fits else read


def json_kinds(schema: Mapping[str, Any]) -> set[str]:
    """What a schema allows, as far as it says so by kind."""
    kinds = {kind for each in schema.get("anyOf", []) for kind in json_kinds(each)}
    if "enum" in schema:
        kinds.add("string")
    return kinds | ({schema["type"]} if "type" in schema else set())


def watch(client: "Client", given: Mapping[str, Any], *, as_json: bool) -> None:
    """Until Ctrl-C. ControlError: the server went away."""
    import msgspec  # noqa: PLC0415

    from virtflash.control.readable import event_line  # noqa: PLC0415

    try:
        for event in client.events(**given):
            print_lines([msgspec.json.encode(event).decode() if as_json else event_line(event)])
    except KeyboardInterrupt:
        return


def show(name: str, result: Any, *, as_json: bool) -> None:
    import msgspec  # noqa: PLC0415

    from virtflash.control.readable import readable  # noqa: PLC0415

    print_lines([msgspec.json.encode(result).decode()] if as_json else readable(name, result))


def show_help(known: Mapping[str, "MethodDescription"], name: str | None) -> None:
    from virtflash.control.readable import as_typed, method_lines, method_list  # noqa: PLC0415

    width = min(shutil.get_terminal_size().columns, WIDTH_MOST)
    if name is None:
        print_lines(["Usage: virtflash ctl SOCKET METHOD [KEY=VALUE]...", "", *method_list(known.values(), width)])
        return
    if name not in known:
        raise click.UsageError(unknown(name, known))
    words = " ".join(["virtflash ctl SOCKET", name, *map(as_typed, known[name].parameters)])
    print_lines([f"Usage: {words}", "", *method_lines(known[name], width)])


def unknown(name: str, known: Iterable[str]) -> str:
    from virtflash.config.reading import hint  # noqa: PLC0415

    return f"this server has no method {name!r}; {hint(name, list(known))}"


def print_lines(lines: Sequence[str]) -> None:
    """At once: somebody may wait for them at the other end of a pipe."""
    with written_out():
        click.echo("\n".join(lines))
