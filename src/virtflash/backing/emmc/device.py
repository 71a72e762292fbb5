"""An eMMC as its host sees it (JESD84-B51): SWITCH, the erase family, write protection, partitions, power-off.

One method for each command, or family of them. A host on a bus is not modelled: no states, clocks or bus widths. Any
thread may call, one at a time, while guests are served: `FlashTarget` does what is asked in its turn.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum, IntFlag
from typing import Protocol

from virtflash.backing.emmc.ext_csd import EXT_CSD_BYTES, Access, ExtCsd, SwitchError
from virtflash.backing.emmc.layout import SECTOR_BYTES, SECTORS_PER_KIB, lay_out
from virtflash.backing.emmc.registers import PERMANENT, TEMPORARY, Registers
from virtflash.flash.profile_sections import Emmc as EmmcProfile

POWER_ON = 2  # a kind of write protection: until the next power cycle
GROUPS_ASKED = 32  # by SEND_WRITE_PROT and SEND_WRITE_PROT_TYPE
BARRIER_SINCE, DISCARD_SINCE = 8, 6  # EXT_CSD_REV


class Status(IntFlag):
    """Bits of the device status that answers carry (R1)."""

    OUT_OF_RANGE = 1 << 31
    ERASE_PARAM = 1 << 27
    WP_VIOLATION = 1 << 26
    CARD_ECC_FAILED = 1 << 21
    ERROR = 1 << 19
    WP_ERASE_SKIP = 1 << 15
    SWITCH_ERROR = 1 << 7
    EXCEPTION_EVENT = 1 << 6


class Erase(IntEnum):
    """Arguments of CMD38. What is erased or trimmed reads as zeroes; what is discarded, as before or as zeroes."""

    ERASE = 0x00000000
    TRIM = 0x00000001
    DISCARD = 0x00000003
    SECURE_ERASE = 0x80000000
    SECURE_TRIM_STEP_1 = 0x80000001
    SECURE_TRIM_STEP_2 = 0x80008000


class Partition(IntEnum):
    """PARTITION_CONFIG, bits 2:0: which one reads, writes and erases go to."""

    USER = 0
    BOOT_1 = 1
    BOOT_2 = 2


class EmmcError(Exception):
    """A command that failed; one line, and the status bits that say so."""

    def __init__(self, status: Status, text: str) -> None:
        super().__init__(text)
        self.status = status


class Target(Protocol):
    """What is asked of a `FlashTarget`."""

    cache_on: bool
    background: bool

    @property
    def sectors(self) -> int: ...
    @property
    def unit_bytes(self) -> int: ...
    def read(self, sector: int, sectors: int) -> bytes: ...
    def write(self, sector: int, data: bytes, *, reliable: bool = False) -> None: ...
    def change(self, kind: int, sector: int, sectors: int) -> None: ...
    def flush(self) -> None: ...
    def tidy(self) -> None: ...
    def sanitize(self) -> None: ...
    def work(self) -> bool: ...
    def lifetime(self) -> tuple[int, int, int]: ...
    def background_level(self) -> int: ...
    def protect(self, group: int, kind: int) -> None: ...
    def protection(self) -> bytes: ...


@contextmanager
def status_of_failure(status: Status, what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EmmcError(status, f"{what}: {error.strerror}") from error


class Emmc:
    """`temperature`: of the part, now, in degrees Celsius; EXT_CSD of version 5.1 has none.

    RegistersError: what the device stored of itself cannot be read.
    """

    def __init__(self, target: Target, profile: EmmcProfile, *, temperature: Callable[[], float]) -> None:
        self.target, self.profile, self._temperature = target, profile, temperature
        self.layout = lay_out(target.sectors, profile)
        self.boot_writable = False  # by this host; Linux calls the opposite force_ro
        self._registers = Registers(target, self.layout.registers_start)
        stored = self._registers.load()
        self._boot_permanent = bytearray(stored[2 * EXT_CSD_BYTES :] if stored else 2)
        self.register = ExtCsd(self._fixed_values(), stored)
        self._start_up()

    def _start_up(self) -> None:
        """After the supply came: the cache is off until the host turns it on."""
        self._marks: list[tuple[int, int]] = []  # ranges of SECURE TRIM step 1
        self._marked_copies = False  # marked data was written over, and may still lie somewhere
        self._boot_power_on = bytearray(2)
        self.target.cache_on = False
        self._adopt_background()
        self._protection = bytearray(self._registers.load_protection(len(self.target.protection())))  # that outlives it
        for group, kind in enumerate(self._protection):
            self.target.protect(group, kind)

    def power_cycle(self) -> None:
        """The supply was gone and is back. What the cache held is not this method's business (`lose_power`)."""
        self.register.power_cycle()
        self._start_up()

    @property
    def temperature(self) -> float:
        return self._temperature()

    def _fixed_values(self) -> dict[str, int]:
        profile = self.profile
        return {
            "SECURE_REMOVAL_TYPE": 0x01,  # by erasing
            "POWER_OFF_NOTIFICATION": 0,
            "BKOPS_EN": 0x02,
            "EXT_CSD_REV": profile.revision,
            "CSD_STRUCTURE": 2,
            "SEC_COUNT": self.layout.user,
            "WR_REL_PARAM": profile.write_reliability_parameters,
            "WR_REL_SET": profile.write_reliability_set,
            "ERASED_MEM_CONT": profile.erased_memory_content,
            "OUT_OF_INTERRUPT_TIME": profile.out_of_interrupt_time,
            "PARTITION_SWITCH_TIME": profile.partition_switch_time,
            "HC_WP_GRP_SIZE": profile.write_protect_group_kib // profile.erase_group_kib,
            "HC_ERASE_GRP_SIZE": profile.erase_group_kib // 512,
            "REL_WR_SEC_C": profile.reliable_write_sectors,
            "ERASE_TIMEOUT_MULT": profile.erase_timeout_multiplier,
            "BOOT_SIZE_MULT": profile.boot_partition_kib // 128,
            "SEC_TRIM_MULT": profile.secure_trim_multiplier,
            "SEC_ERASE_MULT": profile.secure_erase_multiplier,
            "SEC_FEATURE_SUPPORT": profile.secure_feature_support,
            "TRIM_MULT": profile.trim_multiplier,
            "INI_TIMEOUT_AP": profile.initialisation_timeout,
            "POWER_OFF_LONG_TIME": profile.power_off_long_time,
            "GENERIC_CMD6_TIME": profile.generic_switch_time,
            "CACHE_SIZE": profile.cache_kib * 8,
            "FIRMWARE_VERSION": int.from_bytes(profile.firmware_version.encode(), "little"),
            "OPTIMAL_TRIM_UNIT_SIZE": profile.optimal_trim_size,
            "OPTIMAL_WRITE_SIZE": profile.optimal_write_size,
            "OPTIMAL_READ_SIZE": profile.optimal_read_size,
            "BARRIER_SUPPORT": int(profile.revision >= BARRIER_SINCE),
            "BKOPS_SUPPORT": profile.background_operations_support,
            "HPI_FEATURES": profile.interrupt_features,
        }

    # EXT_CSD

    def ext_csd(self) -> bytes:
        """SEND_EXT_CSD (CMD8): 512 bytes, as they are now."""
        register, target = self.register, self.target
        pre_eol, type_a, type_b = target.lifetime()
        register.set("PRE_EOL_INFO", pre_eol)
        register.set("DEVICE_LIFE_TIME_EST_TYP_A", type_a)
        register.set("DEVICE_LIFE_TIME_EST_TYP_B", type_b)
        register.set("BKOPS_STATUS", target.background_level())
        register.set("EXCEPTION_EVENTS_STATUS", int(register.get("BKOPS_STATUS") >= 2))
        register.set("BOOT_WP_STATUS", self._boot_protection(1) | self._boot_protection(2) << 2)
        return register.read()

    def switch(self, index: int, value: int, access: Access = Access.WRITE_BYTE) -> None:
        """SWITCH (CMD6). SwitchError: the device answers SWITCH_ERROR; nothing was changed.

        EmmcError: the switch was accepted, and what it started failed.
        """
        before = self.register.stored()
        self._refuse_switch(index, value)
        field = self.register.switch(access, index, value)
        acts: dict[str, Callable[[int], None]] = {
            "FLUSH_CACHE": self._flush_cache,
            "CACHE_CTRL": self._switch_cache,
            "POWER_OFF_NOTIFICATION": self._prepare_power_off,
            "BKOPS_EN": lambda _value: self._adopt_background(),
            "BKOPS_START": self._run_background,
            "SANITIZE_START": self._sanitize,
            "BOOT_WP": lambda _value: self._protect_boot(),
        }
        if field.name in acts:
            with status_of_failure(Status.ERROR, field.name):
                acts[field.name](value)
        if self.register.stored() != before:
            self._store()

    def _refuse_switch(self, index: int, value: int) -> None:
        """SwitchError: what this device does not have."""
        get = self.register.get
        if index == 33 and value & 1 and not get("CACHE_SIZE"):
            raise SwitchError("CACHE_CTRL: this device has no cache")
        if index == 31 and value & 1 and not get("BARRIER_SUPPORT"):
            raise SwitchError("BARRIER_CTRL: this device has no barriers")
        if index == 32 and value & 2 and not get("BARRIER_CTRL"):
            raise SwitchError("FLUSH_CACHE: barriers are not turned on")
        if index == 164 and not get("BKOPS_SUPPORT"):
            raise SwitchError("BKOPS_START: this device has no background operations")
        if index == 165 and not get("SEC_FEATURE_SUPPORT") & 0x40:
            raise SwitchError("SANITIZE_START: this device cannot sanitise")
        if index == 171 and value & 1 and get("USER_WP") & 0x08:
            raise SwitchError("USER_WP: power-on protection is disabled")
        if index == 171 and value & 4 and get("USER_WP") & 0x10:
            raise SwitchError("USER_WP: permanent protection is disabled")
        self._refuse_boot_switch(index, value)

    def _refuse_boot_switch(self, index: int, value: int) -> None:
        now = self.register.get("BOOT_WP")
        if index == 173 and value & ~now & 0x01 and (now | value) & 0x40:
            raise SwitchError("BOOT_WP: power-on protection is disabled")
        if index == 173 and value & ~now & 0x04 and (now | value) & 0x10:
            raise SwitchError("BOOT_WP: permanent protection is disabled")

    def _store(self) -> None:
        self._registers.store(self.register.stored() + self._boot_permanent)

    def _flush_cache(self, value: int) -> None:
        """A barrier asks for order only; a flush gives more than that."""
        if value & 3:
            self.target.flush()

    def _switch_cache(self, value: int) -> None:
        on = bool(self.register.get("CACHE_CTRL"))
        self.target.cache_on = on
        if not on:
            self.target.flush()

    def _prepare_power_off(self, value: int) -> None:
        """Short (2) and sleep (4): nothing is lost. Long (3): the next start has nothing to do either."""
        if value in (2, 4):
            self.target.flush()
        elif value == 3:
            self.target.tidy()

    def _adopt_background(self) -> None:
        self.target.background = bool(self.register.get("BKOPS_EN") & 2)

    def _run_background(self, value: int) -> None:
        while value and self.target.work():
            pass

    def _sanitize(self, _value: int) -> None:
        self.target.sanitize()

    # Partitions, reading and writing

    @property
    def partition(self) -> Partition:
        return Partition(self.register.get("PARTITION_CONFIG") & 7)

    def _place(self, sector: int, sectors: int) -> int:
        """Where a range of the partition lies. EmmcError: outside of it."""
        size = self.layout.user if self.partition is Partition.USER else self.layout.boot
        if sector < 0 or sectors < 0 or sector + sectors > size:
            raise EmmcError(Status.OUT_OF_RANGE, f"{sectors} sectors at {sector}: the partition has {size}")
        return sector + (0 if self.partition is Partition.USER else self.layout.boot_start(self.partition))

    def read(self, sector: int, sectors: int) -> bytes:
        """READ_MULTIPLE_BLOCK (CMD18), of the partition chosen."""
        place = self._place(sector, sectors)
        with status_of_failure(Status.CARD_ECC_FAILED, f"read of {sectors} sectors at {sector}"):
            return self.target.read(place, sectors)

    def write(self, sector: int, data: bytes, *, reliable: bool = False) -> None:
        """WRITE_MULTIPLE_BLOCK (CMD25). `reliable` (bit 31 of CMD23): past the cache; no sector is ever half old."""
        sectors = len(data) // SECTOR_BYTES
        place = self._place(sector, sectors)
        self._refuse_protected(sector, sectors)
        self._note_overwritten(place, sectors)
        with status_of_failure(Status.ERROR, f"write of {sectors} sectors at {sector}"):
            self.target.write(place, data, reliable=reliable)

    def _refuse_protected(self, sector: int, sectors: int) -> None:
        if self.partition is not Partition.USER:
            self._refuse_protected_boot()
        elif any(protected for _, _, protected in self._runs(sector, sectors)):
            raise EmmcError(Status.WP_VIOLATION, f"{sectors} sectors at {sector}: in a write-protected group")

    # Erasing

    def erase(self, kind: Erase, first: int, last: int) -> Status:
        """ERASE_GROUP_START, ERASE_GROUP_END, ERASE (CMD35, 36, 38): sectors `first` to `last`, both included.

        ERASE and SECURE ERASE take every erase group that is touched. What is protected is skipped: WP_ERASE_SKIP.
        DISCARD is a hint: what is not whole units stays as it was. All but DISCARD are safe from a power cut at once.
        """
        self._check_erase(kind, first, last)
        if kind is Erase.SECURE_TRIM_STEP_2:
            return self._purge_marks()
        start, end = self._erase_bounds(kind, first, last)
        if self.partition is not Partition.USER:
            self._refuse_protected_boot()
        status = Status(0)
        with status_of_failure(Status.ERROR, f"{kind.name} of sectors {first} to {last}"):
            for run, sectors, protected in self._runs(start, end - start):
                if protected:
                    status |= Status.WP_ERASE_SKIP
                else:
                    self._erase_run(kind, self._place(run, sectors), sectors)
            if kind in (Erase.ERASE, Erase.TRIM):
                self.target.flush()
        return status

    def _check_erase(self, kind: Erase, first: int, last: int) -> None:
        features = self.register.get("SEC_FEATURE_SUPPORT")
        supported = {
            Erase.ERASE: True,
            Erase.TRIM: features & 0x10,
            Erase.DISCARD: self.profile.revision >= DISCARD_SINCE,
            Erase.SECURE_ERASE: features & 0x01,
        }
        if not supported.get(kind, features & 0x11 == 0x11):
            raise EmmcError(Status.ERASE_PARAM, f"{kind.name}: not a feature of this device")
        if first > last:
            raise EmmcError(Status.ERASE_PARAM, f"{kind.name}: the last sector, {last}, lies before the first, {first}")
        self._place(first, last - first + 1)

    def _erase_bounds(self, kind: Erase, first: int, last: int) -> tuple[int, int]:
        """First sector, and the one behind the last, of what this kind erases."""
        if kind not in (Erase.ERASE, Erase.SECURE_ERASE):
            return first, last + 1
        group = self.erase_group_sectors
        size = self.layout.user if self.partition is Partition.USER else self.layout.boot
        return first // group * group, min((last // group + 1) * group, size)

    @property
    def erase_group_sectors(self) -> int:
        """By ERASE_GROUP_DEF; groups as the CSD has them, of old, are of 512 KiB here."""
        large = self.register.get("ERASE_GROUP_DEF")
        return (self.profile.erase_group_kib if large else 512) * SECTORS_PER_KIB

    def _erase_run(self, kind: Erase, place: int, sectors: int) -> None:
        from virtflash.backing import flash_target  # noqa: PLC0415

        if kind is Erase.SECURE_TRIM_STEP_1:
            self._marks.append((place, sectors))
        elif kind is Erase.SECURE_ERASE:
            self._purge(place, sectors)
        else:
            self.target.change(
                flash_target.DISCARD if kind is Erase.DISCARD else flash_target.UNMAP_ZEROES, place, sectors
            )

    def _purge(self, place: int, sectors: int) -> None:
        """No copy is left. Of a unit that is not wholly inside the old copies go with all else that is stale."""
        from virtflash.backing import flash_target  # noqa: PLC0415

        unit = self.target.unit_bytes // SECTOR_BYTES
        start, end = -(-place // unit) * unit, (place + sectors) // unit * unit
        if (place, place + sectors) != (start, end):
            self.target.change(flash_target.UNMAP_ZEROES, place, sectors)
            self.target.flush()
            self.target.sanitize()
        elif start < end:
            self.target.change(flash_target.SECURE_ERASE, start, end - start)

    def _purge_marks(self) -> Status:
        """SECURE TRIM, step 2: all that step 1 has marked."""
        with status_of_failure(Status.ERROR, "SECURE_TRIM_STEP_2"):
            for place, sectors in self._marks:
                self._purge(place, sectors)
            if self._marked_copies:
                self.target.flush()
                self.target.sanitize()
        self._marks, self._marked_copies = [], False
        return Status(0)

    def _note_overwritten(self, place: int, sectors: int) -> None:
        """What is written into a marked range is not what was meant to go; but what was there before still has to."""
        kept: list[tuple[int, int]] = []
        for start, count in self._marks:
            if start >= place + sectors or place >= start + count:
                kept.append((start, count))
                continue
            self._marked_copies = True
            kept += [(start, place - start)] if start < place else []
            end = start + count
            kept += [(place + sectors, end - place - sectors)] if place + sectors < end else []
        self._marks = kept

    # Write protection

    @property
    def protection_group_sectors(self) -> int:
        return self.profile.write_protect_group_kib * SECTORS_PER_KIB

    def _runs(self, sector: int, sectors: int) -> Iterator[tuple[int, int, bool]]:
        """A range of the partition, cut where protection begins or ends."""
        if self.partition is not Partition.USER:
            yield sector, sectors, False
            return
        kinds, group, end = self.target.protection(), self.protection_group_sectors, sector + sectors
        while sector < end:
            protected = bool(kinds[sector // group])
            stop = sector
            while stop < end and bool(kinds[stop // group]) == protected:
                stop = min((stop // group + 1) * group, end)
            yield sector, stop - sector, protected
            sector = stop

    def _group(self, sector: int) -> int:
        if not 0 <= sector < self.layout.user:
            raise EmmcError(Status.OUT_OF_RANGE, f"sector {sector}: the user area has {self.layout.user}")
        return sector // self.protection_group_sectors

    def set_write_protect(self, sector: int) -> None:
        """SET_WRITE_PROT (CMD28): the group of this sector, in the way that USER_WP says; the strongest wins."""
        group, user = self._group(sector), self.register.get("USER_WP")
        kind = PERMANENT if user & 0x04 else POWER_ON if user & 0x01 else TEMPORARY
        if kind > self.target.protection()[group]:
            self._protect(group, kind)

    def clear_write_protect(self, sector: int) -> None:
        """CLR_WRITE_PROT (CMD29): of a group that is protected temporarily."""
        group = self._group(sector)
        if self.target.protection()[group] in (POWER_ON, PERMANENT):
            raise EmmcError(Status.ERROR, f"group {group}: its protection cannot be taken off")
        self._protect(group, 0)

    def _protect(self, group: int, kind: int) -> None:
        """First what outlives the supply, then what is in force: no group seems protected for longer than it is."""
        with status_of_failure(Status.ERROR, f"protection of group {group}"):
            if kind != POWER_ON:
                self._protection[group] = kind
                self._registers.store_protection(bytes(self._protection), group)
            self.target.protect(group, kind)

    def write_protect_bits(self, sector: int) -> int:
        """SEND_WRITE_PROT (CMD30): 32 groups from that of this sector on, the first in bit 0."""
        return sum(1 << at for at, kind in enumerate(self._kinds_from(sector)) if kind)

    def write_protect_types(self, sector: int) -> int:
        """SEND_WRITE_PROT_TYPE (CMD31): as CMD30, two bits for each: 0 none, 1 temporary, 2 power-on, 3 permanent."""
        return sum(kind << 2 * at for at, kind in enumerate(self._kinds_from(sector)))

    def _kinds_from(self, sector: int) -> bytes:
        group = self._group(sector)
        return self.target.protection()[group : group + GROUPS_ASKED]

    # Boot partitions

    def _protect_boot(self) -> None:
        """BOOT_WP was written: bit 7 says that areas are protected each by itself, bits 1 and 3 which one is meant."""
        value = self.register.get("BOOT_WP")
        for area in (0, 1):
            if value & 0x04 and (not value & 0x80 or bool(value & 0x02) == bool(area)):
                self._boot_permanent[area] = 1
            if value & 0x01 and (not value & 0x80 or bool(value & 0x08) == bool(area)):
                self._boot_power_on[area] = 1
        self._store()

    def _boot_protection(self, partition: int) -> int:
        """As BOOT_WP_STATUS has it: 0 none, 1 power-on, 2 permanent."""
        return 2 if self._boot_permanent[partition - 1] else self._boot_power_on[partition - 1]

    def _refuse_protected_boot(self) -> None:
        if self._boot_protection(self.partition):
            raise EmmcError(Status.WP_VIOLATION, f"boot partition {self.partition}: write-protected")
        if not self.boot_writable:
            raise EmmcError(Status.WP_VIOLATION, f"boot partition {self.partition}: read-only; set boot_writable first")
