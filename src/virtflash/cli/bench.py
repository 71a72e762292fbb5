"""`virtflash bench`: measure this or any other vhost-user-blk server."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from virtflash.cli.sizes import Size

if TYPE_CHECKING:  # imported when it is used: it takes long
    from virtflash.bench.comparison import Result
    from virtflash.bench.measured_server import MeasuredServer
    from virtflash.bench.measurement import Settings
    from virtflash.bench.workload import Workload

DIRECTIONS = {"r": "read", "read": "read", "w": "write", "write": "write", "m": "mixed", "mixed": "mixed"}
MEMORY_DIRECTORY = Path("/dev/shm")  # so that the server is measured, not the disk
COMPARED_ROUNDS = 3
DEPTH_MAX = 1024
QUEUES_MAX = 64
SECTOR_BYTES = 512
OWN_SERVER = "serve --image {image} --socket {socket} --queues {queues} --log-level warning"

LoadWords = tuple[str, int, int, int]


class Number(click.FloatRange):
    """A range of numbers. "nan" is in none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if number != number:  # noqa: PLR0124 - as only "nan" does
            self.fail(f"{value} is no number", param, ctx)
        return number


class Load(click.ParamType):  # type: ignore[type-arg]  # click became generic in 8.4
    """A workload in a few words, "read 4KiB 32" or "r 4096 32 2": direction, block size, depth, queues."""

    name = "load"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> LoadWords:
        words = str(value).split()
        if len(words) not in (3, 4) or words[0] not in DIRECTIONS or not all(word.isdigit() for word in words[2:]):
            self.fail(f'{value!r} is no load; write it like "read 4KiB 32" or "w 4096 32 2"', param, ctx)
        depth, queues = (int(word) for word in [*words[2:], "1"][:2])
        if not 1 <= depth <= DEPTH_MAX or not 1 <= queues <= QUEUES_MAX:
            self.fail(f"{value!r}: depth is from 1 to {DEPTH_MAX}, queues are from 1 to {QUEUES_MAX}", param, ctx)
        return DIRECTIONS[words[0]], Size().convert(words[1], param, ctx), depth, queues


@click.command()
@click.argument("socket", required=False, type=click.Path(path_type=Path))
@click.option(
    "--rw",
    "direction",
    type=click.Choice(["read", "write", "mixed"]),
    default="read",
    show_default=True,
    help="What the requests do; mixed: half of them, by chance, write.",
)
@click.option("--block-size", type=Size(), default="4KiB", show_default=True, help="Bytes of each request.")
@click.option(
    "--depth",
    type=click.IntRange(1, DEPTH_MAX),
    default=32,
    show_default=True,
    help="Requests that are kept in flight on each queue.",
)
@click.option(
    "--queues",
    type=click.IntRange(1, QUEUES_MAX),
    default=1,
    show_default=True,
    help="Queues that are used at the same time; each has a thread here.",
)
@click.option(
    "--load",
    "loads",
    type=Load(),
    multiple=True,
    metavar="LOAD",
    help='Instead of the four options above, in one: "RW SIZE DEPTH [QUEUES]", such as "read 4KiB 32". May be given '
    "several times: each load is measured and has a row.",
)
@click.option(
    "--standard",
    is_flag=True,
    help="Instead of --load: the five loads by which the project itself compares servers.",
)
@click.option(
    "--seconds",
    type=Number(0.05, 3600),
    default=3.0,
    show_default=True,
    help="How long each round of each load takes.",
)
@click.option(
    "--rounds",
    type=click.IntRange(1, 1000),
    help="How often each load is measured; what is shown is the median.  [default: 1; with --vs: 3]",
)
@click.option(
    "--poll",
    is_flag=True,
    help="Never sleep while requests are in flight: look for completions all the time, on a processor for each queue.",
)
@click.option(
    "--spin",
    type=Number(0, 1e6),
    default=0.0,
    metavar="US",
    help="Look for completions for this many microseconds before sleeping until the server's interrupt.  [default: 0]",
)
@click.option(
    "--chains",
    type=click.Choice(["direct", "indirect"]),
    help="How requests lie in the ring. Linux guests prefer indirect chains; some servers are slower with them.  "
    "[default: direct, unless --depth needs a ring larger than servers take]",
)
@click.option(
    "--verify",
    is_flag=True,
    help="Write a stamp into every sector of the volume first, then check each sector that is read.",
)
@click.option(
    "--write-allowed",
    is_flag=True,
    help="Permit writing to the volume at SOCKET, which destroys what is on it. What is started here needs no permit.",
)
@click.option(
    "--server",
    metavar="COMMAND",
    help="Measure this server instead of one at SOCKET. It is started anew for each round; {socket} in the command "
    "is where it has to listen, {image} the file to serve, {queues} the number of queues.",
)
@click.option(
    "--vs",
    metavar="COMMAND",
    help="Measure a second server, started like that of --server, in turn with the first, and compare them.",
)
@click.option(
    "--image-size",
    type=Size(),
    default="1GiB",
    show_default=True,
    help="Size of the file that is made for {image}.",
)
@click.option(
    "--directory",
    type=click.Path(path_type=Path, exists=True, file_okay=False, writable=True),
    help="Where that file and the sockets are made, and removed again.  [default: /dev/shm]",
)
@click.option("--json", "as_json", is_flag=True, help="Print all figures of all rounds as JSON instead of a table.")
@click.pass_context
def bench(context: click.Context, /, **parameters: object) -> None:
    """Measure a vhost-user-blk server: the one that listens at SOCKET, or one that is started for it.

    Without SOCKET and --server, `virtflash serve` is measured on a file in memory. With --vs two servers take turns,
    and the table shows the ratio of their requests per second. Requests are at random places of the volume. The exit
    status is 1 where requests failed; only those that succeeded are in the figures.

    \b
    virtflash bench /run/vol.sock --depth 1
    virtflash bench --load "read 4KiB 1" --load "write 64KiB 16 4"
    export="type=vhost-user-blk,id=e,node-name=d,num-queues={queues}"
    export="$export,writable=on,addr.type=unix,addr.path={socket}"
    virtflash bench --standard --vs "qemu-storage-daemon \\
        --blockdev driver=file,node-name=d,filename={image},aio=io_uring \\
        --export $export"
    """
    from virtflash.children import unwind_on_signals  # noqa: PLC0415
    from virtflash.driver.errors import FrontEndError  # noqa: PLC0415 - what takes long to import comes when it is used

    check_options(context)
    unwind_on_signals()
    try:
        status = run(**parameters)  # type: ignore[arg-type]
    except (FrontEndError, OSError) as error:
        complain(str(error))
        status = 1
    sys.exit(status)


