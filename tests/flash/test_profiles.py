"""Profiles: what the package's own say, that they make sensible parts, and what a user's are refused for."""

import json
import math
import re
import subprocess
import sys
import tomllib
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest

from virtflash.flash import laws
from virtflash.flash.profile_sections import (
    NOWHERE,
    BadBlocks,
    Ecc,
    Emmc,
    Endurance,
    Errors,
    ExponentialLaw,
    Failures,
    Geometry,
    OverProvisioning,
    Part,
    PowerCut,
    PowerLaw,
    Profile,
    Retention,
    Timing,
)
from virtflash.flash.profiles import PROFILES, ProfileError, load_profile, parse_profile, profile_names

Tables = dict[str, Any]
YEAR = 365 * 24.0
TEXTS = {name: (PROFILES / f"{name}.toml").read_text() for name in profile_names()}
TLC, MLC, NAND, NOR = (TEXTS[name] for name in ("automotive-tlc-emmc", "mlc-emmc", "slc-nand-256m", "qspi-nor-64m"))


@pytest.mark.parametrize(
    ("name", "kind", "block_bytes", "cells"),
    [
        ("automotive-tlc-emmc", "emmc", 6 << 20, (49152, 80, 128, 3, 0, 16384, 128)),
        ("mlc-emmc", "emmc", 4 << 20, (16384, 80, 256, 2, 0, 16384, 128)),
        ("slc-nand-256m", "nand", 128 << 10, (2048, 32, 64, 1, 2048, 0, 0)),
        ("qspi-nor-64m", "nor", 64 << 10, (256, 0, 256, 1, 1024, 0, 0)),
    ],
)
def test_geometry(name: str, kind: str, block_bytes: int, cells: tuple[int, ...]) -> None:
    profile = load_profile(name)
    assert (profile.part.kind, profile.geometry.block_bytes) == (kind, block_bytes)
    assert tuple(getattr(profile.geometry, item.name) for item in fields(profile.geometry))[:7] == cells
    assert profile.geometry.erase_bytes == ((4096, 32768, 65536) if kind == "nor" else ())


def test_pairs_of_mlc_share_word_lines() -> None:
    cells = load_profile("mlc-emmc").geometry
    lower = {page for page in cells.endangers if page != NOWHERE}
    upper = {page for page, endangered in enumerate(cells.endangers) if endangered != NOWHERE}
    assert sorted(lower | upper) == list(range(256)), "each page is lower or upper"
    assert len(lower) == len(upper) == cells.slc_pages_per_block
    assert [cells.endangers[page] for page in (0, 1, 2, 4, 6, 254, 255)] == [NOWHERE, NOWHERE, 0, 1, 3, 251, 253]
    assert cells.pair_distance == 3


@pytest.mark.parametrize("name", ["automotive-tlc-emmc", "slc-nand-256m", "qspi-nor-64m"])
def test_other_parts_have_no_pairs(name: str) -> None:
    cells = load_profile(name).geometry
    assert (cells.endangers, cells.pair_distance) == ((), 0)


# What makers promise, at the reference temperature and of a block that is worse than 98 % of them.
@pytest.mark.parametrize(
    ("name", "slc", "cycles", "years", "celsius"),
    [
        ("slc-nand-256m", False, 10_000, 10, 55),
        ("slc-nand-256m", False, 100_000, 1, 55),
        ("qspi-nor-64m", False, 10_000, 20, 55),
        ("qspi-nor-64m", False, 100_000, 20, 55),
        ("automotive-tlc-emmc", False, 200, 1, 55),
        ("automotive-tlc-emmc", False, 2000, 0.25, 40),
        ("automotive-tlc-emmc", False, 2000, 1, 30),
        ("automotive-tlc-emmc", True, 3000, 10, 55),
        ("automotive-tlc-emmc", True, 30_000, 1, 55),
        ("mlc-emmc", False, 300, 10, 55),
        ("mlc-emmc", False, 3000, 0.25, 40),
        ("mlc-emmc", False, 3000, 1, 30),
        ("mlc-emmc", True, 3000, 10, 55),
        ("mlc-emmc", True, 30_000, 1, 55),
    ],
)
def test_parts_hold_what_makers_promise(name: str, slc: bool, cycles: float, years: float, celsius: float) -> None:
    profile = load_profile(name)
    physics = profile.physics()
    hours = years * YEAR * laws.acceleration(physics, celsius)
    rate = laws.raw_bit_error_rate(physics, slc=slc, cycles=cycles, hours=hours, factor=bad_block(profile, slc))
    assert laws.codeword_failure_rate(physics, rate) < 1e-9


