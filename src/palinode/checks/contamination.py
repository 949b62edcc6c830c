"""C4: does the train split contain any part of the validation or test split?

C4 tests three laws for a text: no held-out window occurs in the train split at any offset; the share of held-out n-grams that occur
in train is natural for this text; the longest run of tokens that both splits contain is no longer than chance and quotation
explain. The natural values come from the same counts between two disjoint parts of train. Rows of one pattern, such as dots, are
left out (`patterns.py`). The time is linear in the size of the corpus.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from palinode.base.finding import Finding
from palinode.checks import rolling
from palinode.checks.laws import finding, outcome_of
from palinode.checks.patterns import is_text, most_kinds_of_a_pattern
from palinode.checks.rolling import Hashes, Tokens

SHARE_ALWAYS_ALLOWED = 0.001
NATURAL_FACTOR = 3.0
# A corpus that contains every sentence twice, shuffled, has a natural share of a half, which would excuse any leak. The natural
# share of n-grams of 50 bytes is .003 for WikiText-2 and 0 for a corpus of plays. So the allowed share is never above 5 %.
SHARE_NEVER_ALLOWED = 0.05
# Rows of one template ("number 12 was first") share more n-grams, but they are not reported as copies: their n-grams occur in 8 or
# more places of train, in short runs. If train holds one copy of a text, each n-gram occurs in one place; if train holds twenty
# copies, the runs are long.
TEMPLATE_PLACES = 8
# Many short windows recur naturally. Their share may exceed the natural share by 5 % of the windows, or by four times the standard
# deviation between blocks of the text. With a limit above POWERLESS the check would miss most copies.
SHORT_EXCESS_ALLOWED = 0.05
DEVIATIONS_ALLOWED = 4.0
POWERLESS = 0.95
# The smallest share of different windows in a stream, relative to their share in the text. A stream that reads each window twice
# has a value of 0.5.
DISTINCT_NEEDED = 0.75
RUN_CHARACTERS_ALLOWED = 200
RUN_NATURAL_FACTOR = 10
NATURAL_BLOCKS = 16
# The smallest number of disjoint n-grams in a block. The edges of a shorter block would dominate its count.
NGRAMS_IN_A_BLOCK = 8
PLANTED_WINDOWS = 3
MATCHES_SHOWN = 5

Places = tuple[NDArray[np.int64], Hashes]  # ascending offsets of n-grams, and the hash of the n-gram at each offset


@dataclass(frozen=True)
class Unit:
    """What one token of an array is (a byte, a character, a BPE token), and how many equal tokens in sequence count as a copy.

    Any two texts have some shorter sequences in common.
    """

    name: str
    ngram_tokens: int
    characters_per_token: float = 1.0

    @property
    def ngram(self) -> str:
        """An n-gram of this unit in words, such as `50 bytes`."""
        return f"{self.ngram_tokens} {self.name}s"


BYTE = Unit("byte", 50)
CHARACTER = Unit("character", 50)
BPE_TOKEN = Unit("BPE token", 32, 4.0)


@dataclass(frozen=True)
class Run:
    """A run of tokens that occurs in both splits."""

    tokens: int
    train_offset: int
    held_out_offset: int

    def __str__(self) -> str:
        return f"{self.tokens} at train {self.train_offset} = held-out {self.held_out_offset}"


@dataclass(frozen=True)
class Common:
    """The places of the n-grams that both arrays contain, in the train array and in the held-out array."""

    train: Places
    held_out: Places
    held_out_ngrams: int

    @property
    def share(self) -> float:
        """The share of the held-out n-grams, counted at every offset, that occur in train."""
        return len(self.held_out[0]) / self.held_out_ngrams if self.held_out_ngrams else 0.0


def check_contamination(
    train: Tokens, held_out: Mapping[str, Tokens], *, window_tokens: int, unit: Unit
) -> tuple[Finding, ...]:
    """C4 on token arrays: exact windows, n-gram overlap and longest run, for each held-out split.

    Args:
        train: the ids of the train split.
        held_out: the ids of `validation` and `test` by name; an empty split is left out.
        window_tokens: the length of the windows into which the evaluation cuts the split.
        unit: what one token is, such as a byte.
    """
    n = unit.ngram_tokens
    findings: list[Finding] = []
    parts = _natural_parts(train, max((len(tokens) for tokens in held_out.values()), default=0), n)
    pattern = most_kinds_of_a_pattern(train, n)
    natural = common_text(parts.train, parts.held_out, n, pattern)
    natural_runs = _longest_in_each_block(natural, parts, n)
    for name, tokens in held_out.items():
        if len(tokens):
            findings.append(check_exact_windows(train, tokens, window_tokens=window_tokens, unit=unit, split=name))
            if window_tokens < 2 * n:
                findings.append(check_half_windows(train, tokens, window_tokens=window_tokens, unit=unit, split=name))
            shared = common_text(train, tokens, n, pattern)
            control = _control_finds_planted_run(train, tokens, n)
            findings.append(_judged_share(shared, natural, unit, name, control))
            findings.append(_judged_run(shared, natural_runs, unit, name, control))
    return tuple(findings)


def check_exact_windows(
    train: Tokens, held_out: Tokens, *, window_tokens: int, unit: Unit, split: str = "validation"
) -> Finding:
    """C4.exact_windows: no held-out window occurs in train at any offset. Positive control: planted windows must be found.

    In a text that repeats itself (licence notes, tables), any two parts have some windows in common. So the check fails only if the
    splits share more windows than two parts of train explain. For example, 13 of the 8763 validation windows of 128 bytes in the
    published split of WikiText-2 occur in train. Many windows recur if they are shorter than a copy (`unit.ngram_tokens`): 13 % of
    the windows of 8 bytes.
    """
    starts = np.arange(0, len(held_out) - window_tokens + 1, window_tokens)
    pattern = most_kinds_of_a_pattern(train, window_tokens)
    text = starts[is_text(held_out, starts, window_tokens, pattern)]
    matches = _exact_matches(train, held_out, text, window_tokens)
    natural, allowed = 0.0, 0.0
    if matches:
        natural, allowed = _natural_share(train, len(held_out), window_tokens, unit, pattern)
    planted, seen = _control_finds_planted_windows(train, held_out, starts, window_tokens)
    explained = len(matches) <= allowed * len(starts)
    control = 0 < planted <= seen and allowed < POWERLESS
    message = f"{len(matches)} of {len(starts)} {split} windows of {window_tokens} {unit.name}s occur in train"
    if matches:
        first = ", ".join(f"train {t} = {split} {h}" for h, t in list(matches.items())[:MATCHES_SHOWN])
        message += (
            f"; {natural:.2%} of windows do so between two parts of train, allowed {allowed:.2%}; first at {first}"
        )
    if seen < planted or not planted:
        message += f"; {seen} of {planted} planted windows were found"
    return finding(
        "C4.exact_windows",
        outcome_of(wrong=matches and control and not explained, can_tell=control),
        message,
        {
            "windows_found": len(matches),
            "held_out_windows": len(starts),
            "natural_share": natural,
            "planted_windows": planted,
            "planted_windows_found": seen,
        },
        allowed * len(starts),
        reproduce={"split": split, "window_tokens": window_tokens, "unit": unit.name},
    )


def check_half_windows(
    train: Tokens, held_out: Tokens, *, window_tokens: int, unit: Unit, split: str = "validation"
) -> Finding:
    """C4.half_windows: the share of held-out windows that have half of their tokens, in sequence, in common with train is natural.

    The natural share is that between two parts of train. The check is for windows of which half is shorter than a copy
    (`unit.ngram_tokens`). If windows that overlap by half were divided into splits, every held-out window has a half that is also
    in train. Where most windows of a text naturally have a half in common with other text, the check cannot tell.
    """
    half = max(1, window_tokens // 2)
    pattern = most_kinds_of_a_pattern(train, half)
    shared = common_text(train, held_out, half, pattern)
    share = _share_of_windows(shared, [(0, len(held_out))], window_tokens, half)
    parts = _natural_parts(train, len(held_out), window_tokens)
    in_train = common_text(parts.train, parts.held_out, half, pattern)
    natural = _share_of_windows(in_train, parts.blocks, window_tokens, half)
    windows = len(held_out) // window_tokens
    typical, deviation = (float(natural.mean()), float(natural.std())) if len(natural) else (1.0, 0.0)
    limit = typical + max(SHORT_EXCESS_ALLOWED, DEVIATIONS_ALLOWED * deviation)
    found = float(share.mean()) if len(share) else 0.0
    power = limit < POWERLESS
    message = (
        f"{found:.1%} of {split} windows of {window_tokens} {unit.name}s share {half} in a row with train; natural for this text "
        f"{typical:.1%}; allowed {limit:.1%}"
    )
    if not power:
        message += (
            ": too many windows of this length do so naturally, so that a split of overlapping windows would not show"
        )
    return finding(
        "C4.half_windows",
        outcome_of(wrong=power and found > limit, can_tell=power and windows),
        message,
        {"share": found, "natural_share": typical, "held_out_windows": windows},
        limit,
        reproduce={"split": split, "window_tokens": window_tokens, "ngram_tokens": half, "unit": unit.name},
    )


def check_training_stream(
    read: Tokens, train: Tokens, *, parts: Sequence[Tokens] = (), epoch_windows: int | None = None
) -> Finding:
    """C4.training_stream: every window that the trainer reads is in the train split, and no window is read twice in an epoch.

    Args:
        read: (windows, window_tokens) ids of the first windows, in the order in which the trainer reads them.
        train: the ids of the train split.
        parts: (windows, window_tokens) ids of each micro-batch of one step.
        epoch_windows: the number of windows of an epoch. After one epoch, windows are read again.
    """
    window_tokens = read.shape[1]
    hashes = rolling.row_hashes(read)
    known = rolling.distinct(rolling.occurrences(train, rolling.distinct(hashes), window_tokens)[1])
    stray = np.flatnonzero(~rolling.is_in(hashes, known))
    count = min(len(read), epoch_windows or len(read))
    starts = np.linspace(0, len(train) - window_tokens, count).astype(np.int64)
    natural = len(rolling.distinct(rolling.span_hashes(np.asarray(train), starts, starts + window_tokens))) / count
    once = len(rolling.distinct(hashes[:count])) / count
    equal_parts = len({rolling.row_hashes(part).tobytes() for part in parts}) < len(parts) and natural > DISTINCT_NEEDED
    repeats = once < DISTINCT_NEEDED * natural or equal_parts
    problems = []
    if len(stray):
        problems.append(
            f"{len(stray)} of {len(read)} windows that the trainer reads are not in the train split; first window {stray[0]}"
        )
    if equal_parts:
        problems.append("two micro-batches of a step read the same windows")
    elif repeats:
        problems.append(
            f"only {once:.0%} of the first {count} windows are different, {natural:.0%} of windows of the text are"
        )
    return finding(
        "C4.training_stream",
        outcome_of(wrong=problems, can_tell=len(read) and natural > 1 / count),
        "; ".join(problems)
        or f"the first {len(read)} windows that the trainer reads lie in the train split, {once:.0%} are different",
        {
            "windows_read": len(read),
            "windows_outside_train": len(stray),
            "different_share": once,
            "natural_share": natural,
        },
        0.0,
    )


def check_prompt_splits(
    prompts: Mapping[str, NDArray[np.int64]],
    bucket_of: Callable[[NDArray[np.int64]], NDArray[np.int64]] | None = None,
    buckets: Mapping[str, range] | None = None,
) -> Finding:
    """C4.prompt_splits, for synthetic tasks: the splits share no prompt, and each prompt falls into a hash bucket of its own split.

    Args:
        prompts: (B, T) sequences with blank answers, by the name of the split.
        bucket_of: the task's function from prompts to buckets; the check computes the buckets again from the raw prompts.
        buckets: the buckets that each split may use, by the name of the split.
    """
    keys = {name: rolling.row_hashes(rows) for name, rows in prompts.items()}
    names = list(keys)
    shared = {
        f"{a}_and_{b}": int(rolling.is_in(rolling.distinct(keys[a]), rolling.distinct(keys[b])).sum())
        for i, a in enumerate(names)
        for b in names[i + 1 :]
    }
    stray = {
        f"{name}_outside_its_buckets": int((~np.isin(bucket_of(prompts[name]), np.asarray(allowed))).sum())
        for name, allowed in (buckets or {}).items()
        if bucket_of is not None and name in prompts
    }
    wrong = [f"{name}: {count}" for name, count in (shared | stray).items() if count]
    control = bool(names) and bool(np.isin(rolling.row_hashes(prompts[names[0]][:1].copy()), keys[names[0]]).all())
    return finding(
        "C4.prompt_splits",
        outcome_of(wrong=wrong, can_tell=control and len(names) > 1),
        ", ".join(wrong) or "no prompt is shared between splits",
        {"shared_prompts": sum(shared.values())} | shared | stray,
        0.0,
        reproduce={"prompts": {name: len(rows) for name, rows in prompts.items()}},
    )


def common_ngrams(train: Tokens, held_out: Tokens, n: int) -> Common:
    """Every offset of an n-gram that both arrays contain."""
    hashes = rolling.ngram_hashes(held_out, n)
    train_places = rolling.occurrences(train, rolling.distinct(hashes), n)
    positions = np.flatnonzero(rolling.is_in(hashes, rolling.distinct(train_places[1])))
    return Common(train_places, (positions, hashes[positions]), len(hashes))


def common_text(train: Tokens, held_out: Tokens, n: int, pattern: int) -> Common:
    """The n-grams that both arrays contain, without rows of one pattern: those with at most `pattern` kinds of tokens."""
    common = common_ngrams(train, held_out, n)
    kept = [
        (positions[text], hashes[text])
        for tokens, (positions, hashes) in ((train, common.train), (held_out, common.held_out))
        for text in (is_text(tokens, positions, n, pattern),)
    ]
    return Common(kept[0], kept[1], common.held_out_ngrams)


def longest_runs(common: Common, n: int, count: int = MATCHES_SHOWN) -> list[Run]:
    """The longest runs that both arrays contain, longest first, disjoint in the held-out array. Every run has at least n tokens.

    The method is doubling: two neighbouring n-grams make a 2n-gram. Each round keeps only the offsets that still match.
    """
    runs: list[Run] = []
    positions, hashes = common.held_out
    while len(positions) and len(runs) < count:
        runs.append(run := _longest(common.train, (positions, hashes), n))
        end = run.held_out_offset + run.tokens
        apart = (positions + n <= run.held_out_offset) | (positions >= end)
        positions, hashes = positions[apart], hashes[apart]
    return runs


def _judged_share(shared: Common, natural: Common, unit: Unit, split: str, control: bool) -> Finding:
    explained = max(SHARE_ALWAYS_ALLOWED, NATURAL_FACTOR * natural.share)
    limit = min(explained, SHARE_NEVER_ALLOWED)
    template = limit < shared.share <= explained and _is_of_templates(shared, unit)
    message = (
        f"{shared.share:.3%} of {split} n-grams of {unit.ngram} occur in train; natural for this text {natural.share:.3%}; "
        f"allowed {limit:.3%}"
    )
    if template:
        message += (
            f"; they occur in {TEMPLATE_PLACES} or more places, in short runs: copies cannot be told from templates"
        )
    return finding(
        "C4.ngram_overlap",
        outcome_of(
            wrong=shared.share > limit and not template, can_tell=control and shared.held_out_ngrams and not template
        ),
        message,
        {
            "share": shared.share,
            "natural_share": natural.share,
            "held_out_ngrams": shared.held_out_ngrams,
            "planted_run_found": int(control),
        },
        limit,
        reproduce={"split": split, "ngram_tokens": unit.ngram_tokens, "unit": unit.name},
    )


def _is_of_templates(shared: Common, unit: Unit) -> bool:
    """Whether at least half of the shared n-grams occur in 8 or more places of train, and no common run is long."""
    in_train = np.sort(shared.train[1])
    hashes = shared.held_out[1]
    places = np.searchsorted(in_train, hashes, "right") - np.searchsorted(in_train, hashes)
    longest = longest_runs(shared, unit.ngram_tokens, count=1)[0].tokens
    return float(np.median(places)) >= TEMPLATE_PLACES and longest <= RUN_CHARACTERS_ALLOWED / unit.characters_per_token


def _judged_run(shared: Common, natural_runs: list[int], unit: Unit, split: str, control: bool) -> Finding:
    runs = longest_runs(shared, unit.ngram_tokens)
    natural = float(np.median(natural_runs)) if natural_runs else 0.0
    limit = max(RUN_CHARACTERS_ALLOWED / unit.characters_per_token, RUN_NATURAL_FACTOR * natural)
    longest = runs[0].tokens if runs else 0
    shown = f"the longest: {'; '.join(map(str, runs))}" if runs else f"none of {unit.ngram} or more"
    return finding(
        "C4.longest_run",
        outcome_of(wrong=longest > limit, can_tell=control),
        f"common runs of train and {split}, in {unit.name}s: {shown}; allowed {limit:.0f}",
        {"longest_run_tokens": longest, "natural_run_tokens": natural, "planted_run_found": int(control)},
        limit,
        reproduce={"split": split, "ngram_tokens": unit.ngram_tokens, "unit": unit.name},
    )


@dataclass(frozen=True)
class _Parts:
    """Two disjoint parts of train. The pieces of each part are joined by separators that occur nowhere else."""

    train: Tokens
    held_out: Tokens
    block_starts: NDArray[np.int64]

    @property
    def blocks(self) -> list[tuple[int, int]]:
        """The first token and the end of each block of the held-out part."""
        ends = [*self.block_starts[1:], len(self.held_out)][: len(self.block_starts)]
        return [(int(start), int(end) - 1) for start, end in zip(self.block_starts, ends, strict=True)]


def _natural_share(
    train: Tokens, held_out_tokens: int, window_tokens: int, unit: Unit, pattern: int
) -> tuple[float, float]:
    """The share of windows of one part of train that occur in the other part, and the share that is allowed."""
    parts = _natural_parts(train, held_out_tokens, window_tokens)
    common = common_text(parts.train, parts.held_out, window_tokens, pattern)
    natural = common.share
    if window_tokens >= unit.ngram_tokens or not parts.blocks:
        return natural, min(NATURAL_FACTOR * natural, SHARE_NEVER_ALLOWED)
    first, end = np.array(parts.blocks).T
    positions = common.held_out[0]
    in_block = np.searchsorted(positions, end) - np.searchsorted(positions, first)
    deviation = float((in_block / np.maximum(1, end - first - window_tokens + 1)).std())
    excess = max(SHORT_EXCESS_ALLOWED, DEVIATIONS_ALLOWED * deviation)
    return natural, natural + min((NATURAL_FACTOR - 1) * natural, excess)


def _share_of_windows(
    common: Common, stretches: list[tuple[int, int]], window_tokens: int, n: int
) -> NDArray[np.float64]:
    """The share of windows that contain an n-gram of train, for each stretch (first token, end)."""
    positions, shares = common.held_out[0], []
    for first, end in stretches:
        starts = np.arange(first, end - window_tokens + 1, window_tokens)
        if len(starts):
            held = np.searchsorted(positions, starts + window_tokens - n, "right") - np.searchsorted(positions, starts)
            shares.append(float((held > 0).mean()))
    return np.array(shares)


def _natural_parts(train: Tokens, held_out_tokens: int, n: int) -> _Parts:
    """Two parts of train: 16 evenly spread blocks as the held-out part, and the rest.

    The blocks together are as long as the held-out split, but at most a quarter of train. Where train is long enough, each block
    has room for 8 disjoint n-grams (or windows) of n tokens.
    """
    stride = len(train) // NATURAL_BLOCKS
    wanted = max(held_out_tokens, NATURAL_BLOCKS * NGRAMS_IN_A_BLOCK * n)
    length = min(wanted, len(train) // 4) // NATURAL_BLOCKS
    starts = [i * stride for i in range(NATURAL_BLOCKS)] if length else []
    mark = int(train.max()) + 1 if len(train) else 0
    # the smallest integer type that holds the separators, because both parts together are a second copy of train
    kind = np.min_scalar_type(mark + 2 * NATURAL_BLOCKS)
    held, kept, cursor = [], [], 0
    for i, start in enumerate(starts):
        kept += [train[cursor:start], np.array([mark + 2 * i])]
        cursor = start + length
        held += [train[start:cursor], np.array([mark + 2 * i + 1])]
    kept.append(train[cursor:])
    block_starts = np.arange(len(starts), dtype=np.int64) * (length + 1)
    train_part, held_part = (
        np.concatenate([np.zeros(0, kind), *(p.astype(kind) for p in part)]) for part in (kept, held)
    )
    return _Parts(train_part, held_part, block_starts)


def _longest_in_each_block(common: Common, parts: _Parts, n: int) -> list[int]:
    positions, hashes = common.held_out
    edges = np.searchsorted(positions, [*parts.block_starts, len(parts.held_out)])
    lengths = []
    for start, end in zip(edges[:-1], edges[1:], strict=True):
        inside = Common(common.train, (positions[start:end], hashes[start:end]), int(end - start))
        lengths.append(longest_runs(inside, n, count=1)[0].tokens if end > start else 0)
    return lengths


def _longest(train: Places, held_out: Places, n: int) -> Run:
    """The longest common run that starts at one of the places, which match for n tokens. There is at least one place."""
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


def _extended(places: Places, shift: int) -> Places:
    """The places for which the offset `shift` tokens later is also a place.

    The two hashes are combined into one hash of the longer run that the two overlapping runs form.
    """
    positions, hashes = places
    index = np.minimum(np.searchsorted(positions, positions + shift), len(positions) - 1)
    has = positions[index] == positions + shift
    return positions[has], rolling.mixed(hashes[has]) * np.uint64(3) + rolling.mixed(hashes[index[has]])


def _both(train: Places, held_out: Places) -> tuple[Places, Places] | None:
    """The places whose hash occurs in both arrays; None when no hash does."""
    in_train = rolling.is_in(held_out[1], rolling.distinct(train[1]))
    if not in_train.any():
        return None
    in_held_out = rolling.is_in(train[1], rolling.distinct(held_out[1]))
    return (train[0][in_held_out], train[1][in_held_out]), (held_out[0][in_train], held_out[1][in_train])


def _exact_matches(train: Tokens, held_out: Tokens, starts: NDArray[np.int64], n: int) -> dict[int, int]:
    """Held-out offset -> a train offset with the same n tokens. The tokens themselves are compared, not only the hashes."""
    window_hashes = rolling.span_hashes(held_out, starts, starts + n)
    positions, hashes = rolling.occurrences(train, rolling.distinct(window_hashes), n)
    at = dict(zip(hashes[::-1].tolist(), positions[::-1].tolist(), strict=True))  # the first place in train is kept
    pairs = [
        (start, at[name]) for start, name in zip(starts.tolist(), window_hashes.tolist(), strict=True) if name in at
    ]
    return {held: q for held, q in pairs if np.array_equal(train[q : q + n], held_out[held : held + n])}


def _control_finds_planted_windows(
    train: Tokens, held_out: Tokens, starts: NDArray[np.int64], n: int
) -> tuple[int, int]:
    """Plant held-out windows in a copy of the beginning of train, and search for them: the numbers planted and found."""
    copy = np.asarray(train[: rolling.BLOCK_TOKENS + 4 * n]).copy()
    seam = rolling.BLOCK_TOKENS - n // 2 if len(copy) > rolling.BLOCK_TOKENS + n else len(copy) - n
    places = sorted({0, len(copy) // 3, seam}) if len(copy) >= PLANTED_WINDOWS * 2 * n else []
    chosen = starts[:: max(1, len(starts) // PLANTED_WINDOWS)][: len(places)]
    for start, place in zip(chosen, places, strict=False):
        copy[place : place + n] = held_out[start : start + n]
    matches = _exact_matches(copy, held_out, starts, n) if len(chosen) else {}
    return len(chosen), sum(int(start) in matches for start in chosen)


def _control_finds_planted_run(train: Tokens, held_out: Tokens, n: int) -> bool:
    """Plant 2n held-out tokens in a copy of a piece of train. The common n-grams and the longest run must contain these tokens."""
    size = 2 * n
    copy = np.asarray(train[: 64 * n]).copy()
    if len(copy) < 2 * size or len(held_out) < size:
        return False
    place = len(copy) // 2
    copy[place : place + size] = held_out[:size]
    runs = longest_runs(common_ngrams(copy, held_out, n), n, count=1)
    return bool(runs) and runs[0].tokens >= size