def complain(text: str) -> None:
    click.echo(f"virtflash bench: {text}", err=True)


# An option, and those that would have no effect beside it.
EXCLUSIVE = {
    "loads": ("direction", "block_size", "depth", "queues", "standard"),
    "standard": ("direction", "block_size", "depth", "queues"),
    "poll": ("spin",),
}


def check_options(context: click.Context) -> None:
    """click.UsageError: what was given contradicts itself, or something of it would have no effect."""
    given = given_options(context)
    for option, others in EXCLUSIVE.items():
        for other in others:
            if option in given and other in given:
                raise click.UsageError(f"{given[other]} has no effect beside {given[option]}: give one of them")
    if "socket" in given and "server" in given:
        raise click.UsageError("name one server to measure: either SOCKET or --server COMMAND")
    check_made_things(given, context.params)


def given_options(context: click.Context) -> dict[str, str]:
    """What the user said, not what a default says: parameters, and how they are written."""
    parameters = ((each.name, each.opts[0]) for each in context.command.params)
    said = click.core.ParameterSource.COMMANDLINE
    return {name: written for name, written in parameters if name and context.get_parameter_source(name) == said}


def check_made_things(given: Mapping[str, str], parameters: Mapping[str, Any]) -> None:
    """click.UsageError: an image or a directory is asked for, and nothing that is started needs it; or it is odd."""
    commands = [parameters[name] for name in ("server", "vs") if parameters[name]]
    if "socket" in given and not commands:
        for name in ("image_size", "directory"):
            if name in given:
                raise click.UsageError(f"{given[name]} has no effect: no server is started beside the one at SOCKET")
    own = "socket" not in given and "server" not in given
    if "image_size" in given and not own and not any("{image}" in command for command in commands):
        raise click.UsageError("--image-size has no effect: no command has {image} in it")
    if not parameters["image_size"] or parameters["image_size"] % SECTOR_BYTES:
        raise click.UsageError(f"--image-size: {parameters['image_size']} is no multiple of {SECTOR_BYTES} bytes")


