"""Small devices to experiment on."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from virtflash.backing import create_flash
from virtflash.flash.profiles import load_profile

MIB = 1 << 20
SMALL = {"pages_per_block": 16, "slc_pages_per_block": 16, "boot_partition_kib": 128}  # blocks of 768 KiB


def small_profile(**figures: float) -> str:
    """The TLC profile with small blocks, and these figures instead of its own."""
    text = load_profile("automotive-tlc-emmc").text
    for key, value in (SMALL | figures).items():
        text, found = re.subn(rf"(?m)^{key} = [^ \n]+", f"{key} = {value}", text)
        assert found, key
    return text


@pytest.fixture
def make_image(tmp_path: Path) -> Callable[..., Path]:
    """A function of a capacity in MiB and figures of the profile. The same figures make the same device."""

    def make(mib: int = 16, name: str = "flash", **figures: float) -> Path:
        profile = tmp_path / f"{name}.toml"
        profile.write_text(small_profile(**figures))
        create_flash(tmp_path / name, profile, capacity_bytes=mib * MIB, seed=1)
        return tmp_path / name

    return make
