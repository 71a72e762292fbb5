"""`virtflash create` and `virtflash info`: devices made, told of, refused."""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest

from virtflash.backing.emulated_flash import EmulatedStorage, create_flash, open_storage
from virtflash.report.endurance import greedy_amplification
from virtflash.report.flash_report import Columns, histogram, report_flash
from virtflash.report.flash_text import report_lines
from virtflash.report.plotting import PlotError, check_plot
from virtflash.report.quantities import binary_bytes, decimal_bytes, duration
from virtflash.report.wear_picture import SHADES, WIDTH, wear_picture

PROGRAM = Path(sys.executable).with_name("virtflash")
DEADLINE_SECONDS = 20
MIB = 1 << 20


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(PROGRAM), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=DEADLINE_SECONDS)


def succeed(*arguments: object) -> str:
    ended = run(*arguments)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    return ended.stdout


def refused(ended: subprocess.CompletedProcess[str], named: str) -> None:
    assert ended.returncode > 0
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1, ended.stderr
    assert named in ended.stderr


def told(path: Path) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(succeed("info", path, "--json"))
    return made


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "flash"
    create_flash(path, "mlc-emmc", capacity_bytes=32 * MIB, seed=1)
    return path


@pytest.fixture
def storage(image: Path) -> Iterator[EmulatedStorage]:
    opened = open_storage(image, host_sync=False)
    yield opened
    opened.close()


MISUSE = {  # what a user may get wrong: the arguments, and what the one line must name
    "no kind": ("create {tmp}/new", "--kind"),
    "an unknown kind": ("create {tmp}/new --kind ufs", "ufs"),
    "an eMMC of no size": ("create {tmp}/new --kind emmc", "--capacity"),
    "no capacity at all": ("create {tmp}/new --kind emmc --capacity 0", "hold something"),
    "a capacity in parsecs": ("create {tmp}/new --kind emmc --capacity 12parsecs", "parsecs"),
    "an eMMC beyond its addresses": ("create {tmp}/new --kind emmc --capacity 3TiB", "2 TiB"),
    "more than a raw part holds": ("create {tmp}/new --kind nand --capacity 1GiB", "blocks"),
    "an unknown profile": ("create {tmp}/new --profile nosuch", "nosuch"),
    "a profile that is not there": ("create {tmp}/new --profile {tmp}/no.toml", "No such file"),
    "a profile that is none": ("create {tmp}/new --profile {image}", "name a TOML file"),
    "a profile of another kind": ("create {tmp}/new --kind nor --profile slc-nand-256m", "nand"),
    "no percent": ("create {tmp}/new --kind nand --over-provisioning much", "much"),
    "too few percent": ("create {tmp}/new --kind nand --over-provisioning 0%", "1%"),
    "too many percent": ("create {tmp}/new --kind nand --over-provisioning 500%", "400%"),
    "a file that is there": ("create {image} --kind nand", "--force"),
    "a directory in the way": ("create {tmp} --kind nand --force", "not a file"),
    "a directory that is not there": ("create {tmp}/no/new --kind nand", "No such file"),
    "info of nothing": ("info {tmp}/no", "No such file"),
    "info of a directory": ("info {tmp}", "not a file"),
    "info of something else": ("info {tmp}/odd", "not an image"),
    "info of half an image": ("info {tmp}/half", "truncated"),
    "a plot of no format": ("info {image} --plot {tmp}/wear.gif", ".png"),
    "a plot in no directory": ("info {image} --plot {tmp}/no/wear.png", "directory"),
}


@pytest.mark.parametrize("case", MISUSE)
def test_what_a_user_got_wrong_is_told_in_one_line(case: str, tmp_path: Path, image: Path) -> None:
    (tmp_path / "odd").write_bytes(bytes(10000))
    shutil.copy(image, tmp_path / "half")
    os.truncate(tmp_path / "half", 10 * MIB)
    arguments, named = MISUSE[case]
    before = sorted(tmp_path.iterdir())
    refused(run(*arguments.format(tmp=tmp_path, image=image).split()), named)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("kind", "options", "raw"),
    [("emmc", ["--capacity", "64MiB"], 64 * MIB), ("nand", [], 256 * MIB), ("nor", [], 64 * MIB)],
)
def test_each_kind_is_made_and_told(tmp_path: Path, kind: str, options: list[str], raw: int) -> None:
    path = tmp_path / "flash"
    said = succeed("create", path, "--kind", kind, *options)
    assert str(path) in said
    for word in ("blocks of", "over-provisioning", "spare", "cycles"):
        assert word in said
    made = told(path)
    assert made["kind"] == kind
    assert (
        made["geometry"]["capacity_bytes"] == raw if kind == "emmc" else 0.7 * raw < made["geometry"]["capacity_bytes"]
    )
    assert f"{made['geometry']['capacity_bytes']:,} bytes" in said


