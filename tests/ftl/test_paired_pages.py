"""Pages that share cells: a flush pads no further than to the last page that could endanger what was written."""

import pytest
from crash_model import PARTS, UNIT_BYTES

PAIRED = PARTS["paired pages, SLC mode"]
DISTANCE = 3


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 7])
def test_a_flush_pads_no_further_than_the_pairs_reach(frames):
    layer = PAIRED.format(PAIRED.make())
    for frame in range(frames):
        layer.write([2 * frame, 2 * frame + 1], [bytes([frame + 1]) * UNIT_BYTES] * 2)
    before = layer.counters["padding_units"]
    layer.flush()
    padded = layer.counters["padding_units"] - before
    assert padded <= DISTANCE * layer.units_of_frame
    layer.flush()
    assert layer.counters["padding_units"] - before == padded  # there is nothing left to make safe