def bad_block(profile: Profile, slc: bool = False) -> float:
    """The error rate over the average of an upper page in a block two deviations worse than the median."""
    page = 1.0 if slc or profile.errors.upper_factor == 0 else profile.errors.upper_factor
    return page * math.exp(2 * profile.errors.spread)


# A car's life: share of the time, degrees Celsius. Parked, driving, driving in the heat.
CAR = [(0.90, 25), (0.08, 60), (0.02, 85)]


def safe_hours(profile: Profile, cycles: float) -> float:
    """Hours at the reference temperature until a codeword of a bad block fails with probability 1e-12."""
    physics, low, high = profile.physics(), 0.0, 1000 * YEAR
    while high - low > 1:
        middle = (low + high) / 2
        rate = laws.raw_bit_error_rate(physics, cycles=cycles, hours=middle, factor=bad_block(profile))
        low, high = (middle, high) if laws.codeword_failure_rate(physics, rate) < 1e-12 else (low, middle)
    return low


@pytest.mark.parametrize("name", ["automotive-tlc-emmc", "mlc-emmc"])
@pytest.mark.parametrize("used", [0.1, 0.5])
def test_with_refresh_a_part_lives_fifteen_years(name: str, used: float) -> None:
    profile = load_profile(name)
    cycles = start = used * profile.endurance.cycles
    left = 15 * YEAR * sum(share * laws.acceleration(profile.physics(), celsius) for share, celsius in CAR)
    while left > 0:
        left -= safe_hours(profile, cycles)
        cycles += 1
    assert cycles - start < 0.05 * profile.endurance.cycles


def test_without_refresh_a_part_at_85_degrees_forgets() -> None:
    profile = load_profile("automotive-tlc-emmc")
    physics = profile.physics()
    hours = 2 * YEAR * laws.acceleration(physics, 85)
    rate = laws.raw_bit_error_rate(physics, cycles=1000, hours=hours)
    assert laws.codeword_failure_rate(physics, rate) > 0.99
    assert safe_hours(profile, 1000) > 24 * laws.acceleration(physics, 85), "refresh has days to come"


@pytest.mark.parametrize("name", profile_names())
def test_as_many_blocks_go_bad_as_the_profile_says(name: str) -> None:
    profile = load_profile(name)
    physics, failed, steps = profile.physics(), 0.0, 1000
    for slc, rated, pages in (
        (False, profile.endurance.cycles, profile.geometry.pages_per_block),
        (True, profile.endurance.slc_cycles, profile.geometry.slc_pages_per_block),
    ):
        at = [rated * (step + 0.5) / steps for step in range(steps if rated else 0)]
        program = [pages * laws.failure_probability(physics, slc=slc, cycles=cycles) for cycles in at]
        erase = [laws.failure_probability(physics, slc=slc, erase=True, cycles=cycles) for cycles in at]
        failed = rated / steps * (sum(program) + sum(erase))
        if rated:
            assert failed == pytest.approx(profile.failures.grown_bad_share, rel=1e-3)
            assert sum(program) / (sum(program) + sum(erase)) == pytest.approx(profile.failures.program_share)


def test_failures_that_do_not_grow() -> None:
    profile = parse_profile(NAND.replace("growth = 100 ", "growth = 1 "), "flat")
    physics = profile.physics()
    erase = laws.failure_probability(physics, erase=True, cycles=0)
    assert erase == laws.failure_probability(physics, erase=True, cycles=1e6) == pytest.approx(0.0075 / 100_000)


@pytest.mark.parametrize("name", profile_names())
def test_every_figure_has_a_source_or_is_an_assumption(name: str) -> None:
    covered = False
    for line in TEXTS[name].partition("[geometry]")[2].splitlines():
        if line.startswith(("#", "[", "law = ")):  # a comment there stands for what follows
            covered = "#" in line
        elif re.match(r"\w+ = ", line):
            assert covered or "#" in line, line


@pytest.mark.parametrize("name", profile_names())
def test_the_text_is_kept_and_can_be_read_again(name: str) -> None:
    profile = load_profile(name)
    assert profile.text == TEXTS[name]
    assert parse_profile(profile.text, "image") == profile
    assert name not in repr(profile) or len(repr(profile)) < 20_000, "without the text"


def test_a_file_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text(NAND.replace("cycles = 100000", "cycles = 60000"))
    for name in ("mine.toml", "./mine.toml", tmp_path / "mine.toml", Path("mine.toml")):
        assert load_profile(name).endurance.cycles == 60_000


