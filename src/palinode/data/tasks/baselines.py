"""Accuracies that need no learning: the levels that every accuracy on a task is compared with.

Each baseline is a guesser; its level is the share of answers it guesses right. A guesser that has no basis for a guess is wrong.
A guesser sees the same tokens as the model that it is compared with (`Sees`). "Before" means before in the order of reading: pass
flipped samples for rtl.
Shapes: A all answers of a sample, a the answers of one part, T tokens of a sequence, V ids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from palinode.data.tasks.base import Sample, Task

NO_GUESS = -1
HIDDEN = -2
# What a guesser sees: the tokens before an answer; those of them that are no answers; all tokens that are no answers; or all
# tokens but the answer itself.
Sees = Literal["before", "prompt_before", "prompt", "others"]
HIDES_ANSWERS = ("prompt_before", "prompt")
CACHE_ORDERS = (1, 2, 3)
CACHES = tuple(f"cache_{order}" for order in CACHE_ORDERS)  # look up what last followed the same tokens
MOST_CELLS = 2**22  # of a table in memory
# At most this many cells (answers times tokens) are compared: seconds on one core. The first answers represent the rest. For
# sequences of 1024 tokens those are 32,768 answers, which give a share to .006.
MOST_COMPARED = 2**25


@dataclass(frozen=True)
class _Queries:
    """Some answers of a sample: their places (a,), true ids (a,), sequences (a, T), and which tokens the guesser sees (a, T)."""

    place: Tensor
    truth: Tensor
    tokens: Tensor
    seen: Tensor


def baselines(task: Task, fitted_on: Sample, sample: Sample, sees: Sees = "before") -> dict[str, float]:
    """The level of every baseline on a sample, by name. If the guesser sees both sides, the level from the better end.

    Args:
        fitted_on: another sample of the task, for the guessers that are fitted (`unigram`, `bigram`, `position_only`).
    """
    levels = _from_one_end(task, fitted_on, sample, sees)
    if sees in ("before", "prompt_before"):
        return levels
    other = _from_one_end(task, fitted_on.flipped(), sample.flipped(), sees)
    return {name: max(level, other[name]) for name, level in levels.items()}


def _from_one_end(task: Task, fitted_on: Sample, sample: Sample, sees: Sees) -> dict[str, float]:
    levels = {
        "uniform": uniform(task, sample),
        "unigram": unigram(fitted_on, sample),
        "bigram": bigram(fitted_on, sample, sees),
        "position_only": position_only(fitted_on, sample, sees),
        "copy_last": copy_last(sample, sees),
        "most_recent_value": most_recent_value(task, sample, sees),
        "in_context_mode": in_context_mode(task, sample, sees),
    }
    return levels | {f"cache_{order}": ngram_cache(sample, order, sees) for order in CACHE_ORDERS}


def uniform(task: Task, sample: Sample) -> float:
    """Guesses uniformly among the legal answers."""
    return _share(torch.isin(sample.tokens[sample.answers], task.legal_answers())) * task.chance()


def unigram(fitted_on: Sample, sample: Sample) -> float:
    """Always guesses the most frequent answer."""
    most = fitted_on.tokens[fitted_on.answers].bincount().argmax()
    return _share(sample.tokens[sample.answers] == most)


def bigram(fitted_on: Sample, sample: Sample, sees: Sees = "before") -> float:
    """Guesses the most frequent answer after the token before the answer."""
    base = int(max(fitted_on.tokens.max(), sample.tokens.max())) + 2
    both = (_token_before(fitted_on, sees) * base + fitted_on.tokens[fitted_on.answers]).numpy()
    pairs, counts = np.unique(both, return_counts=True)
    pairs = pairs[np.argsort(-counts, kind="stable")]
    before, most = np.unique(pairs // base, return_index=True)  # the first of each token, which is the most frequent
    guess = torch.full((base,), NO_GUESS)
    guess[torch.from_numpy(before)] = torch.from_numpy(pairs[most] % base)
    return _share(guess[_token_before(sample, sees)] == sample.tokens[sample.answers])


def copy_last(sample: Sample, sees: Sees = "before") -> float:
    """Guesses the token before the answer, whatever it is."""
    return _share(_token_before(sample, sees) - 1 == sample.tokens[sample.answers])


def most_recent_value(task: Task, sample: Sample, sees: Sees = "before") -> float:
    """Guesses the last token before the answer that is a legal answer (published tables call this copy-last)."""
    legal = _legal(task)

    def guess(queries: _Queries) -> Tensor:
        places = torch.arange(1, queries.tokens.shape[1] + 1)
        before = queries.seen & (places <= queries.place[:, None])
        last = (places * (before & legal[queries.tokens])).amax(1)
        return _token_at(queries.tokens, last - 1)

    return _accuracy(sample, sees, guess)


def in_context_mode(task: Task, sample: Sample, sees: Sees = "before") -> float:
    """Guesses the most frequent legal answer among the visible tokens; the lowest id of several."""
    legal = _legal(task)

    def guess(queries: _Queries) -> Tensor:
        counts = torch.zeros(len(queries.truth), len(legal), dtype=torch.int32)
        counts.scatter_add_(1, queries.tokens, (queries.seen & legal[queries.tokens]).int())
        most = counts.max(1)
        return torch.where(most.values > 0, most.indices, NO_GUESS)

    return _accuracy(sample, sees, guess, cells_per_answer=len(legal))


def ngram_cache(sample: Sample, order: int, sees: Sees = "before") -> float:
    """Guesses the token that last followed the same `order` tokens in this sequence."""

    def guess(queries: _Queries) -> Tensor:
        same = queries.seen.clone()
        context = queries.tokens.masked_fill(~queries.seen, HIDDEN)
        for back in range(1, order + 1):
            token = _token_at(context, queries.place - back)
            same[:, :back] = False
            same[:, back:] &= (context[:, :-back] == token[:, None]) & (token >= 0)[:, None]
        last = (torch.arange(1, same.shape[1] + 1) * same).amax(1)
        return _token_at(queries.tokens, last - 1)

    return _accuracy(sample, sees, guess)


def position_only(fitted_on: Sample, sample: Sample, sees: Sees = "before") -> float:
    """Copies the token from the place that most often equals the answer at this place, whatever the tokens are."""
    size = fitted_on.tokens.shape[1]
    places, row_of = fitted_on.answers.any(0).nonzero().flatten(), torch.zeros(size, dtype=torch.long)
    # The table has rows for the places of answers alone: one for all places would be T x T.
    row_of[places] = torch.arange(len(places))
    counts = torch.zeros(len(places), size, dtype=torch.long)
    for queries in _queries(fitted_on, sees):
        equal = queries.seen & (queries.tokens == queries.truth[:, None])
        counts.index_add_(0, row_of[queries.place], equal.long())
    source = torch.full((size,), NO_GUESS)
    source[places] = torch.where(counts.amax(1) > 0, counts.argmax(1), NO_GUESS)
    return _accuracy(sample, sees, lambda queries: _token_at(queries.tokens, source[queries.place]))


def _accuracy(sample: Sample, sees: Sees, guess: Callable[[_Queries], Tensor], cells_per_answer: int = 1) -> float:
    hits = sum(int((guess(part) == part.truth).sum()) for part in _queries(sample, sees, cells_per_answer))
    return hits / _count(sample)


def _queries(sample: Sample, sees: Sees, cells_per_answer: int = 1) -> Iterator[_Queries]:
    """The answers of a sample, in parts of bounded memory; only the first answers where there are very many."""
    size, count = sample.tokens.shape[1], _count(sample)
    rows, places = sample.answers.nonzero()[:count].unbind(1)
    step = max(1, MOST_CELLS // max(size, cells_per_answer))
    for start in range(0, len(rows), step):
        row, place = rows[start : start + step], places[start : start + step]
        yield _Queries(place, sample.tokens[row, place], sample.tokens[row], _seen(sample.answers[row], place, sees))


def _seen(answers: Tensor, place: Tensor, sees: Sees) -> Tensor:
    """(a, T): which tokens of each sequence a guesser sees when it guesses the answer at this place."""
    places = torch.arange(answers.shape[1])
    if sees == "prompt":
        return ~answers
    if sees == "others":
        return places != place[:, None]
    before = places < place[:, None]
    return before & ~answers if sees == "prompt_before" else before


def _token_before(sample: Sample, sees: Sees) -> Tensor:
    """(A,): one more than the token before each answer; 0 where there is none, or where the guesser does not see it."""
    shifted = torch.zeros_like(sample.tokens)
    numbers = sample.tokens + 1
    shifted[:, 1:] = (numbers.masked_fill(sample.answers, 0) if sees in HIDES_ANSWERS else numbers)[:, :-1]
    return shifted[sample.answers]


def _token_at(tokens: Tensor, place: Tensor) -> Tensor:
    """(a,): the token at a place of each row; NO_GUESS where the place is below 0."""
    return torch.where(place >= 0, tokens.gather(1, place.clamp_min(0)[:, None])[:, 0], NO_GUESS)


def _legal(task: Task) -> Tensor:
    """(V,) bool: true for the legal answers."""
    legal = torch.zeros(task.vocab_size, dtype=torch.bool)
    legal[task.legal_answers()] = True
    return legal


def _share(right: Tensor) -> float:
    return float(right.double().mean())


def _count(sample: Sample) -> int:
    """How many answers are compared with the tokens of their sequence."""
    return max(1, min(int(sample.answers.sum()), MOST_COMPARED // sample.tokens.shape[1]))
