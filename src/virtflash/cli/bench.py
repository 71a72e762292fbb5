"""`virtflash bench`: measure this or any other vhost-user-blk server."""

import shlex
import signal
import sys
from collections.abc import Sequence
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
FILE_COLUMNS = 160
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
        if not depth or not queues:
            self.fail(f"{value!r}: depth and queues are at least 1", param, ctx)
        return DIRECTIONS[words[0]], Size().convert(words[1], param, ctx), depth, queues


@click.command()
@click.argument("socket", required=False, type=click.Path(path_type=Path))
@click.option(
    "--rw",
    "direction",
    type=click.Choice(["read", "write", "mixed"]),
    default="read",
    show_default=True,
    help="What the requests do; mixed writes every second one.",
)
@click.option("--block-size", type=Size(), default="4KiB", show_default=True, help="Bytes of each request.")
@click.option(
    "--depth", type=click.IntRange(1, 1024), default=32, show_default=True, help="Requests in flight, each queue."
)
@click.option("--queues", type=click.IntRange(1, 64), default=1, show_default=True, help="Queues, a thread for each.")
@click.option(
    "--load", "loads", type=Load(), multiple=True, metavar='"RW SIZE DEPTH [QUEUES]"', help="Several loads in one go."
)
@click.option("--standard", is_flag=True, help="The loads that the project's own tables show.")
@click.option("--seconds", type=Number(0.05, 3600), default=3.0, show_default=True, help="Of each round.")
@click.option("--rounds", type=click.IntRange(1, 1000), help="Of each load; the median counts.  [default: 1; --vs: 3]")
@click.option("--poll", is_flag=True, help="Look for completions all the time instead of waiting for interrupts.")
@click.option("--spin", type=Number(0, 1e6), default=0.0, metavar="US", help="Look for so long before waiting.")
@click.option(
    "--chains",
    type=click.Choice(["direct", "indirect"]),
    help="Linux guests prefer indirect ones; some servers are slower with them.  [default: direct where they fit]",
)
@click.option("--verify", is_flag=True, help="Fill the volume with stamps first, and check every sector that is read.")
@click.option("--write-allowed", is_flag=True, help="Writing destroys what the volume at SOCKET holds: do it.")
@click.option(
    "--server", metavar="COMMAND", help="Start this server for each round, with {socket}, {image} and {queues} in it."
)
@click.option("--vs", metavar="COMMAND", help="And this one in turn, to be compared with.")
@click.option("--image-size", type=Size(), default="1GiB", show_default=True, help="Of what is made for {image}.")
@click.option(
    "--directory",
    type=click.Path(path_type=Path, exists=True, file_okay=False, writable=True),
    help="Where image and sockets are made.  [default: /dev/shm]",
)
@click.option("--json", "as_json", is_flag=True, help="Print all figures of all rounds as JSON.")
def bench(**parameters: object) -> None:
    """Measure a vhost-user-blk server: the one that listens at SOCKET, or one that is started for it.

    Without SOCKET and --server, `virtflash serve` is measured on a file in memory. With --vs two servers take turns,
    and the table shows the ratio of their requests per second.

    \b
    virtflash bench /run/vol.sock --depth 1
    virtflash bench --standard --vs 'qemu-storage-daemon
        --blockdev driver=file,node-name=d,filename={image},aio=io_uring
        --export type=vhost-user-blk,id=e,node-name=d,addr.type=unix,addr.path={socket},writable=on,num-queues={queues}'
    """
    from virtflash.driver.errors import FrontEndError  # noqa: PLC0415 - what takes long to import comes when it is used

    # A terminated measurement takes its servers and its image along, as an interrupted one does.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    try:
        status = run(**parameters)  # type: ignore[arg-type]
    except (FrontEndError, OSError) as error:
        click.echo(f"virtflash bench: {error}", err=True)
        status = 1
    except KeyboardInterrupt:
        status = 130
    sys.exit(status)


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

    if socket and server:
        raise click.UsageError("name one server to measure: either SOCKET or --server COMMAND")
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
    program = shlex.join([sys.executable, "-c", "from virtflash.cli import main; main()"])
    return f"{program} {OWN_SERVER}"


def chosen_servers(socket: Path | None, server: str | None, vs: str | None, place: Path) -> "list[MeasuredServer]":
    from virtflash.bench.measured_server import RunningServer, StartedServer  # noqa: PLC0415

    def started(command: str, name: str | None = None) -> StartedServer:
        return StartedServer(command, place, place / "image", name=name)

    first: MeasuredServer = RunningServer(socket) if socket else started(own_command(), "virtflash")
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
    import json  # noqa: PLC0415

    from rich.console import Console  # noqa: PLC0415

    from virtflash.bench.figures import compared, measured  # noqa: PLC0415

    if as_json:
        click.echo(json.dumps([result.to_json(names) for result in results], indent=2))
    else:
        table = compared(results, names) if len(names) > 1 else measured(results)
        # What goes to a file is as wide as it needs to be.
        Console(width=None if sys.stdout.isatty() else FILE_COLUMNS).print(table)
    wrong = sum(result.wrong for result in results)
    if wrong:
        click.echo(f"virtflash bench: {wrong} requests failed or gave the wrong data", err=True)
    return 1 if wrong else 0
