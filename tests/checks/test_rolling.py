"""Hashes of n-grams against the n-grams themselves."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palinode.checks import rolling
from palinode.checks.rolling import distinct, is_in, ngram_hashes, occurrences, row_hashes, span_hashes

TOKENS = st.lists(st.integers(0, 2), max_size=60).map(lambda ids: np.array(ids, np.uint16))


def grams(tokens, n):
    return [tuple(tokens[i : i + n].tolist()) for i in range(len(tokens) - n + 1)]


@given(TOKENS, st.integers(1, 6))
def test_equal_hashes_are_equal_ngrams(tokens, n):
    hashes = ngram_hashes(tokens, n)
    names = grams(tokens, n)
    assert len(hashes) == len(names)
    assert len(set(hashes.tolist())) == len(set(names))
    assert len(set(zip(hashes.tolist(), names, strict=True))) == len(set(names))


@given(TOKENS, st.integers(1, 6), st.integers(1, 7))
@settings(deadline=None)
def test_occurrences_cross_block_seams(tokens, n, block_tokens):
    wanted = set(grams(tokens, n)[::3])
    hashes = distinct(ngram_hashes(tokens, n)[::3])
    positions, result = occurrences(tokens, hashes, n, block_tokens)
    assert positions.tolist() == [i for i, gram in enumerate(grams(tokens, n)) if gram in wanted]
    assert result.tolist() == ngram_hashes(tokens, n)[positions].tolist()


@given(TOKENS, st.data())
def test_a_span_hashes_like_itself_alone(tokens, data):
    start = data.draw(st.integers(0, len(tokens)))
    end = data.draw(st.integers(start, len(tokens)))
    alone = ngram_hashes(tokens[start:end], end - start)
    assert span_hashes(tokens, np.array([start]), np.array([end])).tolist() == alone.tolist()


def test_rows_hash_like_ngrams():
    rows = np.arange(12).reshape(3, 4)
    assert row_hashes(rows).tolist() == ngram_hashes(rows.reshape(-1), 4)[::4].tolist()


def test_dtype_and_base_do_not_matter():
    ids = [3, 1, 4, 1, 5, 9, 2, 6]
    hashes = [ngram_hashes(np.array(ids, kind), 3).tolist() for kind in (np.uint8, np.int32, np.uint64)]
    assert hashes[0] == hashes[1] == hashes[2]
    assert rolling.BASE * rolling.INVERSE % 2**64 == 1


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_ids_that_are_looked_up_hash_as_ids_that_are_computed(kind):
    tokens = np.random.default_rng(0).integers(0, np.iinfo(kind).max, 70_000, endpoint=True).astype(kind)
    assert ngram_hashes(tokens, 5).tolist() == ngram_hashes(tokens.astype(np.int64), 5).tolist()


def test_occurrences_among_many_references_are_those_of_sets():
    rng = np.random.default_rng(1)
    held_out, other = (rng.integers(0, 256, 40_000).astype(np.uint8) for _ in range(2))
    text = np.concatenate([other[:1000], held_out[10_000:30_000], other[1000:]])
    wanted = set(ngram_hashes(held_out, 20).tolist())
    positions, hashes = occurrences(text, distinct(ngram_hashes(held_out, 20)), 20, block_tokens=7_000)
    every = ngram_hashes(text, 20).tolist()
    assert positions.tolist() == [place for place, one in enumerate(every) if one in wanted]
    assert hashes.tolist() == [every[place] for place in positions]
    assert 15_000 < len(positions) < 25_000


def test_membership_of_nothing():
    nothing = np.zeros(0, np.uint64)
    assert is_in(ngram_hashes(np.arange(4), 2), nothing).tolist() == [False] * 3
    assert distinct(nothing).tolist() == []
    assert distinct(np.array([5, 1, 5, 1, 1], np.uint64)).tolist() == [1, 5]
