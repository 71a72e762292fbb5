"""Crashes of the host, counted: what was written since the last sync reaches the disk, or not, or in part."""

import random

from crash_model import BrokenPromiseError, Run
from power_cuts import Life, Tally, begin_recovery_cuts, run_until_cut

CRASHES_MOST = 4  # one after the other, before a mount is let through


def crash_until_mounted(run: Run, random_: random.Random) -> int:
    """The host crashes, perhaps again while the flash is mounted, or its process is killed there. How often it was."""
    crashes = random_.randint(1, CRASHES_MOST)
    for crash in range(crashes):
        run.flash.host_crash(random_.getrandbits(30))
        if crash + 1 < crashes:
            begin_recovery_cuts(run, random_)
        try:
            run.layer = run.part.mount(run.flash)
        except OSError as error:
            if not run.flash.lost_power:
                raise BrokenPromiseError(f"it cannot be mounted: {error}") from None
    run.flash.power_on()
    run.settle()
    return crashes


def crashing_life(life: Life) -> Tally:
    """One device, whose host crashes again and again, some times with an operation under way."""
    tally = Tally()
    random_ = random.Random(f"host {life}")
    number = 0
    try:
        run = life.begin()
        steps = life.steps()
        for number in range(len(steps)):
            if random_.random() < 0.05:
                run.flash.arm_cut(random_.randint(1, 20), random_.randrange(run.flash.cut_outcomes))
            if run_until_cut(run, steps[number : number + 1]) or random_.random() < 0.05:
                tally.cuts += crash_until_mounted(run, random_)
        tally.cuts += crash_until_mounted(run, random_)
        run.settle_twice()
    except (BrokenPromiseError, OSError, ValueError) as error:
        tally.note(f"{life} step {number}", error)
    return tally