def test_a_capacity_is_rounded_up_and_that_is_said(tmp_path: Path) -> None:
    said = succeed("create", tmp_path / "flash", "--kind", "emmc", "--capacity", 32 * MIB + 1)
    assert "was rounded up" in said
    assert told(tmp_path / "flash")["geometry"]["capacity_bytes"] == 32 * MIB + 4096
    assert "was rounded" not in succeed("create", tmp_path / "other", "--kind", "emmc", "--capacity", 32 * MIB)


def test_a_profile_of_the_users_is_taken(tmp_path: Path) -> None:
    from virtflash.flash.profiles import load_profile

    text = load_profile("mlc-emmc").text.replace('name = "', 'name = "our ', 1)
    (tmp_path / "ours.toml").write_text(text)
    said = succeed("create", tmp_path / "flash", "--profile", tmp_path / "ours.toml", "--capacity", "32MiB")
    assert "our " in said


def test_the_same_seed_is_the_same_device(tmp_path: Path) -> None:
    bad = []
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        succeed("create", tmp_path / name, "--kind", "nand", "--seed", seed)
        bad.append(told(tmp_path / name)["by_block"]["bad"])
    assert bad[0] == bad[1] != bad[2]
    assert any(bad[0])


def test_more_spare_space_is_more_blocks(tmp_path: Path) -> None:
    blocks = []
    for percent in ("7%", "28 %"):
        succeed("create", tmp_path / percent, "--kind", "emmc", "--capacity", "512MiB", "--over-provisioning", percent)
        blocks.append(told(tmp_path / percent)["geometry"]["blocks"])
    assert 10 <= blocks[1] - blocks[0] <= 20  # a fifth of the 86 blocks of data


def test_a_large_one_takes_little_of_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "flash"
    succeed("create", path, "--kind", "emmc", "--capacity", "64GiB")
    assert path.stat().st_size > 64 << 30
    assert path.stat().st_blocks * 512 < (64 << 30) // 500


def test_force_replaces_a_file(image: Path) -> None:
    identity = image.stat().st_ino
    succeed("create", image, "--kind", "nand", "--force")
    assert told(image)["kind"] == "nand"
    assert image.stat().st_ino != identity
    assert list(image.parent.iterdir()) == [image]


def test_force_that_fails_leaves_what_was_there(image: Path) -> None:
    before = image.read_bytes()
    refused(run("create", image, "--kind", "nand", "--capacity", "1GiB", "--force"), "blocks")
    assert image.read_bytes() == before
    assert list(image.parent.iterdir()) == [image]


def test_an_image_that_a_server_holds_is_left_alone(image: Path) -> None:
    with image.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        refused(run("info", image), "SIGUSR1")
        refused(run("create", image, "--kind", "nand", "--force"), "a server uses it")


def test_several_may_look_at_the_same_time(image: Path) -> None:
    with image.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        assert "spare blocks" in succeed("info", image)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_to_look_changes_nothing(image: Path, tmp_path: Path, storage: EmulatedStorage) -> None:
    storage.target.write(0, b"a" * 65536)
    storage.target.flush()
    cut = tmp_path / "cut"
    shutil.copy(image, cut)  # as a server that was killed leaves it
    before = digest(cut)
    succeed("info", cut, "--plot", tmp_path / "wear.png")
    assert digest(cut) == before
    assert told(cut)["mapped_bytes"] >= 65536


def test_figures_are_those_of_what_was_done(image: Path, storage: EmulatedStorage) -> None:
    host = report_flash(image, storage).amplification.host_bytes
    for start in range(0, 4096, 128):
        storage.target.write(start, b"w" * 65536)
    storage.target.flush()
    storage.chip.advance(3600 * 24 * 30, 70.0)
    report = report_flash(image, storage)
    written = report.amplification
    assert written.host_bytes - host == 2 * MIB
    assert report.mapped_bytes >= 2 * MIB
    assert written.total == pytest.approx(
        1
        + sum(written.share(name) for name in ("level", "refresh", "retire", "collect", "purge", "padding", "metadata"))
    )
    assert report.age.hours == pytest.approx(720)
    assert report.age.effective_hours > 5 * 720  # at 70 degC
    assert report.age.oldest_data_hours == pytest.approx(report.age.effective_hours, rel=0.01)
    table = storage.chip.block_table()
    for bins, name in ((report.wear.main, "cycles"), (report.wear.slc, "slc_cycles")):
        assert sum(each.blocks for each in bins) == (~table["bad"]).sum()
        assert bins[0].first == table[name][~table["bad"]].min()
        assert bins[-1].last >= table[name][~table["bad"]].max()
    blocks = report.blocks
    assert blocks.free + blocks.open + blocks.data + blocks.metadata + blocks.bad == report.geometry.blocks


