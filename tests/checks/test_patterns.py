"""Rows of one pattern (dots, lines of a table, blanks) that two splits hold are no copied text; copied text beside them is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palinode.checks.contamination import BPE_TOKEN, BYTE, check_contamination
from palinode.checks.patterns import kinds, most_kinds_of_a_pattern

LEADERS = {"dots": ". ", "ruler": "-=", "blanks": " ", "table": "| --- ", "irregular": ". . .. . . . .. . . . . ... "}
SIZES = {BYTE: (60_000, 400), BPE_TOKEN: (20_000, 5000)}  # tokens, and the number of different tokens


def random_text(seed, unit):
    count, vocabulary = SIZES[unit]
    rng = np.random.default_rng(seed)
    if unit is BYTE:
        return np.frombuffer(bytes(rng.integers(32, 127, count).astype(np.uint8)), np.uint8).astype(np.int64)
    return rng.integers(10, vocabulary, count)


def with_rows(tokens, row, lengths):
    """The text with a row of this pattern of each length, at even distances."""
    pieces = np.array_split(tokens, len(lengths) + 1)
    rows = [np.resize(row, length) for length in lengths]
    return np.concatenate([part for pair in zip(pieces, rows, strict=False) for part in pair] + [pieces[-1]])


def outcomes(train, validation, unit):
    found = check_contamination(train, {"validation": validation}, window_tokens=64, unit=unit)
    return {one.check.removeprefix("C4."): one.outcome for one in found}


@pytest.mark.parametrize("unit", [BYTE, BPE_TOKEN], ids=["byte", "bpe"])
@pytest.mark.parametrize("leader", LEADERS.values(), ids=LEADERS)
def test_rows_of_one_pattern_are_no_copies_and_a_copied_page_beside_them_is(leader, unit):
    alphabet = {sign: number for number, sign in enumerate(sorted(set(leader)))}
    row = np.array([ord(sign) if unit is BYTE else alphabet[sign] for sign in leader])
    train, validation = random_text(1, unit), random_text(2, unit)[: len(random_text(2, unit)) // 10]
    train, validation = with_rows(train, row, [70, 300]), with_rows(validation, row, [90, 260, 500])
    assert set(outcomes(train, validation, unit).values()) == {"pass"}
    train[4000:4900] = validation[:900]
    assert {"ngram_overlap": "fail", "longest_run": "fail"}.items() <= outcomes(train, validation, unit).items()


def test_a_text_of_four_letters_is_no_pattern():
    train, validation = (np.random.default_rng(seed).integers(0, 4, 50_000) for seed in (1, 2))
    assert most_kinds_of_a_pattern(train, 50) == 1
    assert set(outcomes(train, validation, BYTE).values()) == {"pass"}
    train[100:1100] = validation[300:1300]
    assert outcomes(train, validation, BYTE)["longest_run"] == "fail"


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.integers(1, 8))
@settings(deadline=None)
def test_kinds_are_those_of_a_slow_count(tokens, n):
    places = np.arange(max(0, len(tokens) - n + 1))
    slow = [len(set(tokens[place : place + n])) for place in places]
    assert kinds(np.array(tokens), places, n).tolist() == slow
