"""What can be scored on a task without learning it: the levels that stand beside every accuracy.

Each gives the share of answer tokens it gets right. A guess that has nothing to go by is wrong. What a guesser may see is what the
reader that it stands beside sees (`Sees`); "before" is before in the order of reading: for rtl, hand over flipped samples.
Legend: A answer tokens of a sample, S tokens of a sequence, V ids.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from palinode.data.tasks.base import Sample, Task

NO_GUESS = -1
HIDDEN = -2
Sees = Literal[
    "before", "prompt", "others"
]  # the tokens before an answer; all that are no answers; all but the answer itself
CACHE_ORDERS = (1, 2, 3)
CACHES = tuple(f"cache_{order}" for order in CACHE_ORDERS)  # look-ups of what followed the same tokens
MOST_CELLS = 2**22  # of the tables that are held at once
# Cells (answers times tokens) that are compared in all: seconds on one core. Beyond that the first answers stand for the rest: of
# sequences of 1024 tokens 32,768 of them, which tell a share to .006.
MOST_COMPARED = 2**25


@dataclass(frozen=True)
class _Asked:
    """Some answers of a sample: (a,) place in the sequence and true id, (a, S) the sequences and which of their tokens are seen."""

    place: Tensor
    truth: Tensor
    tokens: Tensor
    seen: Tensor


def baselines(task: Task, fitted_on: Sample, sample: Sample, sees: Sees = "before") -> dict[str, float]:
    """Every trivial accuracy on a sample, by name. Where both sides are seen, that from the better end.

    Args:
        fitted_on: another sample of the task, for the guessers that have something to fit (`unigram`, `bigram`, `position_only`).
    """
    found = _from_one_end(task, fitted_on, sample, sees)
    if sees == "before":
        return found
    other = _from_one_end(task, fitted_on.flipped(), sample.flipped(), sees)
    return {name: max(value, other[name]) for name, value in found.items()}


def _from_one_end(task: Task, fitted_on: Sample, sample: Sample, sees: Sees) -> dict[str, float]:
    found = {
        "uniform": uniform(task, sample),
        "unigram": unigram(fitted_on, sample),
        "bigram": bigram(fitted_on, sample, sees),
        "position_only": position_only(fitted_on, sample, sees),
        "copy_last": copy_last(sample, sees),
        "most_recent_value": most_recent_value(task, sample, sees),
        "in_context_mode": in_context_mode(task, sample, sees),
    }
    caches = (ngram_cache(sample, order, sees=sees) for order in CACHE_ORDERS)
    return found | dict(zip(CACHES, caches, strict=True))


def uniform(task: Task, sample: Sample) -> float:
    """A uniform guess among the legal answers."""
    return float(torch.isin(sample.tokens[sample.answers], task.legal_answers()).double().mean()) * task.chance()


def unigram(fitted_on: Sample, sample: Sample) -> float:
    """The most frequent answer, everywhere."""
    most = fitted_on.tokens[fitted_on.answers].bincount().argmax()
    return float((sample.tokens[sample.answers] == most).double().mean())


def bigram(fitted_on: Sample, sample: Sample, sees: Sees = "before") -> float:
    """The answer most frequent after the token before it."""
    base = int(max(fitted_on.tokens.max(), sample.tokens.max())) + 2
    both = (_token_before(fitted_on, sees) * base + fitted_on.tokens[fitted_on.answers]).numpy()
    pairs, counts = np.unique(both, return_counts=True)
    pairs = pairs[np.argsort(-counts, kind="stable")]
    before, most = np.unique(pairs // base, return_index=True)  # the first of each, the most frequent
    guess = torch.full((base,), NO_GUESS)
    guess[torch.from_numpy(before)] = torch.from_numpy(pairs[most] % base)
    return float((guess[_token_before(sample, sees)] == sample.tokens[sample.answers]).double().mean())


def copy_last(sample: Sample, sees: Sees = "before") -> float:
    """The token before the answer, whatever it is."""
    return float((_token_before(sample, sees) - 1 == sample.tokens[sample.answers]).double().mean())


def most_recent_value(task: Task, sample: Sample, sees: Sees = "before") -> float:
    """The last token before the answer that may be an answer (published tables call this copy-last)."""
    legal = _legal(task)

    def guessed(asked: _Asked) -> Tensor:
        places = torch.arange(1, asked.tokens.shape[1] + 1)
        before = asked.seen & (places <= asked.place[:, None])
        last = (places * (before & legal[asked.tokens])).amax(1)
        return _token_at(asked.tokens, last - 1)

    return sum(_hits(asked, guessed(asked)) for asked in _asked(sample, sees)) / _count(sample)


def in_context_mode(task: Task, sample: Sample, sees: Sees = "before") -> float:
    """The most frequent legal answer among the tokens that are seen; the lowest id of several."""
    legal = _legal(task)

    def guessed(asked: _Asked) -> Tensor:
        counts = torch.zeros(len(asked.truth), len(legal), dtype=torch.int32)
        counts.scatter_add_(1, asked.tokens, (asked.seen & legal[asked.tokens]).int())
        most = counts.max(1)
        return torch.where(most.values > 0, most.indices, NO_GUESS)

    return sum(_hits(asked, guessed(asked)) for asked in _asked(sample, sees, len(legal))) / _count(sample)


def ngram_cache(sample: Sample, order: int, legal_of: Task | None = None, sees: Sees = "before") -> float:
    """The token that last followed the same `order` tokens in this sequence.

    Args:
        legal_of: look only at places that hold a legal answer of this task.
    """

    def guessed(asked: _Asked) -> Tensor:
        same = asked.seen.clone() if legal_of is None else asked.seen & _legal(legal_of)[asked.tokens]
        context = asked.tokens.masked_fill(~asked.seen, HIDDEN)
        for back in range(1, order + 1):
            known = _token_at(context, asked.place - back)
            same[:, :back] = False
            same[:, back:] &= (context[:, :-back] == known[:, None]) & (known >= 0)[:, None]
        last = (torch.arange(1, same.shape[1] + 1) * same).amax(1)
        return _token_at(asked.tokens, last - 1)

    return sum(_hits(asked, guessed(asked)) for asked in _asked(sample, sees)) / _count(sample)


def position_only(fitted_on: Sample, sample: Sample, sees: Sees = "before") -> float:
    """A copy from the place that most often holds the answer at this place, blind to all tokens."""
    size = fitted_on.tokens.shape[1]
    places, row_of = fitted_on.answers.any(0).nonzero().flatten(), torch.zeros(size, dtype=torch.long)
    row_of[places] = torch.arange(len(places))  # only of places that hold answers: of all of them it would be S x S
    held = torch.zeros(len(places), size, dtype=torch.long)
    for asked in _asked(fitted_on, sees):
        held.index_add_(0, row_of[asked.place], (asked.seen & (asked.tokens == asked.truth[:, None])).long())
    source = torch.full((size,), NO_GUESS)
    source[places] = torch.where(held.amax(1) > 0, held.argmax(1), NO_GUESS)
    copied = ((asked, _token_at(asked.tokens, source[asked.place])) for asked in _asked(sample, sees))
    return sum(_hits(asked, guess) for asked, guess in copied) / _count(sample)


def _asked(sample: Sample, sees: Sees, cells_per_answer: int = 1) -> Iterator[_Asked]:
    """The answers of a sample, in parts of bounded memory; the first of them where there are very many."""
    size, compared = sample.tokens.shape[1], _count(sample)
    rows, places = sample.answers.nonzero()[:compared].unbind(1)
    step = max(1, MOST_CELLS // max(size, cells_per_answer))
    for start in range(0, len(rows), step):
        row, place = rows[start : start + step], places[start : start + step]
        tokens = sample.tokens[row]
        yield _Asked(place, sample.tokens[row, place], tokens, _seen(sample.answers[row], place, sees))


def _seen(answers: Tensor, place: Tensor, sees: Sees) -> Tensor:
    """(a, S): what is seen of each sequence when the answer at this place is asked for."""
    places = torch.arange(answers.shape[1])
    if sees == "prompt":
        return ~answers
    return places < place[:, None] if sees == "before" else places != place[:, None]


def _token_before(sample: Sample, sees: Sees) -> Tensor:
    """(A,): one more than the token before each answer; 0 where there is none, or none that is seen."""
    shifted = torch.zeros_like(sample.tokens)
    known = sample.tokens + 1
    shifted[:, 1:] = (known.masked_fill(sample.answers, 0) if sees == "prompt" else known)[:, :-1]
    return shifted[sample.answers]


def _token_at(tokens: Tensor, place: Tensor) -> Tensor:
    """(a,): the token at a place of each row; NO_GUESS where the place is below 0."""
    return torch.where(place >= 0, tokens.gather(1, place.clamp_min(0)[:, None])[:, 0], NO_GUESS)


def _legal(task: Task) -> Tensor:
    """(V,) bool."""
    legal = torch.zeros(task.vocab_size, dtype=torch.bool)
    legal[task.legal_answers()] = True
    return legal


def _hits(asked: _Asked, guess: Tensor) -> int:
    return int((guess == asked.truth).sum())


def _count(sample: Sample) -> int:
    """How many answers are compared with every token before them."""
    return max(1, min(int(sample.answers.sum()), MOST_COMPARED // sample.tokens.shape[1]))
