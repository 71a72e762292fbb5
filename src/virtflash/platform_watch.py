"""Who watches the platform while a configuration is served: its sensors, the policy of its rules, and the monitor that
tells the gate what comes of them."""

from collections.abc import Mapping
from threading import Lock

from virtflash.config.measured import PLATFORM, measure_of, of_sensor
from virtflash.health.clock import Clock, SystemClock
from virtflash.health.defaults import rules_of
from virtflash.health.monitor import Monitor, Reading
from virtflash.health.policy import Policy, Verdict
from virtflash.health.rule import Rule
from virtflash.health.sensors.configured import make_sensor
from virtflash.health.sensors.emulated import EmulatedSensor, emulated_sensors
from virtflash.health.sensors.pushed import Pushed
from virtflash.health.sensors.sensor import Sensor, SensorError
from virtflash.service import Service


class SharedPolicy:
    """A policy that the monitor asks on its thread, and that others change meanwhile."""

    def __init__(self, policy: Policy) -> None:
        self._policy, self._lock = policy, Lock()

    def take(self, sensor: str, value: float | None, now: float) -> None:
        with self._lock:
            self._policy.take(sensor, value, now)

    def verdicts(self, now: float) -> Mapping[str, Verdict]:
        with self._lock:
            return self._policy.verdicts(now)

    def due(self, now: float) -> float | None:
        with self._lock:
            return self._policy.due(now)

    def change(self, rules: list[Rule], volumes: Mapping[str, str], now: float) -> Mapping[str, Verdict]:
        with self._lock:
            self._policy.change(rules, volumes, now)
            return self._policy.verdicts(now)


class PlatformWatch:
    """Of a service. Sensors that no rule is about are not read."""

    def __init__(self, service: Service, clock: Clock | None = None) -> None:
        self._service, self._clock = service, clock or SystemClock()
        self.pushed = Pushed(self._clock.now)
        self.emulated: dict[str, EmulatedSensor] = {}
        self._sensors: dict[str, Sensor] = {}
        self._make_sensors()
        self._policy = SharedPolicy(Policy(self._rules(), self._volumes(), self._clock.now()))
        self._monitor = self._make_monitor()
        self._changing = False

    def _make_sensors(self) -> None:
        """What a section describes comes instead of what an emulated part would tell under the same name."""
        for flash in self._service.server.flashes.values():
            for sensor in emulated_sensors(flash.name, flash.storage, clock=self._clock.now):
                self.emulated[sensor.name] = sensor
                sensor.on_change = self._wake
                self._add(sensor)
        for name, section in self._service.configuration.sensor.items():
            made = make_sensor(name, section, self.pushed)
            self.emulated.pop(made.name, None)
            self._add(made)
        self.pushed.on_push = self._wake

    def _add(self, sensor: Sensor) -> None:
        self._sensors[sensor.name] = sensor

    def _rules(self) -> list[Rule]:
        """What no section describes of the platform, and a rule is about, is pushed."""
        for rule in self._service.configuration.health.rule:
            if of_sensor(rule.sensor)[0] == PLATFORM and rule.sensor not in self._sensors:
                self._add(self.pushed.sensor(rule.sensor, measure_of(rule.sensor).unit))
        return rules_of(self._service.configuration, self._sensors.keys())

    def _watched(self) -> list[Sensor]:
        return [self._sensors[name] for name in sorted({rule.sensor for rule in self._rules()} & self._sensors.keys())]

    def _make_monitor(self) -> Monitor[Verdict]:
        self._read = self._watched()
        return Monitor(self._read, self._policy, self._service.gate.apply, self._clock)

    def _volumes(self) -> dict[str, str]:
        flashes = self._service.server.flashes.values()
        return {volume.name: flash.name for flash in flashes for volume in flash.pool.volumes}

    def _wake(self, name: str) -> None:
        self._monitor.wake(name)

    def start(self) -> None:
        self._service.on_change = self.look_again
        self._monitor.start()

    def stop(self) -> None:
        self._service.on_change = None
        self._monitor.stop()

    def look_again(self) -> None:
        """Volumes have come or gone, or rules have changed. What a sensor said before still counts."""
        watched = self._watched()
        self._service.gate.apply(self._policy.change(self._rules(), self._volumes(), self._clock.now()))
        if watched != self._read:
            self._changing = True
            self._monitor.stop()
            self._monitor = self._make_monitor()
            self._monitor.start()
            self._changing = False
        self._monitor.judge_again()

    @property
    def judges(self) -> bool:
        """From `start` to `stop`. Otherwise a mistake of ours has ended it, and nothing guards the flashes any more."""
        return self._changing or self._monitor.judges

    def now(self) -> float:
        return self._clock.now()

    def readings(self) -> dict[str, Reading]:
        return self._monitor.readings()

    def simulate(self, name: str, value: float | None) -> None:
        """An emulated part tells this from now on; None: what it measures. SensorError."""
        sensor = self.emulated.get(name)
        if sensor is None:
            raise SensorError(f"{name}: nothing emulated measures it; what can be set: {', '.join(self.emulated)}")
        measure = measure_of(name)
        if value is not None and not measure.least <= value <= measure.most:  # nor not-a-number
            raise SensorError(f"{name}: {value:g} is nothing that it could measure")
        sensor.release() if value is None else sensor.set(value)
