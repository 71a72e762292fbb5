"""The command line as a user meets it: the real programs, what they say, and their exit status."""

import json
import os
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from virtflash.demo.server_process import is_listening
from virtflash.driver.blk import BlkDriver

PROGRAM = Path(sys.executable).with_name("virtflash")
BACK_END = Path(sys.executable).with_name("virtflash-vhost-user-blk")
DEADLINE_SECONDS = 20


def run(*arguments: object, program: Path = PROGRAM, **options: object) -> subprocess.CompletedProcess[str]:
    command = [str(program), *map(str, arguments)]
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        command, capture_output=True, text=True, check=False, timeout=DEADLINE_SECONDS, **options
    )


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.touch()
    os.truncate(path, 1 << 20)
    return path


MISUSE = {  # what a user may get wrong: the arguments, and what the one line must name
    "nothing to serve": ("serve --socket {tmp}/s", "--image"),
    "two things to serve": ("serve --image {image} --null 1M --socket {tmp}/s", "--null"),
    "nowhere to serve it": ("serve --image {image}", "--socket"),
    "an image too many": ("serve --image {image} --image {tmp}/odd --socket {tmp}/s", "one of its own"),
    "a socket too many": ("serve --null 1M --socket {tmp}/s --socket {tmp}/t", "one of its own"),
    "the same image twice": (
        "serve --image {image} --image {tmp}/../{here}/disk.img --socket {tmp}/s --socket {tmp}/t",
        "named twice",
    ),
    "the same socket twice": (
        "serve --image {image} --image {tmp}/odd --socket {tmp}/s --socket {tmp}/s",
        "named twice",
    ),
    "a path without a name": ("serve --image= --socket {tmp}/s", "an empty path"),
    "missing file": ("serve --image {tmp}/no --socket {tmp}/s", "No such file"),
    "directory": ("serve --image {tmp} --socket {tmp}/s", "neither a file nor a block device"),
    "odd size": ("serve --image {tmp}/odd --socket {tmp}/s", "512-byte sectors"),
    "socket path too long": ("serve --image {image} --socket {tmp}/{long}", "107 bytes"),
    "socket in no directory": ("serve --image {image} --socket {tmp}/no/s", "No such file"),
    "socket is a file": ("serve --image {image} --socket {tmp}/odd", "no socket"),
    "no descriptor": ("serve --image {image} --fd 99", "not inherited"),
    "unknown option": ("serve --imaeg {image} --socket {tmp}/s", "--imaeg"),
    "unknown command": ("sevre", "sevre"),
    "bad size": ("serve --null 12parsecs --socket {tmp}/s", "parsecs"),
    "odd null size": ("serve --null 1000 --socket {tmp}/s", "multiple of 512"),
    "serial too long": ("serve --image {image} --socket {tmp}/s --serial {long}", "20"),
    "unknown spec": ("serve --image {image} --socket {tmp}/s --spec 0.5", "0.5"),
    "a null disk too large": ("serve --null 99999999T --socket {tmp}/s", "below 8 EiB"),
    "a directory for statistics": ("serve --image {image} --socket {tmp}/s --statistics {tmp}", "no file"),
    "a device for statistics": ("serve --image {image} --socket {tmp}/s --statistics /dev/null", "no file"),
    "the image for statistics": ("serve --image {image} --socket {tmp}/s --statistics {image}", "is an image"),
    "the socket for statistics": (
        "serve --image {image} --socket {tmp}/s --statistics {tmp}/s",
        "is an image or a socket",
    ),
    "statistics in no directory": ("serve --image {image} --socket {tmp}/s --statistics {tmp}/no/x", "directory"),
}


@pytest.mark.parametrize("case", MISUSE)
def test_what_a_user_got_wrong_is_told_in_one_line(case: str, tmp_path: Path, image: Path) -> None:
    (tmp_path / "odd").write_bytes(bytes(1000))
    arguments, named = MISUSE[case]
    ended = run(*arguments.format(image=image, tmp=tmp_path, here=tmp_path.name, long="x" * 120).split())
    assert ended.returncode not in (0, None)
    assert ended.returncode > 0
    assert ended.stderr.count("\n") == 1, ended.stderr
    assert named in ended.stderr
    assert ended.stdout == ""


