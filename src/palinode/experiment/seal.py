"""Seal the plan of an experiment before its first run, and record every look at its verdicts.

Only `palinode run` writes these two files (`results/seals.py`). `compare` and `report` write nothing.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from palinode.analysis.verdict import verdicts
from palinode.base.config import CODE_HASHES, content_hash, decode, encode, identity
from palinode.base.decision import UNTIL_DECIDED, Claim, Decision
from palinode.base.errors import BadInput
from palinode.base.numerics import NUMERICS_VERSION
from palinode.results.record import ExperimentEntry
from palinode.results.seals import Look, LookOutcome, Seal
from palinode.results.store import Store
from palinode.spec.experiment import ResolvedExperiment

HASH_CHARACTERS = 16  # of a hash of settings: 64 bits, as in the id of a run
WORDS_OF_CLAIMS = ("sentence", "source", "note")  # a seal leaves these fields out: other words are no other plan
# The outcomes after which no further seed is needed. An outcome may go on: "better where it ends".
DECIDED = ("better", "worse", "smaller than matters", "not worse")


def seal_plan(
    resolved: ResolvedExperiment,
    entry: ExperimentEntry,
    before: ExperimentEntry | None,
    store: Store,
    on_note: Callable[[str], None] = lambda line: None,
) -> Seal:
    """The seal of this plan. A plan that differs from the last seal of this experiment is appended as the next seal.

    Args:
        resolved: the experiment as it is written, before trials have chosen a setting, with the hashes of its data.
        entry: the entry of the experiment, with the runs that are going to be done and their predicted cost.
        before: the entry that the store had before this call; None if it had none.
        on_note: called with the hash of a new seal, and with a line about a torn line.

    Raises:
        Damaged: the file of the seals is damaged, or was changed.
    """
    stored = store.seals(entry)
    if stored.torn:
        on_note(f"{store.seals_path(entry)}: the last line was written only in part, and is left out")
    last = stored.rows[-1] if stored.rows else None
    seal = _seal(resolved, entry.plan, last, sum(store.ended(run.run_id) is not None for run in entry.runs))
    has_same_runs = before is not None and before.runs == entry.runs and resolved.tuning is None
    if last is not None and _is_same_plan(seal, last, resolved.decision, has_same_runs=has_same_runs):
        return last
    store.append_seal(entry, seal.hashed())
    seal = store.seals(entry).rows[
        seal.number - 1
    ]  # another process may have written a seal of this number at the same time
    on_note(f"seal {seal.number} of {entry.full_name}: {seal.sha256}")
    on_note("paste this hash where others see it: a hash proves the order only to them")
    return seal


def record_look(entry: ExperimentEntry, store: Store) -> tuple[LookOutcome, ...]:
    """Compute the verdicts of an experiment and append the look at them, unless the same look was recorded before.

    Returns:
        the outcomes; empty for one arm alone.

    Raises:
        Damaged: the file of the looks is damaged.
    """
    found = verdicts(store.experiment(entry.full_name))
    outcomes = tuple(LookOutcome(arm=one.arm, scale=one.scale, outcome=one.outcome) for one in found)
    look = Look(seeds=entry.seeds, outcomes=outcomes, runs=tuple(run.run_id for run in entry.runs), created=_now())
    earlier = [(one.seeds, one.outcomes, one.runs) for one in store.looks(entry).rows]
    if outcomes and (look.seeds, look.outcomes, look.runs) not in earlier:
        store.append_look(entry, look)
    return outcomes


def record_look_of_older_version(entry: ExperimentEntry, store: Store) -> None:
    """Record the look at a finished experiment of a version that recorded none: it printed the verdicts at the end of the runs."""
    is_recorded = store.looks_path(entry).exists()
    if entry.comparison and not is_recorded and all(store.ended(run.run_id) is not None for run in entry.runs):
        record_look(entry, store)


def undecided(outcomes: tuple[LookOutcome, ...], entry: ExperimentEntry) -> list[LookOutcome]:
    """The outcomes that more seeds could decide. An arm that is expected to leak is not waited for."""
    return [
        one
        for one in outcomes
        if not entry.arm(one.arm).expect_leak
        and not any(f"{one.outcome} ".startswith(f"{decided} ") for decided in DECIDED)
    ]


def _seal(resolved: ResolvedExperiment, plan: Mapping[str, Any], last: Seal | None, runs_ended: int) -> Seal:
    """The next seal of this plan, without its hash."""
    looks = resolved.decision.looks
    settings: dict[str, dict[str, str]] = {}
    code: dict[str, str | int] = {"numerics_version": NUMERICS_VERSION}
    for run in (run for run in resolved.runs if run.seed == resolved.seeds[0]):
        written = [identity(run.spec.settings), *([identity(resolved.tuning)] if resolved.tuning is not None else [])]
        settings.setdefault(run.arm, {})[run.scale] = content_hash(written)[:HASH_CHARACTERS]
        code |= dict(_code_hashes(encode(run.spec.settings)))
    return Seal(
        number=last.number + 1 if last is not None else 1,
        created=_now(),
        decision=encode(resolved.decision),
        plan=dict(plan),
        seeds=resolved.seeds,
        seeds_planned=resolved.seeds_planned,
        looks={"first": looks.first, "most": looks.most} if resolved.seeds_planned == UNTIL_DECIDED else {},
        settings=settings,
        code=code,
        claims=tuple(_plan_of(claim) for claim in resolved.claims),
        runs_ended=runs_ended,
        previous=last.sha256 if last is not None else "",
    )


def _plan_of(claim: Claim) -> dict[str, Any]:
    """A claim as plain data, as a seal keeps it."""
    return {name: value for name, value in identity(claim).items() if name not in WORDS_OF_CLAIMS}


def _code_hashes(value: Any) -> Iterator[tuple[str, str]]:
    """The pairs (kind, hash of the code) of all parts in encoded settings that the user wrote."""
    if isinstance(value, Mapping):
        yield from ((str(value.get("kind")), str(value[key])) for key in CODE_HASHES if key in value)
        for inner in value.values():
            yield from _code_hashes(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _code_hashes(inner)


def _is_same_plan(seal: Seal, last: Seal, rule: Decision, *, has_same_runs: bool) -> bool:
    """Whether a plan is the one that was sealed last. Its predicted cost and its date may differ.

    Args:
        has_same_runs: whether the runs are those of the entry in the store. An entry that is run again has no tuning and holds the
            chosen settings, so its settings have other hashes than those of the file.
    """
    try:
        sealed_rule: Decision | None = decode(Decision, dict(last.decision))
    except BadInput:  # the rule of another version
        sealed_rule = None
    if sealed_rule != rule or (seal.seeds, seal.looks) != (last.seeds, last.looks):
        return False
    if last.claims and seal.claims != last.claims:  # a seal of an older version has no claims
        return False
    return has_same_runs or (seal.settings, seal.code) == (last.settings, last.code)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
