"""docs/health.md has the states as the code does."""

from pathlib import Path

from virtflash.health.platform_state import manual

MANUAL = Path(__file__).parents[2] / "docs/health.md"


def test_the_table_of_states() -> None:
    assert "\n".join(manual()) in MANUAL.read_text()