class Running:
    """A server as a child, until it is told to end."""

    def __init__(self, *arguments: object, program: Path = PROGRAM, pass_fds: tuple[int, ...] = ()) -> None:
        self.process = subprocess.Popen(
            [str(program), *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            pass_fds=pass_fds,
        )
        assert self.process.stdout is not None
        self.first_line = self.process.stdout.readline()

    def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str, str]:
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.process.send_signal(number)
        status = self.process.wait(DEADLINE_SECONDS)
        with self.process.stdout, self.process.stderr:
            return status, self.first_line + self.process.stdout.read(), self.process.stderr.read()


def test_no_command_is_a_question_for_help() -> None:
    ended = run()
    assert ended.returncode == 0
    assert "Commands" in ended.stdout
    assert ended.stderr == ""


@pytest.mark.parametrize("arguments", ["--version", "serve --help", "completion bash"])
def test_output_that_cannot_be_written_is_one_line(arguments: str) -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [PROGRAM, *arguments.split()], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert ended.returncode == 1
    assert ended.stderr.endswith("No space left on device\n")
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize("output", ["full", "closed"])
def test_guests_are_served_whether_or_not_anybody_reads_what_is_said(output: str, tmp_path: Path, image: Path) -> None:
    redirection = ">&-" if output == "closed" else ">/dev/full"
    command = f'exec "$0" serve --image "$1" --socket "$2" {redirection}'
    with subprocess.Popen(
        ["sh", "-c", command, PROGRAM, image, tmp_path / "s"], stderr=subprocess.PIPE, text=True
    ) as server:
        while not is_listening(tmp_path / "s"):
            assert server.poll() is None
        with BlkDriver(tmp_path / "s") as driver:
            assert driver.read(0, 512).check().data == bytes(512)
        server.terminate()
        assert server.stderr is not None
        assert "Traceback" not in server.stderr.read()
    assert server.returncode == 0


def test_volumes_of_the_same_name_are_told_apart(tmp_path: Path, image: Path) -> None:
    (tmp_path / "other").mkdir()
    twin = tmp_path / "other/disk.img"
    twin.write_bytes(bytes(1 << 20))
    sockets = [tmp_path / "s", tmp_path / "t"]
    running = Running("serve", "--image", image, "--image", twin, "--socket", sockets[0], "--socket", sockets[1])
    serials = set()
    for path in sockets:
        with BlkDriver(path) as driver:
            serials.add(driver.get_id().check().data.rstrip(b"\0"))
    assert serials == {b"disk", b"disk-2"}
    assert "disk-2: front end connected" in running.end()[2]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_until_it_is_told_to_end(number: signal.Signals, tmp_path: Path, image: Path) -> None:
    running = Running("serve", "--image", image, "--socket", tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "s"))
    status, said, logged = running.end(number)
    assert status == 0
    assert not (tmp_path / "s").exists()
    for word in (str(image), str(tmp_path / "s"), "io_uring", "-device vhost-user-blk-pci,chardev=vf0", "DISCARD"):
        assert word in said
    assert "disk: front end connected" in logged
    assert "stopping" in logged


def test_growing_is_looked_for_under_nohup_too(tmp_path: Path, image: Path) -> None:
    running = Running(PROGRAM, "serve", "--image", image, "--socket", tmp_path / "s", program=Path("nohup"))
    os.truncate(image, 2 << 20)
    running.process.send_signal(signal.SIGHUP)
    status, _, logged = running.end()  # SIGTERM has the higher number and is taken second
    assert status == 0
    assert "grown from 2048 to 4096 sectors" in logged


