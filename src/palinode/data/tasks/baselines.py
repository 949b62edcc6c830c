"""Baselines: accuracies that need no learning, with which every accuracy on a task is compared.

Each baseline is a guesser; the level of a baseline is the share of answers that the guesser guesses right. A guesser that cannot
make a guess counts as wrong. A guesser sees the same tokens as the model that it is compared with (`Sees`). The word "before" means
before in the order of reading: pass flipped samples for rtl.
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
# The tokens that a guesser sees. `before`: the tokens before the answer. `prompt_before`: the tokens before the answer that are not
# answers. `prompt`: all tokens that are not answers. `others`: all tokens but the answer.
Sees = Literal["before", "prompt_before", "prompt", "others"]
HIDES_ANSWERS = ("prompt_before", "prompt")
CACHE_ORDERS = (1, 2, 3)
# Guessers that copy the last continuation of the same tokens.
CACHES = tuple(f"cache_{order}" for order in CACHE_ORDERS)
MOST_CELLS = 2**22  # the largest number of cells of a table in memory
# The largest number of cells (answers times tokens) that are compared, which takes seconds on one core. The first answers stand for
# all answers. For sequences of 1024 tokens, 32,768 answers are compared, which gives a share with an error of about .006.
MOST_COMPARED = 2**25


@dataclass(frozen=True)
class _Queries:
    """Some answers of a sample: their places (a,), true ids (a,) and sequences (a, T), and a mask of the seen tokens (a, T)."""

    place: Tensor
    truth: Tensor
    tokens: Tensor
    seen: Tensor


def baselines(task: Task, fitted_on: Sample, sample: Sample, sees: Sees = "before") -> dict[str, float]:
    """The level of every baseline on a sample, by name. If a guesser sees both sides, its level is that of the better direction.

    Args:
        task: the task of both samples.
        fitted_on: another sample of the task, to fit the guessers `unigram`, `bigram` and `position_only`.
        sample: the sample whose answers are guessed.
        sees: the tokens that a guesser sees.
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
    """The level of a guesser that guesses uniformly among the legal answers."""
    return _share(torch.isin(sample.tokens[sample.answers], task.legal_answers())) * task.chance()


def unigram(fitted_on: Sample, sample: Sample) -> float:
    """The level of a guesser that always guesses the most frequent answer."""
    most = fitted_on.tokens[fitted_on.answers].bincount().argmax()
    return _share(sample.tokens[sample.answers] == most)


def bigram(fitted_on: Sample, sample: Sample, sees: Sees = "before") -> float:
    """The level of a guesser that guesses the most frequent answer after the same token."""
    base = int(max(fitted_on.tokens.max(), sample.tokens.max())) + 2
    both = (_token_before(fitted_on, sees) * base + fitted_on.tokens[fitted_on.answers]).numpy()
    pairs, counts = np.unique(both, return_counts=True)
    pairs = pairs[np.argsort(-counts, kind="stable")]
    before, most = np.unique(pairs // base, return_index=True)  # the first pair of each token is the most frequent
    guess = torch.full((base,), NO_GUESS)
    guess[torch.from_numpy(before)] = torch.from_numpy(pairs[most] % base)
    return _share(guess[_token_before(sample, sees)] == sample.tokens[sample.answers])


def copy_last(sample: Sample, sees: Sees = "before") -> float:
    """The level of a guesser that guesses the token before the answer."""
    return _share(_token_before(sample, sees) - 1 == sample.tokens[sample.answers])


def most_recent_value(task: Task, sample: Sample, sees: Sees = "before") -> float:
    """The level of a guesser that guesses the last earlier token that is a legal answer (copy-last in published tables)."""
    legal = _legal(task)

    def guess(queries: _Queries) -> Tensor:
        places = torch.arange(1, queries.tokens.shape[1] + 1)
        before = queries.seen & (places <= queries.place[:, None])
        last = (places * (before & legal[queries.tokens])).amax(1)
        return _token_at(queries.tokens, last - 1)

    return _accuracy(sample, sees, guess)


def in_context_mode(task: Task, sample: Sample, sees: Sees = "before") -> float:
    """The level of a guesser that guesses the most frequent legal answer among the seen tokens; of equals, the lowest id."""
    legal = _legal(task)

    def guess(queries: _Queries) -> Tensor:
        counts = torch.zeros(len(queries.truth), len(legal), dtype=torch.int32)
        counts.scatter_add_(1, queries.tokens, (queries.seen & legal[queries.tokens]).int())
        most = counts.max(1)
        return torch.where(most.values > 0, most.indices, NO_GUESS)

    return _accuracy(sample, sees, guess, cells_per_answer=len(legal))


def ngram_cache(sample: Sample, order: int, sees: Sees = "before") -> float:
    """The level of a guesser that guesses the token that last followed the same `order` tokens in the sequence."""

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
    """The level of a guesser that copies the token of a fixed place: the place that most often equals the answer in the fit."""
    size = fitted_on.tokens.shape[1]
    places, row_of = fitted_on.answers.any(0).nonzero().flatten(), torch.zeros(size, dtype=torch.long)
    # The table has rows only for the places of answers: a table with rows for all places would be T x T.
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
    """The answers of a sample, in parts of bounded memory; if the sample has very many answers, only the first of them."""
    size, count = sample.tokens.shape[1], _count(sample)
    rows, places = sample.answers.nonzero()[:count].unbind(1)
    step = max(1, MOST_CELLS // max(size, cells_per_answer))
    for start in range(0, len(rows), step):
        row, place = rows[start : start + step], places[start : start + step]
        yield _Queries(place, sample.tokens[row, place], sample.tokens[row], _seen(sample.answers[row], place, sees))


def _seen(answers: Tensor, place: Tensor, sees: Sees) -> Tensor:
    """(a, T) bool: true for each token of a sequence that a guesser sees when it guesses the answer at `place`."""
    places = torch.arange(answers.shape[1])
    if sees == "prompt":
        return ~answers
    if sees == "others":
        return places != place[:, None]
    before = places < place[:, None]
    return before & ~answers if sees == "prompt_before" else before


def _token_before(sample: Sample, sees: Sees) -> Tensor:
    """(A,): the id of the token before each answer, plus 1; 0 if there is no such token or the guesser does not see the token."""
    shifted = torch.zeros_like(sample.tokens)
    numbers = sample.tokens + 1
    shifted[:, 1:] = (numbers.masked_fill(sample.answers, 0) if sees in HIDES_ANSWERS else numbers)[:, :-1]
    return shifted[sample.answers]


def _token_at(tokens: Tensor, place: Tensor) -> Tensor:
    """(a,): the token at a place of each row; NO_GUESS if the place is below 0."""
    return torch.where(place >= 0, tokens.gather(1, place.clamp_min(0)[:, None])[:, 0], NO_GUESS)


def _legal(task: Task) -> Tensor:
    """(V,) bool: true for the legal answers."""
    legal = torch.zeros(task.vocab_size, dtype=torch.bool)
    legal[task.legal_answers()] = True
    return legal


def _share(right: Tensor) -> float:
    return float(right.double().mean())


def _count(sample: Sample) -> int:
    """The number of answers that are compared with the tokens of their sequence."""
    return max(1, min(int(sample.answers.sum()), MOST_COMPARED // sample.tokens.shape[1]))