def test_the_text_tells_what_the_json_does(image: Path, storage: EmulatedStorage) -> None:
    storage.target.write(0, b"w" * 65536)
    storage.target.flush()
    report = report_flash(image, storage)
    made = json.loads(json.dumps(report.to_json()))
    assert len(made["by_block"]["wear"]) == made["geometry"]["blocks"]
    assert made["lifetime"] == {"pre_eol_info": 1, "estimate_a": 1, "estimate_b": 1, "pre_eol": "normal"}
    text = "\n".join(report_lines(report))
    for word in ("PRE_EOL_INFO", "write amplification", "bits corrected", "spare blocks", "P/E cycles in SLC mode"):
        assert word in text
    assert f"{made['amplification']['total']:.3f}" in text


@pytest.mark.parametrize(("name", "begins"), [("wear.png", b"\x89PNG"), ("wear.svg", b"<?xml")])
def test_a_plot_is_written(image: Path, tmp_path: Path, name: str, begins: bytes) -> None:
    said = succeed("info", image, "--plot", tmp_path / name)
    assert "wear across the device" in said
    data = (tmp_path / name).read_bytes()
    assert data.startswith(begins)
    assert len(data) > 10000


def test_without_matplotlib_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(PlotError, match=r"pip install 'virtflash\[plot\]'"):
        check_plot(tmp_path / "wear.png")


def columns(wear: list[float], bad: list[int] | None = None) -> Columns:
    blank = numpy.zeros(len(wear))
    marked = numpy.isin(numpy.arange(len(wear)), bad or [])
    return Columns(numpy.array(wear), marked, blank > 0, blank, blank, blank, blank)


def test_a_picture_shows_each_block_in_its_place() -> None:
    lines = wear_picture(columns([0, 100, 50, 99, 12.5], bad=[2]))
    assert lines[0].split() == ["0", ".@x@:"]
    assert "12.5 cycles" in lines[1]
    assert "1 bad block;" in lines[2]


def test_a_picture_of_many_blocks_shows_the_worst_of_each_few() -> None:
    wear = [1.0] * 13110
    wear[13], wear[4000] = 800, 400
    lines = wear_picture(columns(wear, bad=[13109]))
    rows = [line.split()[1] for line in lines[:-2]]
    cells = "".join(rows)
    each = -(-13110 // len(cells))
    assert len(rows) <= 16
    assert all(len(line) <= 80 for line in lines)
    assert max(map(len, rows)) == WIDTH
    assert [place for place, cell in enumerate(cells) if cell not in ".x"] == [13 // each, 4000 // each]
    assert cells[13 // each] == SHADES[-1]
    assert cells[-1] == "x"


@pytest.mark.parametrize(
    ("cycles", "first", "width", "counts"),
    [([0, 0, 0], 0, 1, [3]), ([5, 7], 5, 1, [1, 0, 1]), ([0, 23, 24], 0, 3, [1, 0, 0, 0, 0, 0, 0, 1, 1])],
)
def test_a_histogram_has_every_block_once(cycles: list[int], first: int, width: int, counts: list[int]) -> None:
    bins = histogram(numpy.array(cycles))
    assert (bins[0].first, bins[0].last - bins[0].first + 1) == (first, width)
    assert [each.blocks for each in bins] == counts


@pytest.mark.parametrize(("ratio", "expected"), [(1.07, 7.817), (1.15, 4.016), (1.28, 2.481)])
def test_amplification_as_the_formula_has_it(ratio: float, expected: float) -> None:
    """Desnoyers 2012, evaluated with Lambert's function."""
    assert greedy_amplification(ratio) == pytest.approx(expected, abs=0.001)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (binary_bytes(0), "0 bytes"),
        (binary_bytes(8 << 30), "8 GiB"),
        (binary_bytes(1536), "1.5 KiB"),
        (decimal_bytes(41_100_000_000_000), "41.1 TB"),
        (decimal_bytes(999), "999 bytes"),
        (duration(5.2), "5.2 hours"),
        (duration(48), "2 days"),
        (duration(15 * 8766), "15 years"),
    ],
)
def test_amounts_as_people_read_them(text: str, expected: str) -> None:
    assert text == expected


def test_a_server_starts_without_numpy_and_matplotlib() -> None:
    modules = "virtflash.cli.serve, virtflash.server, virtflash.announcement, virtflash.backing.flash_target"
    code = f"import sys, {modules}; print([m for m in ('numpy', 'matplotlib', 'rich') if m in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"
