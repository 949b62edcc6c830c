"""C1, checks for faults that C1.perturbation cannot see: effects of the other rows of a batch, of the length, of earlier calls.

The rows in a batch of C1.perturbation are nearly equal, so they hide a model that reads statistics of the batch. C1.neighbours
reads one window with different other rows, and alone. C1.prefix compares the logits on a part of a window with those on the whole
window: a pass that reads in one direction must give a token the same logits whatever follows the token in this direction. C1.memory
reads the same row before and after another row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from palinode.base.example import Example
from palinode.base.finding import Finding
from palinode.base.seeds import generator
from palinode.checks.bench import REFUSALS, Bench
from palinode.checks.copies import exact_arithmetic, seeded_passes
from palinode.checks.draws import Entry, direction_of, joined_draw
from palinode.checks.influence import largest_change, scored_targets, spread
from palinode.checks.laws import LARGEST, finding, outcome_of

BATCH = 8
PLACE = 4  # the row of the window in a batch: other rows come before it and after it
PREFIX_TOKENS = (33, 65)
# Short window lengths. A step of generation is a row of one slot, which some models read in another way.
FEW_TOKENS = (1, 2)


Difference = tuple[float, str]  # the difference in standard deviations of the logits, and the place of the difference


def check_neighbours(bench: Bench, lengths: Sequence[int] | None = None) -> Finding:
    """C1.neighbours: a window gets the same logits with 7 other rows, with 7 new rows, and alone, in eval and train mode.

    `lengths`: the lengths of the windows in tokens; default: a short length, and the lengths of 1 and 2 tokens.
    """
    differences = [(LARGEST, message) for message in bench.mixed.values()]
    if not differences:
        few = [tokens for tokens in FEW_TOKENS if bench.accepts(tokens)] if lengths is None else []
        lengths = list(dict.fromkeys((bench.short_tokens, *few))) if lengths is None else lengths
        differences = [one for length in lengths for one in _neighbour_differences(bench, length)]
    return _finding(bench, "C1.neighbours", differences, "the rows of a batch influence each other")


def check_memory(bench: Bench) -> Finding:
    """C1.memory: one copy of the module reads a short row, a long row, and the short row again; a new copy reads the long row.

    The same row must get the same logits.
    """
    return _finding(bench, "C1.memory", list(_memory_differences(bench)), "a call changes the logits of later calls")


def check_prefix(bench: Bench, lengths: Sequence[int] = PREFIX_TOKENS) -> tuple[Finding, ...]:
    """C1.prefix: a model gives the first (rtl: last) tokens of a window the same logits when the rest of the window is cut off.

    The result is empty for an objective without a pass that reads in one direction. `lengths`: the lengths of the windows in
    tokens. The lengths of training and evaluation windows are always added.
    """
    differences = list(_prefix_differences(bench, lengths))
    if not differences:
        return ()
    return (_finding(bench, "C1.prefix", differences, "the logits of a pass depend on the length"),)


def _neighbour_differences(bench: Bench, length: int) -> Iterator[Difference]:
    subject = bench.subject
    rng = generator(subject.seed, "audit", "neighbours")
    module = bench.copy(1.0)
    trains = length not in FEW_TOKENS and bench.trains_at(length)  # one slot alone has no batch statistics
    for training in (False, True) if trains else (False,):
        module.train(training)
        mode = f"{'train' if training else 'eval'} mode, length {length}"
        for step in range(2):
            entries = bench.bank_at(length).batch(BATCH, step, rng)
            companions, others = (
                torch.stack([bench.window("random", length, rng) for _ in range(BATCH)]) for _ in range(2)
            )
            others[PLACE] = companions[PLACE]
            first = _read(bench, module, companions, entries, PLACE)
            again = _read(bench, module, companions, entries, PLACE, pass_seed=1)
            yield from _compared(first, _read(bench, module, others, entries, PLACE), f"with other companions, {mode}")
            if all(torch.equal(logits, again[group]) for group, logits in first.items()):
                alone = _read(bench, module, companions[PLACE : PLACE + 1], entries[PLACE : PLACE + 1], 0)
                yield from _compared(first, alone, f"alone, {mode}")


def _memory_differences(bench: Bench) -> Iterator[Difference]:
    subject = bench.subject
    accepted = [length for length in (2, *subject.used_lengths, *subject.lengths_beyond) if bench.accepts(length)]
    short, long = min(accepted), max(accepted)
    rng = generator(subject.seed, "audit", "memory")
    one, other = bench.fresh_copy().eval(), bench.fresh_copy().eval()
    for entry_short, entry_long in zip(bench.bank_at(short).covering(1), bench.bank_at(long).covering(1), strict=False):
        row, longer = (bench.window("random", length, rng) for length in (short, long))
        before = _read(bench, one, row[None], [entry_short], 0)
        after_short = _read(bench, one, longer[None], [entry_long], 0)
        again = _read(bench, one, row[None], [entry_short], 0)
        first = _read(bench, other, longer[None], [entry_long], 0)
        yield from _compared(before, again, f"{short} tokens before and after a row of {long}")
        yield from _compared(first, after_short, f"{long} tokens before and after a row of {short}")


def _prefix_differences(bench: Bench, wanted: Sequence[int]) -> Iterator[Difference]:
    subject = bench.subject
    lengths = sorted({length for length in (*wanted, *subject.used_lengths) if length > 1 and bench.accepts(length)})
    rng = generator(subject.seed, "audit", "prefix")
    module = bench.copy(1.0).eval()
    for length in lengths:
        for entry in bench.bank_at(length).covering(1):
            if entry.decides_tokens:
                continue
            window = bench.window("random", length, rng)
            for group, whole in _read(bench, module, window[None], [entry], 0).items():
                if (reads := direction_of(subject.objective, entry, group, length)) is not None:
                    yield from _shorter(bench, module, window, entry, group, whole, reads == "ltr")


def _shorter(
    bench: Bench, module: nn.Module, window: Tensor, entry: Entry, group: str, whole: Tensor, is_ltr: bool
) -> Iterator[Difference]:
    """Compare the logits on the part of the window that is read first with the logits on the whole window.

    Logits are (scored targets, V).
    """
    length = len(window)
    for part in sorted({1, 2, length // 2, length - 1}):
        shorter = window[:part] if is_ltr else window[length - part :]
        try:
            logits = _read(bench, module, shorter[None], [entry], 0).get(group)
        except REFUSALS:  # the objective or the module does not take this length
            continue
        if logits is not None and len(logits):
            scored = whole[: len(logits)] if is_ltr else whole[-len(logits) :]
            change = float(largest_change(logits, scored).max()) / spread(whole)
            yield change, f"{group}: {part} of {length} tokens"


def _read(
    bench: Bench, module: nn.Module, windows: Tensor, entries: list[Entry], place: int, *, pass_seed: int = 0
) -> dict[str, Tensor]:
    """The logits of the window at row `place` of a batch, by pass: (scored targets, V), in order of target."""
    example = bench.subject.example(windows, joined_draw(entries))
    with torch.no_grad(), exact_arithmetic(), seeded_passes(bench.subject.seed, "invariance", pass_seed):
        logits = bench.subject.logits(module, example)
    return {group.name: _of_window(example, logits, rows, place) for group, rows in example.by_group()}


def _of_window(example: Example, logits: Tensor, rows: slice, place: int) -> Tensor:
    mine = example.window_row[rows] == place
    scored = scored_targets(example)[rows][mine]
    order = torch.argsort(example.target_source[rows][mine][scored], stable=True)
    return logits[rows][mine][scored][order]


def _compared(first: dict[str, Tensor], second: dict[str, Tensor], where: str) -> Iterator[Difference]:
    for group, logits in first.items():
        if group in second and logits.shape == second[group].shape and len(logits):
            yield float(largest_change(second[group], logits).max()) / spread(logits), f"{group}: {where}"


def _finding(bench: Bench, check: str, differences: list[Difference], failure: str) -> Finding:
    worst, where = max(differences, key=lambda one: one[0], default=(0.0, "nothing was compared"))
    failed = worst > bench.tolerance
    size = f"{worst:.1e}, allowed {bench.tolerance:.0e}"
    return finding(
        check,
        outcome_of(wrong=failed, can_tell=differences and not bench.coarse),
        f"{failure} ({where}: {size})" if failed else f"{len(differences)} comparisons, largest difference {size}",
        {"largest_difference": min(worst, LARGEST), "comparisons": len(differences)},
        bench.tolerance,
        reproduce={"seed": bench.subject.seed, "where": where},
    )
