"""The rules that a flash has where a configuration says nothing else.

A server that refuses writes because of a number that nobody has written down must have a reason which holds for every
part of its kind. So only three things close a volume here: heat or cold beyond what automotive parts are rated for, an
eMMC's supply below what its standard asks for, and a reserve that the part itself calls urgent. What merely wears is
told.

Where no source is named, a figure is an assumption, to start from.
"""

import dataclasses
from collections.abc import Collection, Iterable, Iterator

from msgspec import structs

from virtflash.config.configuration import Configuration
from virtflash.config.configuration import Rule as Written
from virtflash.config.quantities import Duration
from virtflash.config.sensors import measure_in
from virtflash.health.rule import Rule

# A single reading that was wrong closes nothing: what heats is read each second, what wears every 10 s.
SOON, SETTLED, READ_AGAIN = Duration.read("5 s"), Duration.read("10 s"), Duration.read("30 s")
HOUR = Duration.read("1 h")  # registers that change over years are not read every second

TEMPERATURE = (
    # 85 degC is where consumer parts end (a data sheet of a 5.0 eMMC: -25 to 85 degC in operation), and where retention
    # is a 26th of that at 55 degC (Arrhenius, 1.1 eV).
    Written(sensor="temperature", above="85 degC", until="80 degC", delay=SETTLED, state="alarm"),
    # Programming heats; ten kelvin below the end there is time to do it slowly.
    Written(sensor="temperature", above="95 degC", until="90 degC", delay=SETTLED, state="throttled"),
    # AEC-Q100 grade 2 ends at 105 degC. Beyond it nothing promises that what is programmed can be read, so that what is
    # not stable yet is not written either.
    Written(sensor="temperature", above="105 degC", until="100 degC", delay=SOON, state="read-only", on_enter="freeze"),
    # The lower end of AEC-Q100 grades 1 to 3.
    Written(sensor="temperature", below="-40 degC", until="-35 degC", delay=SOON, state="read-only", on_enter="freeze"),
)
RESERVE = (
    # EXT_CSD 267: 2 (warning) says that 80 % of the reserved blocks are used, 3 (urgent) that 90 % are; our own
    # translation layer says 3 as well when it takes no more writes. At 3 the part can still program, so that what was
    # accepted is made stable first. At 2 it is told: to make every write stable at once would wear it faster.
    Written(sensor="pre_eol", above=1, state="alarm", delay=READ_AGAIN, stale=HOUR),
    Written(sensor="pre_eol", above=2, state="read-only", delay=READ_AGAIN, stale=HOUR),
)
LIFE = (
    # EXT_CSD 268 and 269: 10 says 90 to 100 % of the rated life, 11 that it is exceeded. Parts go on working beyond it,
    # for how long is not known.
    Written(sensor="life_time_a_code", above=10, state="alarm", delay=READ_AGAIN, stale=HOUR),
    Written(sensor="life_time_b_code", above=10, state="alarm", delay=READ_AGAIN, stale=HOUR),
)
SUPPLY = (
    # The core supply (VCC) of an eMMC is 2.7 to 3.6 V. Below it a program may do harm to what is stored already. A
    # brown-out takes milliseconds, so that there is no delay.
    Written(sensor="voltage", below="2.7 V", until="2.8 V", state="read-only", on_enter="freeze"),
    Written(sensor="voltage", below="2.85 V", until="2.95 V", state="durable"),
)
CYCLES = (
    # Data sheets of SLC NAND and of NOR promise retention up to their rated cycles.
    Written(sensor="life_time_b", above="100 %", state="alarm", delay=READ_AGAIN, stale=HOUR),
)

# NAND and NOR are made for 3.3 V and for 1.8 V, and which it is is not known here: no rule of theirs is about a supply.
DEFAULTS: dict[str, tuple[Written, ...]] = {
    "emmc": TEMPERATURE + RESERVE + LIFE + SUPPLY,
    "nand": TEMPERATURE + RESERVE + CYCLES,
    "nor": TEMPERATURE + RESERVE + CYCLES,
}


def rules_of(configuration: Configuration, sensors: Collection[str]) -> list[Rule]:
    """All that are in force by a configuration that has been checked: its own, and defaults.

    `sensors`: those that there are. A default about one that is not there would be stale for ever.
    """
    described = configuration.sensor
    own = [Rule.of(written, measure_in(described, written.sensor)) for written in configuration.health.rule]
    if not configuration.health.defaults:
        return own
    flashes = configuration.flash.items()
    defaults = [rule for name, flash in flashes for rule in defaults_of(name, flash.kind, own)]
    return own + [rule for rule in defaults if rule.sensor in sensors]


def defaults_of(flash: str, kind: str, own: Iterable[Rule] = ()) -> Iterator[Rule]:
    """Without those that a rule of the configuration replaces, and without the volumes for which it does.

    A rule replaces what has its sensor, its side and its state: who writes read-only above 110 degC does not mean 105.
    """
    own = list(own)
    for written in DEFAULTS.get(kind, ()):
        rule = Rule.of(structs.replace(written, sensor=f"{flash}.{written.sensor}"))
        instead = [each.volumes for each in own if replaces(each, rule)]
        if all(instead):  # none of them is about all volumes
            yield dataclasses.replace(rule, spared=frozenset[str]().union(*instead))


def replaces(own: Rule, default: Rule) -> bool:
    return (own.sensor, own.is_above, own.answer) == (default.sensor, default.is_above, default.answer)