def test_logs_as_json(tmp_path: Path, image: Path) -> None:
    running = subprocess.Popen(
        [PROGRAM, "serve", "--image", image, "--socket", tmp_path / "s", "--log-json"],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert running.stderr is not None
    entry = json.loads(running.stderr.readline())
    running.terminate()
    _, rest = running.communicate(timeout=DEADLINE_SECONDS)
    assert entry["volume"] == "disk"
    assert entry["level"] == "info"
    assert "vhost-user-blk-pci" in entry["event"]["qemu"]
    assert all(json.loads(line)["text"] for line in rest.splitlines())


def test_the_log_level(tmp_path: Path, image: Path) -> None:
    running = Running("serve", "--image", image, "--socket", tmp_path / "s", "--log-level", "error")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "s"))
    assert running.end()[2] == ""


def test_an_inherited_socket(tmp_path: Path, image: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.listen()
        fd = listening.fileno()
        running = Running("--blk-file", image, "--fd", fd, program=BACK_END, pass_fds=(fd,))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "s"))
    assert running.end()[0] == 0
    assert (tmp_path / "s").exists(), "it belongs to who made it"


def test_the_same_socket_twice(tmp_path: Path, image: Path) -> None:
    running = Running("serve", "--image", image, "--socket", tmp_path / "s")
    ended = run("serve", "--null", "1M", "--socket", tmp_path / "s")
    assert ended.returncode == 1
    assert "another server listens there" in ended.stderr
    ended = run("serve", "--image", image, "--socket", tmp_path / "other")
    assert "another server uses it" in ended.stderr
    assert running.end()[0] == 0


def test_statistics(tmp_path: Path, image: Path) -> None:
    running = Running("serve", "--image", image, "--socket", tmp_path / "s", "--statistics", tmp_path / "stats.json")
    assert running.end()[0] == 0
    (volume,) = json.loads((tmp_path / "stats.json").read_text())["volumes"]
    assert volume["name"] == "disk"
    assert volume["queues"][0]["requests"]["read"] == 0


@pytest.mark.parametrize("program", [[PROGRAM, "serve"], [BACK_END]])
def test_capabilities_for_management_software(program: list[object]) -> None:
    ended = run(*program[1:], "--print-capabilities", program=Path(str(program[0])))
    assert ended.returncode == 0
    assert json.loads(ended.stdout) == {"type": "block", "features": ["read-only", "blk-file"]}


def test_the_description_for_management_software() -> None:
    path = Path(__file__).resolve().parent.parent.parent / "packaging/50-virtflash.json"
    described = json.loads(path.read_text())
    assert described["type"] == "block"
    assert Path(described["binary"]).name == BACK_END.name


def test_versions() -> None:
    said = run("--version").stdout
    for name in ("virtflash", "Python", "cython", "liburing", "compiler"):
        assert name in said


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    assert "_VIRTFLASH_COMPLETE" in run("completion", shell).stdout


def test_completion_knows_commands_and_options() -> None:
    environment = os.environ | {
        "_VIRTFLASH_COMPLETE": "bash_complete",
        "COMP_WORDS": "virtflash serve --im",
        "COMP_CWORD": "2",
    }
    assert "plain,--image" in run(env=environment).stdout


def test_no_heavy_import_stands_before_serving() -> None:
    """Storage is on the boot path: nothing that takes long to import is imported by `serve`."""
    code = (
        "import sys, virtflash.cli; early = set(sys.modules); import virtflash.server, virtflash.announcement;"
        "print('virtflash.engine' in early, 'rich' in sys.modules, 'numpy' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "False False False"


def test_statistics_that_cannot_be_written_are_no_failure_of_the_server(tmp_path: Path, image: Path) -> None:
    (tmp_path / "gone").mkdir()
    running = Running(
        "serve", "--image", image, "--socket", tmp_path / "s", "--statistics", tmp_path / "gone/stats.json"
    )
    (tmp_path / "gone").rmdir()
    status, _, logged = running.end()
    assert status == 0
    assert "statistics could not be written" in logged


def test_few_descriptors_are_no_reason_to_crash(tmp_path: Path, image: Path) -> None:
    ended = run(
        "serve",
        "--image",
        image,
        "--socket",
        tmp_path / "s",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (8, 8)),
    )
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