def test_numpy_is_not_asked_for() -> None:
    program = "import sys, virtflash.flash.profiles as p; p.load_profile('mlc-emmc'); sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def refusal(text: str) -> str:
    """What a profile of this text is refused for."""
    with pytest.raises(ProfileError) as caught:
        parse_profile(text, "my.toml")
    message = str(caught.value)
    assert message.startswith("my.toml: ")
    assert message.isprintable(), "one line, whatever the file has in it"
    assert len(message) < 1000
    return message.removeprefix("my.toml: ")


def write_toml(tables: Tables, path: str = "") -> str:
    values = {key: value for key, value in tables.items() if not isinstance(value, dict)}
    lines = [f"[{path}]"] if path else []
    lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    inner = [write_toml(table, f"{path}.{key}".strip(".")) for key, table in tables.items() if isinstance(table, dict)]
    return "\n".join(lines + inner)


def section(tables: Tables, path: str) -> Tables:
    for name in path.split("."):
        tables = tables[name]
    return tables


def paths(tables: Tables, path: str = "") -> list[tuple[str, str]]:
    """All sections and their keys."""
    found: list[tuple[str, str]] = []
    for key, value in tables.items():
        found += paths(value, f"{path}.{key}".strip(".")) if isinstance(value, dict) else [(path, key)]
    return found


KEYS = [(name, path, key) for name, text in TEXTS.items() for path, key in paths(tomllib.loads(text))]
HAVE_DEFAULTS = {
    *("fit_days", "early", "early_hours", "cross_temperature", "pair_lost", "lower_factor", "upper_factor", "pairing"),
    *("slc_page_bytes", "slc_pages_per_block", "slc_cycles", "slc_read_us", "slc_program_us", "slc_erase_us"),
    *("erase_bytes", "erase_us_by_size", "blocks"),
}


@pytest.mark.parametrize(("name", "path", "key"), KEYS)
def test_every_key_is_known_and_checked(name: str, path: str, key: str) -> None:
    tables = tomllib.loads(TEXTS[name])
    place = section(tables, path)
    value = place.pop(key)
    if key not in HAVE_DEFAULTS:
        assert refusal(write_toml(tables)).startswith(f"[{path}] {key}: it ")
    place["un" + key] = value
    assert refusal(write_toml(tables)).startswith((f"[{path}] un{key}: there is no such key", f"[{path}] {key}: it "))
    del place["un" + key]
    for wrong in (True, [True], [[1, 2, 3]], math.nan, math.inf, -1e300, 10**400, "", "a\nb", "x" * 1000):
        place[key] = wrong
        text = write_toml(tables).replace("NaN", "nan").replace("Infinity", "inf")
        assert refusal(text).startswith(f"[{path}] {key}: ")


@pytest.mark.parametrize(("name", "path"), sorted({(name, path) for name, path, _ in KEYS}))
def test_every_section_is_asked_for(name: str, path: str) -> None:
    tables = tomllib.loads(TEXTS[name])
    outer, _, inner = path.rpartition(".")
    del (section(tables, outer) if outer else tables)[inner]
    assert f"[{path}]" in refusal(write_toml(tables))


