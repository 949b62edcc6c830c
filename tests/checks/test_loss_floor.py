"""C8: impossible losses fail, unlikely ones warn, honest ones pass; and what cannot be judged says so."""

import lzma
import math

import numpy as np
import pytest

from palinode.checks.loss_floor import (
    TextFloor,
    check_directions,
    check_exact_floor,
    check_falls,
    check_text_floor,
    conditional_bits_per_byte,
    text_floor,
)
from palinode.checks.witten_bell import NgramScores

MANY = {"ltr": 100_000, "rtl": 100_000}
FLOOR = TextFloor(NgramScores((3.3, 1.669), 1_000_000, 100_000, False), 2.52)


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


def test_exact_floor_allows_chance_and_no_more():
    tokens = 32_768
    allowed = math.log(1e9) / tokens  # 6.3e-4 nats
    floor = math.log(16)
    assert check_exact_floor(floor - 0.9 * allowed, floor, tokens).outcome == "pass"
    finding = check_exact_floor(floor - 1.1 * allowed, floor, tokens)
    assert finding.outcome == "fail"
    assert finding.threshold == pytest.approx(6.3e-4, abs=1e-5)
    memorised = check_exact_floor(0.1, floor, tokens, trained_on=True)
    assert memorised.outcome == "pass"
    assert is_warning(memorised)
    assert check_exact_floor(0.01, floor, tokens_scored=5).outcome == "could_not_tell"


def test_honest_predictors_of_biased_coins_never_fall_below_their_floor():
    """The floor of the tokens themselves moves with them; their expected entropy would raise false alarms."""
    rng = np.random.default_rng(0)
    entropy = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    against_entropy = 0
    for q in (0.9, 0.85, 0.99):
        for _ in range(200):
            heads = rng.random(500) < 0.9
            floor, nats = (float(-np.log(np.where(heads, p, 1 - p)).mean()) for p in (0.9, q))
            assert check_exact_floor(nats, floor, 500).outcome == "pass"
            against_entropy += check_exact_floor(nats, entropy, 500).outcome == "fail"
    assert against_entropy > 0


def test_text_lines():
    honest = check_text_floor(1.47, 2.12, FLOOR)  # .88 of the n-gram loss: good small transformers
    assert honest.outcome == "pass"
    assert not is_warning(honest)
    assert is_warning(check_text_floor(1.1, 1.6, FLOOR))
    assert check_text_floor(0.7, 1.0, FLOOR).outcome == "fail"
    assert "bits per byte" in check_text_floor(1.47, 0.49, FLOOR).message
    assert check_text_floor(1.47, 0.49, FLOOR).outcome == "fail"
    assert is_warning(check_text_floor(1.3, 0.8, FLOOR))  # below .35 of xz
    assert check_text_floor(0.02, 2.0, FLOOR, train_nats_per_token=0.01).outcome == "fail"
    assert "both near 0" not in check_text_floor(1.47, 2.0, FLOOR, train_nats_per_token=0.01).message


def test_ngrams_counted_on_part_of_train_only_warn():
    capped = TextFloor(NgramScores((3.3, 1.669), 4_000_000, 100_000, True))
    assert is_warning(check_text_floor(0.7, None, capped))


def test_falls():
    steady = [(0, 5.5), (100, 2.6), (200, 2.3), (300, 2.2)]
    assert not is_warning(check_falls(steady))  # the fall from the untrained model is no surprise
    sudden = check_falls([*steady, (400, 1.5)])
    assert is_warning(sudden)
    assert "between steps 300 and 400" in sudden.message
    assert check_falls([(0, 5.5), (100, 2.6)]).outcome == "could_not_tell"


def test_compressor_is_the_difference_of_two_files():
    train, held_out = (
        b"the quick brown fox jumps over the lazy dog. " * 50,
        b"pack my box with five dozen liquor jugs" * 3,
    )
    expected = 8 * (len(lzma.compress(train + held_out)) - len(lzma.compress(train))) / len(held_out)
    assert conditional_bits_per_byte(train, held_out) == expected
    assert conditional_bits_per_byte(train, train[:450]) < expected


def test_text_floor_joins_both():
    tokens = np.frombuffer(b"abracadabra" * 40, np.uint8)
    floor = text_floor(tokens, tokens[:50], 256, train_text=tokens.tobytes(), held_out_text=tokens[:50].tobytes())
    assert floor.ngrams.train_tokens == 440
    assert floor.compressor_bits_per_byte is not None
    assert text_floor(tokens, tokens[:50], 256).compressor_bits_per_byte is None
