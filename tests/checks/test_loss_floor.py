"""C8: impossible losses fail, unlikely ones warn, honest ones pass; and what cannot be judged says so."""

import pytest

from palinode.checks.loss_floor import NgramScores, check_directions, check_falls, check_text_floor

MANY = {"ltr": 100_000, "rtl": 100_000}
NGRAMS = NgramScores((3.3, 1.669), 1_000_000, 100_000, False)


def directions(ltr, rtl, scored=MANY, trained=None):
    return check_directions({"ltr": ltr, "rtl": rtl}, scored, trained)


def is_warning(finding):
    assert (finding.numbers["warnings"] > 0) == finding.message.startswith("warning: ")
    return finding.outcome == "pass" and finding.numbers["warnings"] > 0


def test_m01_the_published_losses_fail():
    """The stored end of the published run at 136 M parameters, p = .05: ltr 3.29, rtl .756 nats; and at p = .1, rtl .11."""
    for rtl in (0.756, 0.11):
        finding = directions(3.29, rtl, trained={"ltr": 1e9, "rtl": 5e7})
        assert finding.outcome == "fail"
        assert finding.numbers["ratio"] == pytest.approx(rtl / 3.29)


@pytest.mark.parametrize("ratio", [1.0, 1.0048, 1.03, 1.4])
def test_honest_ratios_pass_without_a_warning(ratio):
    finding = directions(3.29, 3.29 * ratio)
    assert finding.outcome == "pass"
    assert not is_warning(finding)


def test_the_lines_are_at_995_and_970():
    assert is_warning(directions(2.0, 2.0 * 0.994))
    assert not is_warning(directions(2.0, 2.0 * 0.996))
    assert is_warning(directions(2.0, 2.0 * 0.971))
    assert directions(2.0, 2.0 * 0.969).outcome == "fail"


def test_what_a_ratio_cannot_judge():
    assert directions(2.0, 1.0, scored={"ltr": 100, "rtl": 99}).outcome == "could_not_tell"
    assert directions(2.0, 1.0, trained={"ltr": 0, "rtl": 1000}).outcome == "could_not_tell"  # an rtl-only arm
    assert directions(2.0, 1.9, scored={"ltr": 200, "rtl": 200}).outcome == "could_not_tell"  # chance
    assert check_directions({"ltr": 2.0}, {"ltr": 9}).outcome == "could_not_tell"


def test_text_lines():
    honest = check_text_floor(1.47, 2.12, NGRAMS)  # .88 of the n-gram loss: good small transformers
    assert honest.outcome == "pass"
    assert not is_warning(honest)
    assert is_warning(check_text_floor(1.1, 1.6, NGRAMS))
    assert check_text_floor(0.7, 1.0, NGRAMS).outcome == "fail"
    assert "bits per byte" in check_text_floor(1.47, 0.49, NGRAMS).message
    assert check_text_floor(1.47, 0.49, NGRAMS).outcome == "fail"


def test_ngrams_counted_on_part_of_train_only_warn():
    capped = NgramScores((3.3, 1.669), 4_000_000, 100_000, True)
    assert is_warning(check_text_floor(0.7, None, capped))


def test_falls():
    steady = [(0, 5.5), (100, 2.6), (200, 2.3), (300, 2.2)]
    assert not is_warning(check_falls(steady))  # the fall from the untrained model is no surprise
    sudden = check_falls([*steady, (400, 1.5)])
    assert is_warning(sudden)
    assert "between steps 300 and 400" in sudden.message
    assert check_falls([(0, 5.5), (100, 2.6)]).outcome == "could_not_tell"
