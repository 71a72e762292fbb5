"""The dashboard asks for what there is: each of its queries against an exposition with everything in it."""

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from made_status import cockpit
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from promql import asked

from virtflash.observation.exposition import registry_of

DASHBOARD = json.loads((Path(__file__).resolve().parent.parent.parent / "packaging/grafana/virtflash.json").read_text())
TARGETS = [(panel["title"], target) for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]
IN_LEGEND = re.compile(r"\{\{(\w+)\}\}")


def exposed() -> dict[str, set[str]]:
    """Names of samples, and the labels that they have."""
    found: dict[str, set[str]] = defaultdict(set)
    for metric in text_string_to_metric_families(generate_latest(registry_of(cockpit)).decode()):
        for sample in metric.samples:
            found[sample.name] |= set(sample.labels)
    return dict(found)


def problems(expression: str, legend: str = "") -> list[str]:
    there, query = exposed(), asked(expression)
    found = [f"no metric {name}" for name, _ in query.selectors if name not in there]
    known = set().union(*(there.get(name, set()) for name, _ in query.selectors))
    for name, labels in query.selectors:
        found += [f"{name} has no label {label}" for label in labels if label not in there.get(name, set())]
    found += [f"no label {label} to group by" for label in query.grouped if label not in known]
    found += [f"no label {label} in the legend" for label in IN_LEGEND.findall(legend) if label not in known]
    return found if query.selectors else ["asks for nothing"]


@pytest.mark.parametrize(("title", "target"), TARGETS, ids=[f"{title}-{t['refId']}" for title, t in TARGETS])
def test_a_query_asks_for_what_there_is(title: str, target: dict[str, Any]) -> None:
    assert problems(target["expr"], target["legendFormat"]) == [], title


VARIABLES = {v["name"]: v for v in DASHBOARD["templating"]["list"]}


@pytest.mark.parametrize("name", ["volume", "flash"])
def test_a_variable_asks_for_what_there_is(name: str) -> None:
    found = re.fullmatch(r"label_values\((.+), (\w+)\)", VARIABLES[name]["definition"])
    assert found
    assert problems(found[1], "{{" + found[2] + "}}") == []


@pytest.mark.parametrize(
    ("expression", "legend", "problem"),
    [
        ("rate(virtflash_volume_red_bytes_total[5m])", "", "no metric virtflash_volume_red_bytes_total"),
        ("virtflash_volume_read_bytes", "", "no metric virtflash_volume_read_bytes"),
        ('virtflash_flash_blocks{volume="a"}', "", "virtflash_flash_blocks has no label volume"),
        ("sum by (volume) (virtflash_flash_blocks)", "", "no label volume to group by"),
        ("virtflash_flash_blocks", "{{volume}}", "no label volume in the legend"),
        ("time()", "", "asks for nothing"),
    ],
)
def test_a_mistake_would_be_found(expression: str, legend: str, problem: str) -> None:
    assert problems(expression, legend) == [problem]


def test_what_grafana_needs() -> None:
    assert DASHBOARD["schemaVersion"] >= 39
    assert VARIABLES["datasource"]["type"] == "datasource"
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert [panel["title"] for panel in panels if panel["type"] == "row"] == ["Overview", "Volumes", "Flashes"]
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells), "panels lie on each other"
    assert max(x for x, _ in cells) < 24
