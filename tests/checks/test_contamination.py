"""C4: planted copies are found and counted, honest splits pass, and the counts are those of a slow search."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palinode.checks.contamination import (
    BYTE,
    Unit,
    check_contamination,
    check_exact_windows,
    check_prompt_splits,
    common_ngrams,
    longest_runs,
)

WINDOW = 64
TOKEN = Unit("token", 8)
SMALL = st.lists(st.integers(0, 2), max_size=50).map(lambda ids: np.array(ids, np.uint8))


def text(seed, sentences=4000, words=400):
    """Sentences of frequent and rare words: natural overlap at short n, none at 50 bytes."""
    rng = np.random.default_rng(seed)
    vocabulary = np.array(
        ["".join(chr(97 + c) for c in rng.integers(26, size=rng.integers(2, 9))) for _ in range(words)]
    )
    frequency = 1 / np.arange(1, words + 1)
    chosen = rng.choice(vocabulary, size=(sentences, 12), p=frequency / frequency.sum())
    return [" ".join(row) + ". " for row in chosen]


def ids(sentences):
    return np.frombuffer("".join(sentences).encode(), np.uint8)


@pytest.fixture(scope="module")
def honest():
    sentences = text(0)
    return ids(sentences[:3600]), ids(sentences[3600:])


def outcomes(findings):
    return {finding.check: finding.outcome for finding in findings}


def test_an_honest_split_passes(honest):
    train, validation = honest
    findings = check_contamination(
        train, {"validation": validation, "test": validation[:0]}, window_tokens=WINDOW, unit=BYTE
    )
    names = ("exact_windows", "half_windows", "ngram_overlap", "longest_run")
    assert outcomes(findings) == {f"C4.{name}": "pass" for name in names}
    assert [finding.numbers["planted_windows_found"] for finding in findings[:1]] == [3]


def test_m42_three_copied_windows_are_found_and_located(honest):
    train, validation = honest
    starts, places = [2 * WINDOW, 30 * WINDOW, 101 * WINDOW], [17, 70_001, len(train) - WINDOW]
    dirty = train.copy()
    for start, place in zip(starts, places, strict=True):
        dirty[place : place + WINDOW] = validation[start : start + WINDOW]
    finding = check_exact_windows(dirty, validation, window_tokens=WINDOW, unit=BYTE)
    assert finding.outcome == "fail"
    assert finding.numbers["windows_found"] == 3
    for start, place in zip(starts, places, strict=True):
        assert f"train {place} = validation {start}" in finding.message
    assert check_exact_windows(train, validation, window_tokens=WINDOW, unit=BYTE).outcome == "pass"


def test_m43_shuffled_sentences_with_duplicates_fail(honest):
    sentences = text(1, sentences=2000) * 2
    shuffled = [sentences[i] for i in np.random.default_rng(2).permutation(len(sentences))]
    findings = check_contamination(
        ids(shuffled[:3600]), {"validation": ids(shuffled[3600:])}, window_tokens=WINDOW, unit=BYTE
    )
    overlap = next(finding for finding in findings if finding.check == "C4.ngram_overlap")
    assert overlap.outcome == "fail"
    assert overlap.numbers["share"] > 0.3
    assert 3 * overlap.numbers["natural_share"] > overlap.numbers["share"]  # train is as bad: that is no excuse
    deduplicated = list(dict.fromkeys(shuffled))
    clean = check_contamination(
        ids(deduplicated[:1800]), {"validation": ids(deduplicated[1800:])}, window_tokens=WINDOW, unit=BYTE
    )
    assert set(outcomes(clean).values()) == {"pass"}


def test_a_copied_page_fails_and_its_place_is_printed(honest):
    train, validation = honest
    dirty = train.copy()
    dirty[5000:5900] = validation[1111:2011]
    findings = check_contamination(dirty, {"test": validation}, window_tokens=5000, unit=BYTE)
    assert outcomes(findings) == {"C4.exact_windows": "pass", "C4.ngram_overlap": "fail", "C4.longest_run": "fail"}
    longest = findings[-1]
    assert 900 <= longest.numbers["longest_run_tokens"] <= 902  # the neighbours may agree by chance
    assert "at train 5000 = held-out 1111" in longest.message or "at train 4999 = held-out 1110" in longest.message


def test_repetitive_text_natural_in_train_passes():
    """A licence note between all documents makes some windows occur twice, in train as in validation."""
    rng = np.random.default_rng(0)
    note = rng.integers(256, size=90)
    documents = [np.concatenate([rng.integers(256, size=3000), note]) for _ in range(200)]
    train, validation = np.concatenate(documents[:180]), np.concatenate(documents[180:])
    finding = check_exact_windows(train, validation, window_tokens=30, unit=Unit("byte", 25))
    assert finding.numbers["windows_found"] > 0
    assert finding.outcome == "pass"


def test_too_little_text_for_the_positive_control_cannot_tell():
    finding = check_exact_windows(np.arange(20), np.arange(100, 120), window_tokens=16, unit=TOKEN)
    assert finding.outcome == "could_not_tell"
    short = check_contamination(np.arange(9), {"validation": np.arange(100, 105)}, window_tokens=4, unit=TOKEN)
    assert {finding.outcome for finding in short} == {"could_not_tell"}


@given(SMALL, SMALL, st.integers(1, 5))
@settings(deadline=None)
def test_common_ngrams_are_those_of_a_slow_search(train, held_out, n):
    grams = {tuple(train[i : i + n]) for i in range(len(train) - n + 1)}
    slow = [i for i in range(len(held_out) - n + 1) if tuple(held_out[i : i + n]) in grams]
    assert common_ngrams(train, held_out, n).held_out[0].tolist() == slow


@given(SMALL, SMALL, st.integers(1, 4))
@settings(deadline=None)
def test_the_longest_run_is_that_of_a_slow_search(train, held_out, n):
    best = 0
    for i in range(len(train)):
        for j in range(len(held_out)):
            k = 0
            while i + k < len(train) and j + k < len(held_out) and train[i + k] == held_out[j + k]:
                k += 1
            best = max(best, k)
    runs = longest_runs(common_ngrams(train, held_out, n), n)
    assert (runs[0].tokens if runs else 0) == (best if best >= n else 0)
    covered = set()
    for run in runs:
        a, b, length = run.train_offset, run.held_out_offset, run.tokens
        assert train[a : a + length].tolist() == held_out[b : b + length].tolist()
        assert not covered & set(range(b, b + length))
        covered |= set(range(b, b + length))


def prompts(seed, count=500):
    return np.random.default_rng(seed).integers(1 << 30, size=(count, 6))


def bucket(rows):
    return np.abs(rows.sum(1)) % 100


def test_m44_a_test_set_drawn_with_the_train_seed_fails():
    shared = check_prompt_splits({"train": prompts(0), "validation": prompts(1), "test": prompts(0)[:50]})
    assert shared.outcome == "fail"
    assert "train_and_test: 50" in shared.message
    assert check_prompt_splits({"train": prompts(0), "validation": prompts(1), "test": prompts(2)}).outcome == "pass"


def test_prompts_outside_their_buckets_fail():
    rows = prompts(0, 2000)
    allowed = {"train": range(0, 90), "test": range(95, 100)}
    splits = {name: rows[np.isin(bucket(rows), list(buckets))] for name, buckets in allowed.items()}
    assert check_prompt_splits(splits, bucket, allowed).outcome == "pass"
    wrong = {**splits, "test": np.concatenate([splits["test"], prompts(9, 100)])}
    finding = check_prompt_splits(wrong, bucket, allowed)
    assert finding.outcome == "fail"
    assert finding.numbers["test_outside_its_buckets"] == int((~np.isin(bucket(prompts(9, 100)), range(95, 100))).sum())


def test_one_split_alone_cannot_tell():
    assert check_prompt_splits({"train": prompts(0)}).outcome == "could_not_tell"


@pytest.mark.skipif("PALINODE_DATA" not in os.environ, reason="needs the development data")
def test_play_corpus_has_the_reference_overlaps():
    play = np.frombuffer((Path(os.environ["PALINODE_DATA"]) / "tinyshakespeare" / "input.txt").read_bytes(), np.uint8)
    cut = int(len(play) * 0.9)
    train, validation = play[:cut], play[cut:]
    assert common_ngrams(train, validation, 13).share == pytest.approx(0.068, abs=5e-4)
    assert common_ngrams(train, validation, 8).share == pytest.approx(0.503, abs=5e-4)
    assert common_ngrams(train, validation, 20).share == pytest.approx(0.0022, abs=5e-5)
    assert common_ngrams(train, validation, 30).share < 5e-5
    findings = check_contamination(train, {"validation": validation}, window_tokens=128, unit=BYTE)
    assert {finding.outcome for finding in findings} == {"pass"}
