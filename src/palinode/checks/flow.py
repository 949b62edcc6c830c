"""C1, information flow: which window tokens change which predictions, measured on the whole model from ids to logits.

Let w be a window. Row 0 is w, and row s+1 is w with token s replaced. The Example of every row is rebuilt with the same Draw, and
the module runs in float64 with random weights that let information flow everywhere. The influence of s on t is the change of the
logits at the slots that predict w_t when w_s is replaced. One run measures one batch of these rows, for every pass that the Draw
makes. The gain is the scale of the random weight matrices. C1 makes these runs:

- 16 tokens, all sources, gain 1: the audit shows this run as a picture.
- The train and evaluation lengths, gain 1: all sources up to 65 tokens, else 64 sources.
- Every other length in `lengths` that the model accepts, gain 1: all sources up to 33 tokens, else 8 sources. Faults of padding and
  of wrap-around depend on the length, and begin at the ends and at powers of two: these places are always among the 8 sources.
- Gains 4 and 16: all sources at 8 tokens, 8 sources at the train and evaluation lengths. A soft mask (a finite penalty on a score)
  leaks visibly only if attention scores are large.
- 16 Draws at 24 tokens, when the objective makes that many: a token may leak only with some random decisions.
- 16 passes in train mode at 8 tokens, each with its own state of torch's generator: some leaks occur only in some forward passes.
- Lengths beyond the longest training or evaluation window, 8 sources: some faults begin beyond this length.
- Windows of repeated, of equal and of few ids at 33 tokens: random ids do not trigger faults that depend on equal ids.
- Windows with ids that mark the start or end of a document, at 33 tokens and at the used lengths. Also every id (or a sample, if
  there are more than 4096 ids) as the first and as the last of 4 tokens.

The other checks of C1 are in `provenance.py`, `invariance.py` (other rows of a batch, prefixes, memory) and `gradient.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from pydantic import Field

from palinode.base.config import Config
from palinode.base.errors import BadInput
from palinode.base.example import NO_SOURCE
from palinode.base.finding import Finding
from palinode.base.seeds import generator
from palinode.checks.bench import Bench
from palinode.checks.copies import double_copy, exact_arithmetic, seeded_passes
from palinode.checks.draws import contract
from palinode.checks.gradient import check_gradient
from palinode.checks.influence import influence, sampled_sources
from palinode.checks.invariance import PREFIX_TOKENS, check_memory, check_neighbours, check_prefix
from palinode.checks.provenance import check_provenance
from palinode.checks.subject import Subject
from palinode.checks.tally import Setting, Tally


class FlowSettings(Config):
    """The options of C1, which set how much it measures. With the defaults C1 makes the runs that the top of this file lists.

    `own_weights` adds runs with the module's own weights. `beyond` adds rows that are longer than those of training and evaluation.
    `ids_tokens` is the length of the rows in which ids are tried one by one; 0 tries no ids.
    """

    lengths: tuple[int, ...] = (1, 2, 3, 31, 32, 33, 48, 64, 65, 96, 129)
    gains: tuple[float, ...] = (4.0, 16.0)
    picture_tokens: int = Field(default=16, ge=1)
    small_tokens: int = Field(default=8, ge=1)
    draws: int = Field(default=16, ge=1)
    draws_tokens: int = Field(default=24, ge=1)
    train_passes: int = Field(default=16, ge=0)
    all_sources_up_to: int = 33
    all_sources_of_used_up_to: int = 65
    sampled_sources: int = Field(default=8, ge=2)
    sampled_sources_of_used: int = Field(default=64, ge=2)
    own_weights: bool = False
    beyond: bool = True
    ids_tokens: int = Field(default=4, ge=0)


# The runs at the lengths of training and evaluation alone, and those on a trained module.
QUICK_FLOW = FlowSettings(
    lengths=(),
    gains=(),
    draws=4,
    train_passes=0,
    sampled_sources_of_used=16,
    all_sources_of_used_up_to=33,
    beyond=False,
    ids_tokens=0,
)
TRAINED = QUICK_FLOW.with_(own_weights=True)


@dataclass(frozen=True)
class Planned:
    """One planned run: the setting, the number of sources to replace, and the number of Draws."""

    setting: Setting
    most_sources: int
    draws: int = 1


def check_flow(subject: Subject, settings: FlowSettings | None = None) -> tuple[Finding, ...]:
    """Run all of C1 on one subject: two findings for each pass (the law and its positive control), and the findings of the other
    checks of C1.

    Raises:
        BadInput: the vocabulary has fewer than two content ids, or a forward does not return logits.
    """
    settings = settings or FlowSettings()
    if subject.content_tokens < 2:
        raise BadInput("needs at least two content ids, to replace one by another", field="vocab_size")
    bench = Bench.of(_stretched(subject, settings))
    mixed = [length for length in bench.subject.used_lengths if bench.mixes_rows(length)]
    if mixed:  # C1 reads many rows as one batch, so it cannot measure a module that mixes the rows of a batch
        return (*check_provenance(bench), check_neighbours(bench))
    prefix_lengths = (*PREFIX_TOKENS, *settings.lengths, *(bench.subject.lengths_beyond if settings.beyond else ()))
    return (
        *check_provenance(bench),
        *_flow_findings(bench, settings),
        check_neighbours(bench),
        *check_prefix(bench, prefix_lengths),
        check_memory(bench),
        check_gradient(bench),
    )


def check_trained_flow(subject: Subject) -> tuple[Finding, ...]:
    """C1 on a trained module: the influence of tokens with its own weights, and the checks of other rows, prefixes and memory.

    The audit before training has measured the Examples (C1.provenance), the gradients and the other lengths. Training changes none
    of them. The module may now be larger than the module that was audited, so its lengths in training and evaluation are measured
    with random weights as well.
    """
    bench = Bench.of(subject)
    return (
        *_flow_findings(bench, TRAINED),
        check_neighbours(bench, (bench.short_tokens,)),
        *check_prefix(bench, ()),
        check_memory(bench),
    )


def plan(subject: Subject, settings: FlowSettings) -> list[Planned]:
    """The list of runs. A message about several leaks names the first leak, so the simplest run comes first."""
    longest = subject.max_window_tokens
    used = subject.used_lengths
    small = min(settings.small_tokens, longest)
    runs = [Planned(Setting(min(settings.picture_tokens, longest)), longest)]
    for length in used:
        every = length <= settings.all_sources_of_used_up_to
        runs.append(Planned(Setting(length), length if every else settings.sampled_sources_of_used))
    for length in (n for n in settings.lengths if n <= longest and n not in used):
        every = length <= settings.all_sources_up_to
        runs.append(Planned(Setting(length), length if every else settings.sampled_sources))
    if settings.beyond:
        runs += [Planned(Setting(length), settings.sampled_sources) for length in subject.lengths_beyond]
    for gain in settings.gains:
        runs.append(Planned(Setting(small, gain), small))
        runs += [Planned(Setting(length, gain), settings.sampled_sources) for length in used]
    if settings.draws > 1:
        runs.append(Planned(Setting(min(settings.draws_tokens, longest)), longest, settings.draws))
    runs += [Planned(Setting(small, training=True, pass_seed=seed), small) for seed in range(settings.train_passes)]
    runs += [Planned(Setting(min(33, longest), window=kind), longest) for kind in ("repeats", "equal", "few")]
    if subject.marker_ids:
        runs.append(Planned(Setting(min(33, longest), window="marker"), longest))
        runs += [Planned(Setting(length, window="marker"), settings.sampled_sources_of_used) for length in used]
    if settings.own_weights:
        runs += [Planned(Setting(length, None), settings.sampled_sources_of_used) for length in used]
    return runs


def _flow_findings(bench: Bench, settings: FlowSettings) -> list[Finding]:
    """C1.perturbation and C1.two-sided of every pass, from all runs of the plan."""
    tallies, seed = _measured(bench, settings), bench.subject.seed
    notes, scope = _notes(bench), _scope(bench, settings)
    findings = [finding for tally in tallies for finding in (tally.law(seed), tally.control(seed))]
    return [_with_scope(one, notes, scope) for one in findings]


def _measured(bench: Bench, settings: FlowSettings) -> list[Tally]:
    """Make all runs of the plan. A length that the objective or the module refuses is skipped, unless the arm uses this length."""
    tallies = {group: Tally.of(bench, group) for group in bench.bank.groups}
    for item in plan(bench.subject, settings):
        length = item.setting.length_tokens
        if bench.accepts(length) and (not item.setting.training or bench.trains_at(length)):
            _run(bench, item, tallies)
    if settings.ids_tokens:
        _run_ids(bench, settings.ids_tokens, tallies)
    return [tally for tally in tallies.values() if tally.runs]


def _run_ids(bench: Bench, ids_tokens: int, tallies: dict[str, Tally]) -> None:
    """Put every id (or a sample of many ids) into the first and into the last token of a short row."""
    subject, ids = bench.subject, bench.tried_ids()
    length = ids_tokens if bench.accepts(ids_tokens) else bench.short_tokens
    rng = generator(subject.seed, "audit", "flow", "ids")
    for entry in bench.bank_at(length).covering(1):
        window = bench.window("random", length, rng)
        read = subject.example(window[None], entry.draw).input_source
        for source in sorted({int(read[read != NO_SOURCE].min()), int(read.max())}):
            with exact_arithmetic(), seeded_passes(subject.seed, "flow", 0):
                sources = torch.full_like(ids, source)
                influences = influence(subject, bench.copy(1.0).eval(), window, entry, sources, rng, ids)
            for one in influences:
                if one.scored.any() and one.group in tallies:
                    allowed = contract(subject.objective, entry, one.group, length)
                    tallies[one.group].add(Setting(length, window="single"), one, allowed)


def _run(bench: Bench, item: Planned, tallies: dict[str, Tally]) -> None:
    subject, setting = bench.subject, item.setting
    length = setting.length_tokens
    module = double_copy(subject.module) if setting.gain is None else bench.copy(setting.gain)
    module.train(setting.training)
    entries = bench.bank_at(length).covering(item.draws)
    if item.draws > 1 and len(entries) < 3:
        return  # if a bank has at most two entries, the other runs contain both
    for index, entry in enumerate(entries):
        rng = generator(subject.seed, "audit", "flow", length, f"{setting.gain}", setting.window, index)
        window = bench.window(setting.window, length, rng)
        sources = sampled_sources(length, item.most_sources, rng)
        with exact_arithmetic(), seeded_passes(subject.seed, "flow", setting.pass_seed):
            influences = influence(subject, module, window, entry, sources, rng)
        for one in influences:
            if one.scored.any() and one.group in tallies:
                allowed = contract(subject.objective, entry, one.group, length)
                tallies[one.group].add(replace(setting, draw=index), one, allowed)


def _stretched(subject: Subject, settings: FlowSettings) -> Subject:
    """The subject with its module rebuilt for the longest length of the plan; if it cannot be rebuilt, the subject itself."""
    beyond = subject.lengths_beyond if settings.beyond else ()
    longest = max(subject.max_window_tokens, *settings.lengths, *beyond, settings.draws_tokens, settings.picture_tokens)
    if subject.rebuild is None or settings.own_weights:
        return subject
    module = subject.rebuild(subject.vocab_size, subject.slots_of(longest), subject.seed)
    return replace(subject, module=module, max_window_tokens=longest)


def _with_scope(one: Finding, notes: dict[str, str | int], scope: str) -> Finding:
    """The finding with notes on what C1 did not measure. If C1.perturbation passes, its message also says this in words."""
    says = one.check == "C1.perturbation" and one.outcome == "pass"
    message = f"{one.message}; {scope}" if says else one.message
    return one.with_(message=message, numbers={**one.numbers, **notes})


def _scope(bench: Bench, settings: FlowSettings) -> str:
    """A text that names the lengths (in tokens and slots) and the ids that C1 tried, and those that it did not try."""
    subject = bench.subject
    tried = [item.setting.length_tokens for item in plan(subject, settings)]
    longest = max(length for length in tried if bench.accepts(length))
    used = max(subject.used_lengths)
    ids, count = (len(bench.tried_ids()) if settings.ids_tokens else 0), subject.content_tokens
    named = f", with {', '.join(map(str, subject.marker_ids))}" if subject.marker_ids else ""
    tried_ids = f"all {count} ids" if ids == count else f"{ids} of {count} ids one by one{named}"
    untried = [f"rows above {longest} tokens", *([] if ids == count else ["rows that hold another id (trigger_ids=)"])]
    return (
        f"tried: up to {longest} tokens (a window of {used} tokens has {subject.slots_of(used)} slots), {tried_ids}; "
        f"not tried: {', '.join(untried)}"
    )


def _notes(bench: Bench) -> dict[str, str | int]:
    """The lengths and passes that C1 did not measure, as notes for the reader of the numbers."""
    notes: dict[str, str | int] = {}
    if refused := sorted(length for length, is_refused in bench.refused.items() if is_refused):
        notes["lengths_refused"] = ", ".join(map(str, refused))
    if refused := sorted(length for length, message in bench.train_refused.items() if message):
        notes["lengths_refused_in_train_mode"] = ", ".join(map(str, refused))
    if bench.bank.never_drawn:
        notes["passes_never_drawn"] = ", ".join(bench.bank.never_drawn)
        notes["batches_drawn"] = bench.bank.calls
    return notes