# A profile that is right, what is changed in it, and what it is refused for.
REFUSALS = [
    (
        NAND,
        "[geometry]",
        "[geometry",
        "not TOML: Expected ']' at the end of a table declaration (at line 9, column 10)",
    ),
    (NAND, "pages_per_block = 64", "pages_per_block = 64\npages_per_block = 64", "not TOML: Cannot overwrite a value"),
    (NAND, "[ecc]", "[ecc2]", "ecc2: there is no such key or section: write ecc"),
    (NAND, "[ecc]", '["\\u0007"]', "'\\x07': there is no such key or section: remove it, or write one of part,"),
    (NAND, "[part]", "colour = 1\n[part]", "colour: there is no such key or section: remove it"),
    (NAND, "read_us = 25", "raed_us = 25", "[timing] raed_us: there is no such key or section: write read_us"),
    (NAND, "read_us = 25", 'read_us = "25"', '[timing] read_us: "25" will not do: write a number from 0 to 1000000 ('),
    (NAND, "dies = 1", "dies = 1.5", "[timing] dies: 1.5 will not do: write a whole number from 1 to 64 ("),
    (NAND, "dies = 1", "dies = 65", "[timing] dies: 65 will not do: write a whole number from 1 to 64 ("),
    (NAND, 'kind = "nand"', 'kind = "nvme"', '[part] kind: "nvme" will not do: write "emmc" or "nand" or "nor" ('),
    (
        NAND,
        'law = "power"',
        'law = "linear"',
        '[errors.main] law: it names the form of the law: write "power" or "expo',
    ),
    (NAND, 'law = "power"', 'law = "exponential"', "[errors.main] wear_power: there is no such key or section"),
    (NAND, "floor = 1e-8", "floor = 0.6", "[errors.main] floor: 0.6 will not do: write a number from 0 to 0.5 ("),
    (NAND, "blocks = 2048", "blocks = 0", "[geometry] blocks: a nand part has its number of them: write it"),
    (NAND, "spare_bytes = 32", "spare_bytes = 0", "[geometry] spare_bytes: NOR has none, NAND has some"),
    (NOR, "spare_bytes = 0", "spare_bytes = 8", "[geometry] spare_bytes: NOR has none, NAND has some"),
    (
        NOR,
        "spare_bytes = 0",
        "spare_bytes = 0\npairing = [[0, 1]]",
        "[geometry] pairing: the pages of a NOR part do not",
    ),
    (
        NOR,
        "[4096, 32768, 65536]",
        "[4096, 65536]",
        "[timing] erase_us_by_size: write one figure for each of [geometry]",
    ),
    (NOR, "[4096, 32768, 65536]", "[4096, 32768, 131072]", "[geometry] erase_bytes: the last is the block, page_bytes"),
    (NOR, "[4096, 32768, 65536]", "[32768, 4096, 65536]", "[geometry] erase_bytes: write them from small to large"),
    (
        NOR,
        "[4096, 32768, 65536]",
        "[4100, 32768, 65536]",
        "[geometry] erase_bytes: write whole multiples of page_bytes",
    ),
    (
        NAND,
        "page_bytes = 2048",
        "page_bytes = 2100",
        "[geometry] page_bytes: it is not whole codewords: write a multip",
    ),
    (NAND, "codeword_bytes = 512", "codeword_bytes = 300", "[geometry] page_bytes: it is not whole codewords"),
    (NAND, "raw_codeword_bits = 4148", "raw_codeword_bits = 4095", "[ecc] raw_codeword_bits: the data alone has more"),
    (
        NAND,
        "correctable_bits = 4 ",
        "correctable_bits = 5000",
        "[ecc] correctable_bits: write fewer than raw_codeword_bi",
    ),
    (NAND, "program_torn = 0.5", "program_torn = 0.6", "[power_cut] program_untouched: the outcomes of a cut program"),
    (NAND, "erase_weak = 0.4", "erase_weak = 0.3", "[power_cut] erase_untouched: the outcomes of a cut erase make 0.9"),
    (MLC, "lower_factor = 0.5", "", "[errors] upper_factor: pages are told apart by both factors, or by neither"),
    (MLC, "[0, 2],", "[2, 0],", "[geometry] pairing: [2, 0]: write the lower page first"),
    (MLC, "[253, 255],", "[253, 256],", "[geometry] pairing: [253, 256]: write the lower page first"),
    (MLC, "[253, 255],", "[253, 254],", "[geometry] pairing: a page is the upper one of two pairs"),
    (MLC, "[253, 255],", "[253],", "[geometry] pairing: a list will not do: write a list of pairs, each of two whole"),
    (TLC, "slc_pages_per_block = 128", "", "[geometry] slc_pages_per_block: SLC mode has both pages and their bytes"),
    (TLC, "slc_cycles = 30000", "", "[endurance] slc_cycles: with SLC mode ([geometry] slc_page_bytes) it has to be"),
    (TLC, "slc_program_us = 300", "", "[timing] slc_program_us: with SLC mode"),
    (NAND, "cycles = 100000", "cycles = 100000\nslc_cycles = 1", "[endurance] slc_cycles: with SLC mode"),
    (TLC, 'kind = "emmc"', 'kind = "nand"', "[geometry] blocks: a nand part has its number of them"),
    (NAND, 'kind = "nand"', 'kind = "emmc"', '[emmc]: kind is "emmc": an eMMC has this section, other kinds have not'),
    (
        TLC,
        "boot_partition_kib = 4096",
        "boot_partition_kib = 4000",
        "[emmc] boot_partition_kib: BOOT_SIZE_MULT counts in 1",
    ),
    (TLC, "erase_group_kib = 512", "erase_group_kib = 600", "[emmc] erase_group_kib: HC_ERASE_GRP_SIZE counts in 512"),
    (TLC, "group_kib = 8192", "group_kib = 8200", "[emmc] write_protect_group_kib: HC_WP_GRP_SIZE counts in erase gr"),
    (TLC, "group_kib = 8192", "group_kib = 131072", "[emmc] write_protect_group_kib: HC_WP_GRP_SIZE is a byte"),
    (TLC, '"VFTLC"', '"VFTLC\u00e9"', "[emmc] product_name: the register holds ASCII"),
    (TLC, '"VFTLC"', '"VFTLC12"', '[emmc] product_name: "VFTLC12" will not do: write a text of 1 to 6 printable chara'),
    ("", "", "", "[part]: the section is missing: add it"),
    ("part = 3\n" + NAND.replace("[part]", "[retention]"), "", "", "not TOML: Cannot declare ('retention',) twice"),
    ("part = 3", "", "", "[part]: the section is missing: add it"),
    (NAND, "dies = 1", "dies = " + "1" * 5000, "not TOML: Exceeds the limit (4300 digits)"),
    (
        NAND,
        "dies = 1",
        "dies = 0x" + "f" * 5000,
        "[timing] dies: a long number will not do: write a whole number from 1",
    ),
    (NAND, "read_us = 25", "read_us = 2026-01-01", "[timing] read_us: 2026-01-01 will not do: write a number from 0"),
    ("a = " + "[" * 20_000, "", "", "not a profile: values are nested too deep"),
]


