"""Witten-Bell by sorting against Witten-Bell by dictionaries, and against the reference numbers of a play corpus."""

import math
import os
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palinode.checks.loss_floor import witten_bell

IDS = st.lists(st.integers(0, 4), min_size=1, max_size=60)


def slow_witten_bell(train, held_out, vocab_size, max_order):
    """Straight from the formula, one token at a time."""
    followers = [defaultdict(Counter) for _ in range(max_order)]
    for length in range(max_order):
        for i in range(length, len(train)):
            followers[length][tuple(train[i - length : i])][train[i]] += 1
    nats = []
    for order in range(1, max_order + 1):
        total = 0.0
        for i, token in enumerate(held_out):
            p = 1 / vocab_size
            for length in range(min(order, i + 1)):
                counts = followers[length].get(tuple(held_out[i - length : i]))
                if counts:
                    p = (counts[token] + len(counts) * p) / (sum(counts.values()) + len(counts))
            total -= math.log(p)
        nats.append(total / len(held_out))
    return nats


@given(IDS, IDS, st.sampled_from([np.uint8, np.uint16, np.int64]))
@settings(deadline=None)
def test_equals_the_formula(train, held_out, kind):
    fast = witten_bell(np.array(train, kind), np.array(held_out, kind), 7, max_order=4)
    assert fast.nats_by_order == pytest.approx(slow_witten_bell(train, held_out, 7, 4), abs=1e-12)


def test_unigrams_of_one_token_by_hand():
    # 3 of token 0 seen: (3 + 1 * 1/4) / (3 + 1) for it, (0 + 1 * 1/4) / (3 + 1) for any other
    scores = witten_bell(np.zeros(3, np.uint8), np.array([0, 1], np.uint8), 4, max_order=1)
    assert scores.nats == pytest.approx(-(math.log(3.25 / 4) + math.log(0.25 / 4)) / 2)


def test_large_ids_keep_their_last_token():
    train = np.array([50000, 3, 50256, 3, 50000, 3, 50256, 3, 50000], np.uint16)
    assert witten_bell(train, train, 50257, max_order=3).nats_by_order == pytest.approx(
        slow_witten_bell(train.tolist(), train.tolist(), 50257, 3), abs=1e-12
    )


def test_a_cap_is_told():
    tokens = np.tile(np.arange(5, dtype=np.uint8), 20)
    whole = witten_bell(tokens, tokens, 5)
    cut = witten_bell(tokens, tokens, 5, max_train_tokens=50)
    assert (whole.truncated, cut.truncated) == (False, True)
    assert cut.train_tokens == 50
    assert cut.nats_by_order == witten_bell(tokens[:50], tokens, 5).nats_by_order


def test_best_order_is_the_lowest_loss():
    tokens = np.tile(np.arange(5, dtype=np.uint8), 40)
    scores = witten_bell(tokens, tokens[:50], 5)
    assert scores.nats == min(scores.nats_by_order) == scores.nats_by_order[scores.best_order - 1]
    assert scores.best_order > 1


@pytest.mark.skipif("PALINODE_DATA" not in os.environ, reason="needs the development data")
def test_play_corpus_has_the_reference_loss_in_both_directions():
    play = np.frombuffer((Path(os.environ["PALINODE_DATA"]) / "tinyshakespeare" / "input.txt").read_bytes(), np.uint8)
    cut = int(len(play) * 0.9)
    ltr = witten_bell(play[:cut], play[cut:], 65)
    assert ltr.best_order == 5
    assert ltr.nats == pytest.approx(1.669, abs=5e-4)
    rtl = witten_bell(play[:cut][::-1], play[cut:][::-1], 65)
    ratios = [backward / forward for forward, backward in zip(ltr.nats_by_order, rtl.nats_by_order, strict=True)]
    assert [ratios[i] for i in (0, 1, 2, 4, 5)] == pytest.approx([1.0, 0.9999, 1.0005, 1.0002, 0.9991], abs=6e-5)
