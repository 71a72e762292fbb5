"""Scripts: what a sensor says at each moment of one, and files that are none."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virtflash.health.sensors.script import Script, ScriptError, read_script

T, V = "emmc0.temperature", "emmc0.voltage"
STEPS = [(0.0, T, 25.0), (10.0, T, 85.0), (10.0, T, 95.0), (20.0, T, 95.0), (5.0, V, 3.3), (5.0, V, 2.6)]


@pytest.mark.parametrize(
    ("name", "seconds", "value"),
    [
        (T, 0, 25),
        (T, 5, 55),
        (T, 9.999, pytest.approx(84.994)),
        (T, 10, 95),
        (T, 15, 95),
        (T, 1e9, 95),
        (V, 4.99, None),
        (V, 5, 2.6),
        (V, 6, 2.6),
        ("emmc0.spare", 5, None),
    ],
)
def test_a_ramp_a_jump_and_what_stays(name: str, seconds: float, value: float | None) -> None:
    script = Script(STEPS)
    assert script.value(name, seconds) == value
    assert (script.sensors, script.seconds) == ([T, V], 20.0)


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(-100, 200)), min_size=1, max_size=12), st.floats(0, 1e6))
def test_between_two_steps_it_lies_between_their_values(steps: list[tuple[float, float]], seconds: float) -> None:
    steps.sort(key=lambda step: step[0])
    value = Script((at, T, value) for at, value in steps).value(T, seconds)
    before = [value for at, value in steps if at <= seconds]
    behind = [value for at, value in steps if at > seconds]
    if not before:
        assert value is None
    else:
        ends = before[-1], (behind or before[-1:])[0]
        assert value is not None
        assert min(ends) - 1e-6 <= value <= max(ends) + 1e-6


@pytest.mark.parametrize(
    "steps",
    [
        [(1.0, T, 1.0), (0.5, T, 1.0)],
        [(-1.0, T, 1.0)],
        [(float("nan"), T, 1.0)],
        [(0.0, T, float("inf"))],
    ],
)
def test_what_is_no_course_is_refused(steps: list[tuple[float, str, float]]) -> None:
    with pytest.raises(ScriptError, match="not numbers in the order of time"):
        Script(steps)


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "heat.csv"
    path.write_text(f"seconds,sensor,value\n0,{T},25\n\n10,{T},85\n2.5,{V},3.3\n")
    script = read_script(path)
    assert (script.value(T, 5), script.value(V, 3)) == (55, 3.3)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "heat.csv:1: the first line is seconds,sensor,value"),
        ("0,emmc0.temperature,25\n", "heat.csv:1: the first line is"),
        ("seconds,sensor,value\n1,x\n", "heat.csv:2: seconds,sensor,value are expected"),
        ("seconds,sensor,value\n1,x,1\n1,x,hot\n", "heat.csv:3: seconds,sensor,value are expected"),
        ("seconds,sensor,value\n2,x,1\n1,x,1\n", "heat.csv: 1 s, x, 1: not numbers in the order of time"),
        (None, "heat.csv: No such file or directory"),
        ("\udcff", "heat.csv: .*utf-8"),
    ],
)
def test_a_file_that_is_none_is_told_in_one_line(text: str | None, told: str, tmp_path: Path) -> None:
    path = tmp_path / "heat.csv"
    if text is not None:
        path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ScriptError, match=told) as raised:
        read_script(path)
    assert "\n" not in str(raised.value)
