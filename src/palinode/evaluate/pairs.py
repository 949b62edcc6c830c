"""Scores of minimal pairs and of last words, which a run measures at its end, or `palinode pairs` from its weights.

A pair is won if the good sentence has fewer nats than the bad one, each read behind the start token; a tie counts half. A last word
is won if each of its tokens is the most probable id after the tokens before it, so that greedy decoding would write the word.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from palinode.data.pairs import Pair
from palinode.data.tokenizer import Tokenizer
from palinode.evaluate.sliding import SlidingContext

TEXTS_AT_ONCE = 64  # the number of texts whose blocks are read together


def won_pairs(context: SlidingContext, tokenizer: Tokenizer, pairs: Sequence[Pair]) -> NDArray[np.float64]:
    """(pairs,) 1 for a pair that is won, 0.5 for a tie, 0 for a pair that is lost.

    Raises:
        BadInput: a sentence cannot be written in the vocabulary.
    """
    ids = [tokenizer.encode(text) for pair in pairs for text in (pair.good, pair.bad)]
    sums = np.array([np.nansum(nats) for nats in context.nats(ids)]).reshape(-1, 2)
    good, bad = sums.T
    return np.where(good == bad, 0.5, (good < bad).astype(np.float64))


@dataclass(frozen=True)
class LastWords:
    """The scores of the last words of some texts: the texts, those whose word was won, and the tokens and nats of all the words."""

    texts: int
    won: int
    tokens: int
    nats_sum: float


def last_words(context: SlidingContext, tokenizer: Tokenizer, texts: Sequence[str]) -> LastWords:
    """Score the last word of each text, given the text before it. The space before the word belongs to the word.

    Raises:
        BadInput: a text cannot be written in the vocabulary.
    """
    won, tokens, nats = 0, 0, 0.0
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        parts = [_cut(tokenizer, text) for text in texts[start : start + TEXTS_AT_ONCE]]
        for (given, word), scores in zip(parts, context.nats_and_hits([[*a, *b] for a, b in parts]), strict=True):
            won += bool(scores.hit[len(given) :].all())
            tokens += len(word)
            nats += float(np.nansum(scores.nats[len(given) :]))
    return LastWords(len(texts), won, tokens, nats)


def _cut(tokenizer: Tokenizer, text: str) -> tuple[list[int], list[int]]:
    """The ids of a text before its last word, and the ids of the last word with the space before it."""
    text = text.rstrip()
    before = text[: max(text.rfind(space) for space in " \n\t") + 1].rstrip()
    return tokenizer.encode(before), tokenizer.encode_part(text[len(before) :]).tolist()
