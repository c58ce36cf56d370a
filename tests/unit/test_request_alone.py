"""What is said of a request alone: how sure its median is, and what a header tells."""

from __future__ import annotations

from random import Random

import pytest

from deployments.request_alone import in_stages_s, median_interval


@pytest.mark.parametrize(("count", "low", "high"), [(6, 1, 6), (25, 8, 18), (100, 40, 61)])
def test_the_interval_ends_at_these_of_the_sorted_values(count, low, high):
    values = list(range(1, count + 1))
    Random(1).shuffle(values)
    assert median_interval(values) == (low, high)


def test_nineteen_of_twenty_intervals_hold_the_median():
    random = Random(2)

    def holds_it() -> bool:
        low, high = median_interval([random.lognormvariate(0, 1) for _ in range(75)])
        return low <= 1.0 <= high  # the median of this lopsided distribution

    assert 0.93 < sum(holds_it() for _ in range(2000)) / 2000 < 0.97


def test_stages_are_added_up_and_the_total_is_not():
    assert in_stages_s("semantic;dur=10.5, fine;dur=4.5, total;dur=99") == 0.015
