"""C4: is anything of the validation or test split also in the train split?

Three laws, each linear in the size of the corpus: no held-out window occurs in train at any offset; the share of held-out
n-grams that occur in train is natural for this text; the longest common run is no longer than chance and quotation explain.
Natural is measured, not assumed: the same counts between two disjoint parts of the train split.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palinode.base.finding import Finding
from palinode.base.measures import CheckOutcome
from palinode.checks.rolling import (
    BLOCK_TOKENS,
    Hashes,
    Tokens,
    distinct,
    is_in,
    mixed,
    ngram_hashes,
    occurrences,
    row_hashes,
    span_hashes,
)

SHARE_ALWAYS_ALLOWED = 0.001
NATURAL_FACTOR = 3.0
# A corpus with every sentence kept twice and shuffled has a natural share of a half: there "natural" would excuse anything.
# WikiText-2 has .003 at 50 bytes, a play corpus 0; so natural may excuse 5 % and no more.
SHARE_NEVER_ALLOWED = 0.05
RUN_CHARACTERS_ALLOWED = 200
RUN_NATURAL_FACTOR = 10
NATURAL_BLOCKS = 16
PLANTED_WINDOWS = 3
MATCHES_SHOWN = 5


@dataclass(frozen=True)
class Unit:
    """What the tokens of an array are, and how many in a row mean a copy. Shorter n-grams are shared by any two texts."""

    name: str
    ngram_tokens: int
    characters_per_token: float = 1.0

    @property
    def plural(self) -> str:
        return f"{self.name}s"


BYTE = Unit("byte", 50)
CHARACTER = Unit("character", 50)
WORD = Unit("word", 13, 6.0)
BPE_TOKEN = Unit("BPE token", 32, 4.0)


@dataclass(frozen=True)
class Run:
    """A stretch of tokens found in both splits."""

    tokens: int
    train_offset: int
    held_out_offset: int

    def __str__(self) -> str:
        return f"{self.tokens} at train {self.train_offset} = held-out {self.held_out_offset}"


@dataclass(frozen=True)
class Common:
    """Where n-grams occur that both arrays have: sorted offsets and their hashes, in the train and the held-out array."""

    train: tuple[NDArray[np.int64], Hashes]
    held_out: tuple[NDArray[np.int64], Hashes]
    held_out_ngrams: int

    @property
    def share(self) -> float:
        """Share of the held-out n-grams (every offset counted) that occur in train."""
        return len(self.held_out[0]) / self.held_out_ngrams if self.held_out_ngrams else 0.0


def check_contamination(
    train: Tokens, held_out: Mapping[str, Tokens], *, window_tokens: int, unit: Unit
) -> tuple[Finding, ...]:
    """All of C4 i, ii, iii, v for token arrays: three findings for each held-out split, named after it.

    Args:
        train: the train split's ids.
        held_out: `validation` and `test` ids by name; an empty split is left out.
        window_tokens: N, the window the evaluation tiles the split with.
        unit: what a token is.
    """
    findings: list[Finding] = []
    kept_apart = _natural_parts(train, max((len(tokens) for tokens in held_out.values()), default=0))
    natural = common_ngrams(kept_apart.train, kept_apart.held_out, unit.ngram_tokens)
    natural_runs = _longest_in_each_block(natural, kept_apart, unit.ngram_tokens)
    for name, tokens in held_out.items():
        if len(tokens):
            findings.append(check_exact_windows(train, tokens, window_tokens=window_tokens, unit=unit, split=name))
            shared = common_ngrams(train, tokens, unit.ngram_tokens)
            controlled = _control_finds_planted_run(train, tokens, unit.ngram_tokens)
            findings.append(_judge_share(shared, natural, unit, name, controlled))
            findings.append(_judge_longest_run(shared, natural_runs, unit, name, controlled))
    return tuple(findings)


def check_exact_windows(
    train: Tokens, held_out: Tokens, *, window_tokens: int, unit: Unit, split: str = "validation"
) -> Finding:
    """C4 i and v: no held-out window occurs in train at any offset. Windows planted in a copy of train must be found.

    Text that repeats itself (licence notes, tables) has such windows between any two of its parts: then the check could not tell.
    The published split of WikiText-2 is an example: 13 of 8763 validation windows of 128 bytes.
    """
    starts = np.arange(0, len(held_out) - window_tokens + 1, window_tokens)
    found = _exact_matches(train, held_out, starts, window_tokens)
    natural = _natural_window_share(train, len(held_out), window_tokens) if found else 0.0
    planted, seen = _control_finds_planted_windows(train, held_out, starts, window_tokens)
    explained = min(NATURAL_FACTOR * natural, SHARE_NEVER_ALLOWED) * len(starts)
    if planted == 0 or seen < planted or 0 < len(found) <= explained:
        outcome: CheckOutcome = "could_not_tell"
    else:
        outcome = "fail" if found else "pass"
    first = ", ".join(f"train {t} = {split} {h}" for h, t in list(found.items())[:MATCHES_SHOWN])
    message = f"{len(found)} of {len(starts)} {split} windows of {window_tokens} {unit.plural} occur in train"
    if found:
        message += f"; {natural:.2%} of windows do so between two parts of train; first at {first}"
    if seen < planted or not planted:
        message += f"; {seen} of {planted} planted windows were found"
    return Finding(
        check="C4.exact_windows",
        outcome=outcome,
        law="no held-out window occurs in the train split, at any offset",
        message=message,
        numbers={
            "windows_found": len(found),
            "held_out_windows": len(starts),
            "natural_share": natural,
            "planted_windows": planted,
            "planted_windows_found": seen,
        },
        threshold=0.0,
        reproduce={"split": split, "window_tokens": window_tokens, "unit": unit.name},
    )


def check_prompt_splits(
    prompts: Mapping[str, NDArray[np.int64]],
    bucket_of: Callable[[NDArray[np.int64]], NDArray[np.int64]] | None = None,
    buckets: Mapping[str, range] | None = None,
) -> Finding:
    """C4 iv, for synthetic tasks: the splits share no prompt, and every prompt lies in its split's buckets.

    Args:
        prompts: (n, S) sequences with their answers blanked, by split.
        bucket_of: the task's rule from prompts to buckets, recomputed here from the raw prompts.
        buckets: the buckets each split may use.
    """
    keys = {name: row_hashes(rows) for name, rows in prompts.items()}
    names = list(keys)
    shared = {
        f"{a}_and_{b}": int(is_in(distinct(keys[a]), distinct(keys[b])).sum())
        for i, a in enumerate(names)
        for b in names[i + 1 :]
    }
    stray = {
        f"{name}_outside_its_buckets": int((~np.isin(bucket_of(prompts[name]), np.asarray(allowed))).sum())
        for name, allowed in (buckets or {}).items()
        if bucket_of is not None and name in prompts
    }
    wrong = {name: count for name, count in (shared | stray).items() if count}
    control = bool(names) and bool(np.isin(row_hashes(prompts[names[0]][:1].copy()), keys[names[0]]).all())
    outcome: CheckOutcome = "fail" if wrong else "pass" if control and len(names) > 1 else "could_not_tell"
    told = ", ".join(f"{name}: {count}" for name, count in wrong.items()) or "no prompt is shared between splits"
    return Finding(
        check="C4.prompt_splits",
        outcome=outcome,
        law="the splits of a synthetic task share no prompt",
        message=told,
        numbers={"shared_prompts": sum(shared.values())} | shared | stray,
        threshold=0.0,
        reproduce={"prompts": {name: len(rows) for name, rows in prompts.items()}},
    )


def common_ngrams(train: Tokens, held_out: Tokens, n: int) -> Common:
    """Every offset of an n-gram that both arrays have."""
    hashes = ngram_hashes(held_out, n)
    train_positions, train_found = occurrences(train, distinct(hashes), n)
    positions = np.flatnonzero(is_in(hashes, distinct(train_found)))
    return Common((train_positions, train_found), (positions, hashes[positions]), len(hashes))


def longest_runs(common: Common, n: int, count: int = MATCHES_SHOWN) -> list[Run]:
    """The longest stretches both arrays have, longest first, disjoint in the held-out array; none is shorter than n tokens.

    By doubling: two neighbouring n-grams name a 2n-gram. Each round keeps only offsets that still match.
    """
    runs: list[Run] = []
    positions, hashes = common.held_out
    while len(positions) and len(runs) < count:
        runs.append(run := _longest(common.train, (positions, hashes), n))
        end = run.held_out_offset + run.tokens
        apart = (positions + n <= run.held_out_offset) | (positions >= end)
        positions, hashes = positions[apart], hashes[apart]
    return runs


def word_ids(text: bytes) -> NDArray[np.uint64]:
    """One 64-bit id for each whitespace-separated word of the text."""
    letters = np.frombuffer(text, np.uint8)
    blank = np.isin(letters, np.frombuffer(b" \t\n\r\v\f", np.uint8))
    edges = np.flatnonzero(np.diff(np.concatenate(([True], blank, [True])).astype(np.int8)))
    starts, ends = edges[::2], edges[1::2]
    return span_hashes(letters, starts, ends)


def _judge_share(shared: Common, natural: Common, unit: Unit, split: str, controlled: bool) -> Finding:
    limit = min(max(SHARE_ALWAYS_ALLOWED, NATURAL_FACTOR * natural.share), SHARE_NEVER_ALLOWED)
    n = f"{unit.ngram_tokens} {unit.plural}"
    message = f"{shared.share:.3%} of {split} n-grams of {n} occur in train; natural for this text {natural.share:.3%}"
    outcome: CheckOutcome = (
        "fail" if shared.share > limit else "pass" if controlled and shared.held_out_ngrams else "could_not_tell"
    )
    return Finding(
        check="C4.ngram_overlap",
        outcome=outcome,
        law="held-out n-grams occur in train no more often than the n-grams of one part of train in another",
        message=f"{message}; allowed {limit:.3%}",
        numbers={
            "share": shared.share,
            "natural_share": natural.share,
            "held_out_ngrams": shared.held_out_ngrams,
            "planted_run_found": int(controlled),
        },
        threshold=limit,
        reproduce={"split": split, "ngram_tokens": unit.ngram_tokens, "unit": unit.name},
    )


def _judge_longest_run(shared: Common, natural_runs: list[int], unit: Unit, split: str, controlled: bool) -> Finding:
    runs = longest_runs(shared, unit.ngram_tokens)
    natural = float(np.median(natural_runs)) if natural_runs else 0.0
    limit = max(RUN_CHARACTERS_ALLOWED / unit.characters_per_token, RUN_NATURAL_FACTOR * natural)
    longest = runs[0].tokens if runs else 0
    shown = (
        f"the longest: {'; '.join(map(str, runs))}" if runs else f"none of {unit.ngram_tokens} {unit.plural} or more"
    )
    outcome: CheckOutcome = "fail" if longest > limit else "pass" if controlled else "could_not_tell"
    return Finding(
        check="C4.longest_run",
        outcome=outcome,
        law="the longest run of tokens in both splits is no longer than chance and quotation explain",
        message=f"common runs of train and {split}, in {unit.plural}: {shown}; allowed {limit:.0f}",
        numbers={"longest_run_tokens": longest, "natural_run_tokens": natural, "planted_run_found": int(controlled)},
        threshold=limit,
        reproduce={"split": split, "ngram_tokens": unit.ngram_tokens, "unit": unit.name},
    )


@dataclass(frozen=True)
class _Parts:
    """Train cut in two disjoint parts, each joined with separators that occur nowhere else."""

    train: Tokens
    held_out: Tokens
    block_starts: NDArray[np.int64]


def _natural_parts(train: Tokens, held_out_tokens: int) -> _Parts:
    """Hold out 16 blocks evenly spread over train, together as long as the held-out split (at most a quarter of train)."""
    stride = len(train) // NATURAL_BLOCKS
    length = min(held_out_tokens, len(train) // 4) // NATURAL_BLOCKS
    cuts = [(i * stride, i * stride + length) for i in range(NATURAL_BLOCKS)] if length else []
    mark = int(train.max()) + 1 if len(train) else 0
    kind = np.min_scalar_type(mark + 2 * NATURAL_BLOCKS)  # the smallest: a second copy of train is held
    held, kept, cursor = [], [], 0
    for i, (start, end) in enumerate(cuts):
        kept += [train[cursor:start], np.array([mark + 2 * i])]
        held += [train[start:end], np.array([mark + 2 * i + 1])]
        cursor = end
    kept.append(train[cursor:])
    starts = np.arange(len(cuts), dtype=np.int64) * (length + 1)
    return _Parts(_joined(kept, kind), _joined(held, kind), starts)


def _joined(pieces: list[Tokens], kind: np.dtype[Any]) -> Tokens:
    return np.concatenate([piece.astype(kind) for piece in pieces]) if pieces else np.zeros(0, kind)


def _longest_in_each_block(common: Common, parts: _Parts, n: int) -> list[int]:
    positions, hashes = common.held_out
    edges = np.searchsorted(positions, [*parts.block_starts, len(parts.held_out)])
    lengths = []
    for start, end in zip(edges[:-1], edges[1:], strict=True):
        inside = Common(common.train, (positions[start:end], hashes[start:end]), int(end - start))
        lengths.append(longest_runs(inside, n, count=1)[0].tokens if end > start else 0)
    return lengths


_Places = tuple[NDArray[np.int64], Hashes]


def _longest(train: _Places, held_out: _Places, n: int) -> Run:
    """The longest run among places that match for n tokens (there is at least one)."""
    length = n
    while pair := _both(_extended(train, length), _extended(held_out, length)):
        train, held_out = pair
        length *= 2
    best, low, high = (train, held_out), length, 2 * length
    while high - low > 1:
        middle = (low + high) // 2
        if pair := _both(_extended(train, middle - length), _extended(held_out, middle - length)):
            best, low = pair, middle
        else:
            high = middle
    (train_positions, train_hashes), (positions, hashes) = best
    train_offset = train_positions[np.flatnonzero(train_hashes == hashes[0])[0]]
    return Run(low, int(train_offset), int(positions[0]))


def _extended(places: _Places, shift: int) -> _Places:
    """Places whose neighbour `shift` further on is a place too, hashed with it: two overlapping runs name a longer one."""
    positions, hashes = places
    index = np.minimum(np.searchsorted(positions, positions + shift), len(positions) - 1)
    has = positions[index] == positions + shift
    return positions[has], mixed(hashes[has]) * np.uint64(3) + mixed(hashes[index[has]])


def _both(train: _Places, held_out: _Places) -> tuple[_Places, _Places] | None:
    in_train = is_in(held_out[1], distinct(train[1]))
    if not in_train.any():
        return None
    in_held_out = is_in(train[1], distinct(held_out[1]))
    return (train[0][in_held_out], train[1][in_held_out]), (held_out[0][in_train], held_out[1][in_train])


def _exact_matches(train: Tokens, held_out: Tokens, starts: NDArray[np.int64], n: int) -> dict[int, int]:
    """Held-out offset -> a train offset holding the same n tokens (compared token by token)."""
    wanted = span_hashes(held_out, starts, starts + n)
    positions, hashes = occurrences(train, distinct(wanted), n)
    at = dict(zip(hashes[::-1].tolist(), positions[::-1].tolist(), strict=True))  # the first place wins
    pairs = [(start, at[name]) for start, name in zip(starts.tolist(), wanted.tolist(), strict=True) if name in at]
    return {held: q for held, q in pairs if np.array_equal(train[q : q + n], held_out[held : held + n])}


def _natural_window_share(train: Tokens, held_out_tokens: int, n: int) -> float:
    """The share of windows (at every offset) of one part of train that occur in the other part."""
    parts = _natural_parts(train, held_out_tokens)
    return common_ngrams(parts.train, parts.held_out, n).share


def _control_finds_planted_windows(
    train: Tokens, held_out: Tokens, starts: NDArray[np.int64], n: int
) -> tuple[int, int]:
    """Plant windows in a copy of train's first blocks (one across the seam of two blocks): how many were planted and found."""
    copy = np.asarray(train[: BLOCK_TOKENS + 4 * n]).copy()
    seam = BLOCK_TOKENS - n // 2 if len(copy) > BLOCK_TOKENS + n else len(copy) - n
    places = sorted({0, len(copy) // 3, seam}) if len(copy) >= PLANTED_WINDOWS * 2 * n else []
    chosen = starts[:: max(1, len(starts) // PLANTED_WINDOWS)][: len(places)]
    for start, place in zip(chosen, places, strict=False):
        copy[place : place + n] = held_out[start : start + n]
    found = _exact_matches(copy, held_out, starts, n) if len(chosen) else {}
    return len(chosen), sum(int(start) in found for start in chosen)


def _control_finds_planted_run(train: Tokens, held_out: Tokens, n: int) -> bool:
    """Plant 2n held-out tokens in a copy of a piece of train: the common n-grams and the longest run must show them."""
    size = 2 * n
    copy = np.asarray(train[: 64 * n]).copy()
    if len(copy) < 2 * size or len(held_out) < size:
        return False
    place = len(copy) // 2
    copy[place : place + size] = held_out[:size]
    runs = longest_runs(common_ngrams(copy, held_out, n), n, count=1)
    return bool(runs) and runs[0].tokens >= size
