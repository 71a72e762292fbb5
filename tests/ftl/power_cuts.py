"""Power cuts, counted: at every operation of a short life, at every operation of a recovery, and by chance in a long.

Each is a pure function of its numbers, so a violation can be had again: it names them.
"""

import random
from dataclasses import dataclass, field
from errno import EROFS

from crash_model import PARTS, BrokenPromiseError, Part, Run, Step, workload

RECOVERY_CUTS = 3  # a recovery that is cut is cut at most so often
RECOVERY_REACH = 12  # and within so many operations
SPARES = 6
VIOLATIONS_MOST = 20


@dataclass(frozen=True)
class Life:
    """What a device goes through: the same for the same numbers."""

    part: str
    seed: int
    length: int  # steps
    aged: bool = False  # written until collection runs, before the steps begin
    host_sync: bool = False
    failing: bool = False  # programs and erases fail now and then, until no spare blocks are left

    @property
    def of(self) -> Part:
        part = PARTS[self.part].with_spares(SPARES) if self.failing else PARTS[self.part]
        return part.on_a_disk() if self.host_sync else part

    def steps(self) -> list[Step]:
        part, random_ = self.of, random.Random(self.seed)
        steps = list(workload(random_, part.units, part.frame_units, self.length))
        for _ in range(self.length // 50 if self.failing else 0):
            failure = ("fail", random_.choice(["program", "erase"]), random_.randint(1, 20))
            steps.insert(random_.randrange(len(steps)), failure)
        return steps

    def begin(self) -> Run:
        run = Run.begin(self.of, self.seed)
        run.mortal = self.failing
        if self.aged:
            run.age(random.Random(-self.seed))
        return run


@dataclass
class Tally:
    cuts: int = 0
    violations: list[str] = field(default_factory=list)

    def add(self, other: "Tally") -> None:
        self.cuts += other.cuts
        self.violations += other.violations

    def note(self, what: str, error: Exception) -> None:
        self.violations.append(f"{what}: {type(error).__name__}: {error}")

    @property
    def hopeless(self) -> bool:
        return len(self.violations) >= VIOLATIONS_MOST


def begin_recovery_cuts(run: Run, random_: random.Random) -> None:
    run.flash.arm_cut(random_.randint(1, RECOVERY_REACH), random_.randrange(run.flash.cut_outcomes))


def run_until_cut(run: Run, steps: list[Step]) -> bool:
    """Take the steps. False: power stayed, for the device takes no more writes, or nothing is left to do."""
    try:
        for step in steps:
            run.take(step)
    except OSError as error:
        if run.flash.lost_power:
            return True
        if error.errno != EROFS or not run.layer.read_only:
            raise
    return False


def cut_once(life: Life, operation: int, how: int) -> Tally:
    """Cut one operation of a life, and in most cases its recovery, too."""
    tally = Tally()
    random_ = random.Random(f"{life} {operation} {how}")
    try:
        run = life.begin()
        run.flash.arm_cut(operation, how)
        if not run_until_cut(run, life.steps()):
            return tally
        tally.cuts = 1
        often = RECOVERY_CUTS if random_.random() < 0.7 else 0
        tally.cuts += run.recover(lambda: begin_recovery_cuts(run, random_), at_most=often)
        run.settle_twice()
    except (BrokenPromiseError, OSError, ValueError) as error:
        tally.note(f"{life} operation {operation} how {how}", error)
    return tally


def operations_of(life: Life) -> int:
    run = life.begin()
    before = run.flash.operations
    run_until_cut(run, life.steps())
    return run.flash.operations - before


def cut_everywhere(life: Life) -> Tally:
    """Every program and erase of a life, in every outcome."""
    tally = Tally()
    outcomes = life.of.make().cut_outcomes
    for operation in range(1, operations_of(life) + 1):
        for how in range(outcomes):
            tally.add(cut_once(life, operation, how))
            if tally.hopeless:
                return tally
    return tally


def cut_once_again(life: Life, first: tuple[int, int], second: tuple[int, int]) -> Tally:
    """Cut one operation of a life, and one of its recovery. No cuts: the recovery had not so many."""
    tally = Tally()
    try:
        run = life.begin()
        run.flash.arm_cut(*first)
        if not run_until_cut(run, life.steps()):
            return tally
        lost = run.recover(lambda: run.flash.arm_cut(*second), at_most=1)
        run.settle_twice()
        tally.cuts = 1 + lost if lost else 0
    except (BrokenPromiseError, OSError, ValueError) as error:
        tally.note(f"{life} cut at {first}, its recovery at {second}", error)
    return tally


def cut_recovery_everywhere(life: Life, operation: int, how: int) -> Tally:
    """Every program and erase of the recovery from one cut, in every outcome."""
    tally = Tally()
    outcomes = life.of.make().cut_outcomes
    second = 1
    while not tally.hopeless:
        again = [cut_once_again(life, (operation, how), (second, outcome)) for outcome in range(outcomes)]
        for each in again:
            tally.add(each)
        if not any(each.cuts or each.violations for each in again):
            return tally
        second += 1
    return tally


def long_life(life: Life) -> Tally:
    """One device, cut by chance again and again, for as long as it lives."""
    tally = Tally()
    random_ = random.Random(f"{life}")
    number = 0
    try:
        run = life.begin()
        steps = life.steps()
        while number < len(steps):
            if random_.random() < 0.1:
                run.flash.arm_cut(random_.randint(1, 40), random_.randrange(run.flash.cut_outcomes))
            if run_until_cut(run, steps[number : number + 1]):
                tally.cuts += 1 + run.recover(lambda: begin_recovery_cuts(run, random_), at_most=random_.randrange(4))
                run.settle()
            number += 1
        run.recover()
        run.settle_twice()
    except (BrokenPromiseError, OSError, ValueError) as error:
        tally.note(f"{life} step {number}", error)
    return tally
