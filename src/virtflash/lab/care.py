"""What an idle device does for its data and for itself, between two steps of an experiment."""

from virtflash.backing.emulated_flash import EmulatedStorage
from virtflash.ftl.judgement import AgeLimits, judge, profile_limits

REFRESH_SHARE = 0.6  # of the ECC's strength, for data that is only old; reads mark their blocks at 75 %
DAY_HOURS = 24


class Care:
    """Of one flash. `refresh`: its data is judged by its age, and patrolled in `patrol_days`; or nobody looks."""

    def __init__(self, storage: EmulatedStorage, *, refresh: bool, patrol_days: float) -> None:
        self._translation = storage.translation
        self._refresh = refresh
        self._patrol_hours = patrol_days * DAY_HOURS
        physics, share = storage.profile.physics(), REFRESH_SHARE
        self._limits = profile_limits(physics, share=share) if refresh else None
        self._slc_limits: AgeLimits | None = None
        if refresh and storage.profile.geometry.slc_page_bytes:
            self._slc_limits = profile_limits(physics, share=share, slc=True)
        translation, blocks = storage.translation, storage.chip.superblock.blocks
        # A call of the patrol reads a frame, or goes on to the next block.
        self._round = blocks * (translation.block_units // translation.units_of_frame + 1)
        self._due = 0.0

    def idle(self, hours: float) -> None:
        """What so many hours leave time for: everything that is to be done."""
        if self._limits is not None:
            self._judge(self._limits)
            self._patrol(hours)
        self._translation.work()

    def _judge(self, limits: AgeLimits) -> None:
        translation = self._translation
        table, generation = translation.snapshot()
        advice = judge(
            table,
            translation.hours,
            translation.sequence,
            limits,
            self._slc_limits,
            block_units=translation.block_units,
        )
        for block in advice.refresh:
            translation.advise_refresh(block, generation)

    def _patrol(self, hours: float) -> None:
        self._due += self._round * hours / self._patrol_hours
        frames = int(self._due)
        self._due -= frames
        if frames:
            self._translation.patrol(frames)
