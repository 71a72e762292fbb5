"""An image opened for an experiment: mounted for this process alone, with the settings of the experiment."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from virtflash.backing.backing import SECTOR_BYTES
from virtflash.backing.emmc.layout import lay_out
from virtflash.backing.emulated_flash import EmulatedStorage
from virtflash.backing.flash_target import FlashTarget
from virtflash.flash.emulated import EmulatedFlash
from virtflash.flash.image import ImageError
from virtflash.flash.profile_sections import Profile
from virtflash.flash.profiles import ProfileError, parse_profile
from virtflash.ftl.translation import Translation, TranslationError
from virtflash.lab.errors import LabError

NO_REFRESH = {"refresh_share": 1 << 31, "refresh_reads": (1 << 32) - 1}  # settings that nothing reaches


@contextmanager
def opened_flash(path: Path, *, refresh: bool = True, name: str = "") -> Iterator[EmulatedStorage]:
    """Open and mount, and close in order. LabError.

    refresh: blocks are marked for it by what their reads tell. name: what to call it in errors, instead of its path.
    """
    try:
        chip = EmulatedFlash.open(path, host_sync=False)
    except ImageError as error:
        raise LabError(str(error)) from error
    with chip:
        storage = mounted(Path(name or path), chip, refresh=refresh)
        yield storage
        try:
            storage.target.tidy()
        except OSError as error:
            raise LabError(f"{name or path}: what was written cannot be kept: {error.strerror}") from error


def mounted(path: Path, chip: EmulatedFlash, *, refresh: bool = True, read_only: bool = False) -> EmulatedStorage:
    """What stands on a chip. Of an eMMC without its registers: no write protection. LabError."""
    try:
        profile = parse_profile(chip.profile_text, str(path))
        translation = Translation.mount(
            chip,
            chip.capacity_bytes // chip.unit_bytes,
            unit_bytes=chip.unit_bytes,
            read_only=read_only,
            **({} if refresh else NO_REFRESH),
        )
    except (ProfileError, TranslationError) as error:
        raise LabError(f"{path}: {error}") from error
    except OSError as error:
        raise LabError(f"{path}: {error.strerror}") from error
    return EmulatedStorage(
        chip, profile, translation, target_on(translation, profile, chip, read_only=read_only), read_only=read_only
    )


def target_on(translation: Translation, profile: Profile, chip: EmulatedFlash, *, read_only: bool) -> FlashTarget:
    part, sectors = profile.emmc, chip.capacity_bytes // SECTOR_BYTES
    return FlashTarget(
        translation,
        user_sectors=sectors if part is None else lay_out(sectors, part).user,
        cache_bytes=0 if part is None else part.cache_kib * 1024,
        slc_share=0.0 if part is None else part.slc_share,
        read_only=read_only,
    )