@pytest.mark.parametrize(("text", "old", "new", "problem"), REFUSALS)
def test_refusals(text: str, old: str, new: str, problem: str) -> None:
    assert old in text
    assert refusal(text.replace(old, new, 1)).startswith(problem)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "No such file or directory: name a TOML file that can be read"),
        (b"\xff\xfe", "not UTF-8 text: name a TOML file"),
        (b"#" * 65537, "longer than 65536 bytes: name a TOML file, or shorten its comments"),
        (NAND.encode() + b"#" * (65536 - len(NAND.encode())), ""),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, content: bytes | None, problem: str) -> None:
    path = tmp_path / "mine.toml"
    if content is not None:
        path.write_bytes(content)
    if not problem:
        assert load_profile(path).part.kind == "nand"
        return
    with pytest.raises(ProfileError, match=re.escape(f"{path}: {problem}")):
        load_profile(path)


def test_a_directory_is_no_profile(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="Is a directory: name a TOML file that can be read"):
        load_profile(tmp_path)


@pytest.mark.parametrize("name", ["mlc", "", "slc-nand-256m\n", "../profiles/mlc-emmc"])
def test_an_unknown_name_is_told_the_known_ones(name: str) -> None:
    with pytest.raises(ProfileError) as caught:
        load_profile(name)
    assert "/" in name or "automotive-tlc-emmc, mlc-emmc, qspi-nor-64m, slc-nand-256m" in str(caught.value)
    assert str(caught.value).isprintable()


SECTIONS = {
    "part": Part,
    "geometry": Geometry,
    "endurance": Endurance,
    "errors": Errors,
    'errors.main] and [errors.slc] with law = "power"': PowerLaw,
    'errors.main] and [errors.slc] with law = "exponential"': ExponentialLaw,
    "ecc": Ecc,
    "retention": Retention,
    "failures": Failures,
    "power_cut": PowerCut,
    "timing": Timing,
    "bad_blocks": BadBlocks,
    "over_provisioning": OverProvisioning,
    "emmc": Emmc,
}


def document_rows(cls: Any) -> list[str]:
    """The rows of a section's table in the documentation."""
    rows = []
    for item in fields(cls):
        limits = item.metadata
        if limits and item.name != "law":
            bounds = f"{limits['least']:.10g} to {limits['most']:.10g}" if "least" in limits else "text"
            values = ", ".join(f"`{word}`" for word in limits.get("choice", ())) or bounds
            default = "refused" if item.default is MISSING else "none" if item.default == () else f"{item.default:g}"
            rows.append(f"| `{item.name}` | {limits['what']} | {values} | {default} |")
    return rows


@pytest.mark.parametrize("name", SECTIONS)
def test_the_documentation_has_every_key(name: str) -> None:
    text = (Path(__file__).parents[2] / "docs" / "flash.md").read_text()
    table = text.partition(f"`[{name}]`\n\n")[2].partition("\n\n")[0]
    documented = [row for row in table.splitlines() if row.startswith("| `")]
    assert documented == document_rows(SECTIONS[name])