def run(
    *,
    socket: Path | None,
    direction: str,
    block_size: int,
    depth: int,
    queues: int,
    loads: tuple[LoadWords, ...],
    standard: bool,
    seconds: float,
    rounds: int | None,
    poll: bool,
    spin: float,
    chains: str | None,
    verify: bool,
    write_allowed: bool,
    server: str | None,
    vs: str | None,
    image_size: int,
    directory: Path | None,
    as_json: bool,
) -> int:
    """Returns the exit status: 1 when requests failed."""
    from virtflash.bench.measurement import Settings  # noqa: PLC0415

    workloads = chosen_workloads(loads or ((direction, block_size, depth, queues),), standard=standard)
    indirect = None if chains is None else chains == "indirect"
    settings = Settings(seconds, -1 if poll else round(spin * 1000), indirect, verify)
    with ExitStack() as stack:
        place = Path(stack.enter_context(TemporaryDirectory(prefix="virtflash-bench-", dir=directory or memory())))
        servers = chosen_servers(socket, server, vs, place)
        if not write_allowed:
            refuse_writes(servers, workloads, verify=verify)
        make_image(servers, place / "image", image_size)
        results = measure_all(servers, workloads, settings, rounds or (COMPARED_ROUNDS if vs else 1))
    return show(results, [each.name for each in servers], as_json=as_json)


def chosen_workloads(loads: Sequence[LoadWords], *, standard: bool) -> "list[Workload]":
    from virtflash.bench.workload import STANDARD, Workload  # noqa: PLC0415

    return list(STANDARD) if standard else [Workload(*load) for load in loads]  # type: ignore[arg-type]


def memory() -> Path | None:
    return MEMORY_DIRECTORY if MEMORY_DIRECTORY.is_dir() else None


def own_command() -> str:
    """This program, serving, wherever it is installed."""
    program = shlex.join([sys.executable, "-c", "import sys; from virtflash.cli import main; sys.exit(main())"])
    return f"{program} {OWN_SERVER}"


def chosen_servers(socket: Path | None, server: str | None, vs: str | None, place: Path) -> "list[MeasuredServer]":
    from virtflash.bench.measured_server import RunningServer, StartedServer  # noqa: PLC0415

    def started(command: str, name: str | None = None) -> StartedServer:
        return StartedServer(command, place, place / "image", name=name)

    first: MeasuredServer = RunningServer(socket, complain) if socket else started(own_command(), "virtflash")
    if server:
        first = started(server)
    return [first, started(vs)] if vs else [first]


def refuse_writes(servers: "Sequence[MeasuredServer]", workloads: "Sequence[Workload]", *, verify: bool) -> None:
    """click.UsageError: something would be overwritten that was not made for it."""
    endangered = [server.name for server in servers if not server.disposable]
    if endangered and (verify or any(workload.writes for workload in workloads)):
        raise click.UsageError(
            f"writing destroys what {endangered[0]} serves: add --write-allowed if it may, or only read (--rw read)"
        )


def make_image(servers: "Sequence[MeasuredServer]", path: Path, size: int) -> None:
    from virtflash.bench.measured_server import write_image  # noqa: PLC0415

    if any(server.disposable for server in servers):
        write_image(path, size)


def measure_all(
    servers: "Sequence[MeasuredServer]", workloads: "Sequence[Workload]", settings: "Settings", rounds: int
) -> "list[Result]":
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    from virtflash.bench.comparison import run_rounds  # noqa: PLC0415

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), TextColumn("{task.fields[rate]}"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task("", total=len(workloads) * rounds * len(servers), rate="")

        def notice(run: int, workload: "Workload", server: "MeasuredServer", share: float, requests: int) -> None:
            rate = f"{requests / max(share, 0.01) / settings.seconds:,.0f}/s"
            bars.update(task, completed=run + share, description=f"{workload}: {server.name}", rate=rate)

        return run_rounds(servers, workloads, settings, rounds, notice)


def show(results: "Sequence[Result]", names: Sequence[str], *, as_json: bool) -> int:
    """Print the figures; returns the exit status."""
    import json  # noqa: PLC0415

    from virtflash.bench.figures import compared, measured  # noqa: PLC0415
    from virtflash.standard_output import written_out  # noqa: PLC0415

    if as_json:
        lines = [json.dumps([result.to_json(names) for result in results], indent=2)]
    else:
        lines = compared(results, names) if len(names) > 1 else measured(results)
    with written_out():
        click.echo("\n".join(lines))
    return 1 if complain_of_failures(results, names) else 0


def complain_of_failures(results: "Sequence[Result]", names: Sequence[str]) -> bool:
    """Name each load and server where requests failed; whether there was any."""
    found = False
    for result in results:
        for server, name in enumerate(names):
            if wrong := result.wrong(server):
                complain(f"{name}: {result.workload}: {wrong:,} requests failed or gave the wrong data")
                found = True
    return found
