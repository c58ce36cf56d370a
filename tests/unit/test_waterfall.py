from types import SimpleNamespace

import pytest

from pipeline.payloads import StageReport
from pipeline.waterfall import Waterfall, text_rows


def segments(*began_s):
    """One segment a time; each was a second in its queue, and a second on the device."""
    return [
        SimpleNamespace(
            segment=SimpleNamespace(index=index),
            reports=[StageReport("codec", queue_s=1.0, device_s=1.0, began_unix_s=began)],
            mark_s=0.0,
        )
        for index, began in enumerate(began_s)
    ]


def starts(found):
    return [bar.start_s for bar in found.bars]


def test_bars_begin_with_the_first_stage_where_nobody_says_when_the_request_did():
    found = Waterfall.of(segments(1003.0, 1005.0), 9.0)
    assert starts(found) == [0.0, 2.0]
    assert found.total_s == 9.0


def test_what_a_request_waited_before_its_first_stage_is_in_front_of_it():
    found = Waterfall.of(segments(1003.0, 1005.0), 9.0, 1000.0)
    assert starts(found) == [3.0, 5.0]
    assert found.total_s == 9.0


def test_a_clock_that_is_behind_moves_no_bar_before_the_beginning():
    found = Waterfall.of(segments(1003.0, 1005.0), 3.0, 1004.0)
    assert starts(found) == [0.0, 2.0]
    assert found.total_s == 4.0  # the last of them ended then


@pytest.mark.parametrize("total_s", [0.0, 4.0])
def test_a_request_without_stages_has_no_bars(total_s):
    found = Waterfall.of([], total_s, 1000.0)
    assert found.bars == ()
    assert found.total_s == total_s
    assert len(list(text_rows(found))) == 1
