"""Accuracies on minimal pairs: sums by field and paradigm, and an interval that knows that paradigms differ."""

import pytest

from palinode.analysis.intervals import share_interval
from palinode.analysis.pairs import pair_shares


def test_the_groups_add_up_and_ties_count_half():
    names = [("syntax", "a")] * 4 + [("syntax", "b")] * 2 + [("meaning", "c")] * 2
    shares = pair_shares(names, [1, 1, 0, 0.5, 1, 1, 0, 0])
    assert [(one.field, one.paradigm, one.won, one.count) for one in shares] == [
        ("", "", 4.5, 8),
        ("meaning", "", 0, 2),
        ("syntax", "", 4.5, 6),
        ("meaning", "c", 0, 2),
        ("syntax", "a", 2.5, 4),
        ("syntax", "b", 2, 2),
    ]
    assert shares[0].accuracy == 4.5 / 8
    assert shares[2].interval == share_interval(4.5, 6, 0.95)


def test_one_paradigm_is_one_row_with_about_the_interval_of_wilson():
    [only] = pair_shares([("syntax", "a")] * 400, [1.0] * 300 + [0.0] * 100)
    wilson = share_interval(300, 400, 0.95)
    assert only.interval.low == pytest.approx(wilson.low, abs=0.01)
    assert only.interval.high == pytest.approx(wilson.high, abs=0.01)


def test_paradigms_that_differ_widen_the_interval_of_all_pairs():
    names = [("", str(number)) for number in range(8) for _ in range(100)]
    alike = pair_shares(names, [1.0, 0.0] * 400)[0].interval
    apart = pair_shares(names, [float(number % 2) for number in range(8) for _ in range(100)])[0].interval
    assert apart.high - apart.low > 5 * (alike.high - alike.low)
    assert pair_shares(names, [1.0, 0.0] * 400)[0].interval == alike
