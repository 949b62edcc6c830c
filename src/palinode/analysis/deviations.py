"""The differences between the plan that was sealed before the first run and the experiment as it was run: one line for each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from palinode.base.config import leaves
from palinode.base.decision import UNTIL_DECIDED
from palinode.results.record import ExperimentRecord
from palinode.results.seals import Look, Seal, Settings, looks_at_other_seeds


def deviations(record: ExperimentRecord, seals: Sequence[Seal], looks: Sequence[Look]) -> tuple[str, ...]:
    """One line for each deviation from the first seal: seeds added or dropped, runs dropped, and a changed decision, settings or
    code. Empty if nothing was sealed.

    Args:
        seals, looks: the seals and the looks of the experiment, in the order of writing.
    """
    if not seals:
        return ()
    first, entry = seals[0], record.entry
    lines = [f"{first.runs_ended} runs had ended before the plan was sealed"] if first.runs_ended else []
    lines += _seeds(record, first, looks)
    lines += _dropped_cells(record, first)
    lines += _changes("decision.", first.decision, entry.decision)
    for before, after in zip(seals[:-1], seals[1:], strict=True):
        if changed := _changed_settings(before.settings, after.settings):
            lines.append(f"the settings of {changed} were changed in {_at(after)}")
        if dict(before.code) != dict(after.code):
            lines.append(f"the code was changed in {_at(after)}")
        if changes := _changed_claims(before, after):
            lines.append(f"the claims {', '.join(changes)} were changed in {_at(after)}")
    return tuple(lines)


def rule_was_fixed(record: ExperimentRecord, seals: Sequence[Seal]) -> bool:
    """Whether the decision rule was sealed before the first run and is the same now."""
    return bool(seals) and not seals[0].runs_ended and not _changes("", seals[0].decision, record.entry.decision)


def _at(seal: Seal) -> str:
    """A later seal in words, and how many of its runs had ended when it was written."""
    ended = "no run" if not seal.runs_ended else "1 run" if seal.runs_ended == 1 else f"{seal.runs_ended} runs"
    return f"seal {seal.number}, when {ended} had ended"


def _seeds(record: ExperimentRecord, first: Seal, looks: Sequence[Look]) -> list[str]:
    """The lines about seeds that were added to the first plan or dropped from it, and about a changed way of planning seeds."""
    entry, lines = record.entry, list[str]()
    if first.seeds_planned != entry.seeds_planned:
        lines.append(
            f"the seeds were planned {_planned(first.seeds_planned)}, and are now {_planned(entry.seeds_planned)}"
        )
    if added := [seed for seed in entry.seeds if seed not in first.seeds]:
        before = looks_at_other_seeds(looks, entry.seeds, [run.run_id for run in entry.runs])
        when = f"after {before} look{'' if before == 1 else 's'}" if before else "before any recorded look"
        lines.append(f"{_named('seed', added)} {'was' if len(added) == 1 else 'were'} added {when}")
    if entry.seeds_planned != UNTIL_DECIDED and (dropped := [seed for seed in first.seeds if seed not in entry.seeds]):
        lines.append(f"{_named('seed', dropped)} of the sealed plan {'was' if len(dropped) == 1 else 'were'} dropped")
    return lines


def _planned(plan: str) -> str:
    return "until decided" if plan == UNTIL_DECIDED else "as a fixed list"


def _dropped_cells(record: ExperimentRecord, first: Seal) -> list[str]:
    """The lines about arms and scales of the first plan that the experiment has no longer."""
    arms, scales = {arm.name for arm in record.entry.arms}, set(record.entry.scales)
    planned_scales = dict.fromkeys(scale for by_scale in first.settings.values() for scale in by_scale)
    lines = [f"arm {arm} of the sealed plan was dropped" for arm in first.settings if arm not in arms]
    return lines + [f"scale {scale} of the sealed plan was dropped" for scale in planned_scales if scale not in scales]


def _changes(prefix: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """One line for each field that has another value than before. A field that only newer versions have is no change."""
    old, new = leaves(before), leaves(after)
    return [
        f"{prefix}{path} was {_shown(old[path])} in the sealed plan, and is now {_shown(new.get(path))}"
        for path in old
        if old[path] != new.get(path)
    ]


def _shown(value: Any) -> str:
    return "not set" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _changed_settings(before: Settings, after: Settings) -> str:
    """The arms, with the scale, whose settings have another hash in the later seal; empty if there are none."""
    every = [(arm, scale, one) for arm, by_scale in before.items() for scale, one in by_scale.items()]
    changed = [f"{arm} at {scale}" for arm, scale, one in every if after.get(arm, {}).get(scale, one) != one]
    return "every arm" if 1 < len(changed) == len(every) else ", ".join(changed)


def _changed_claims(before: Seal, after: Seal) -> list[str]:
    """The names of the claims that were added, taken out or changed in the later seal; none if the earlier one sealed no claims.

    A claim that differs in its published number alone has the word "published" behind its name: the plan itself did not change.
    """
    if not before.claims:
        return []
    old, new = ([dict(claim) for claim in seal.claims] for seal in (before, after))
    gone, come = [claim for claim in old if claim not in new], [claim for claim in new if claim not in old]
    planned = [[_without_published(claim) for claim in claims] for claims in (gone, come)]
    names: dict[str, bool] = {}
    for one, other in ((0, 1), (1, 0)):
        for claim in planned[one]:
            names[str(claim["name"])] = names.get(str(claim["name"]), False) or claim not in planned[other]
    return [name if is_other else f"{name} (the published number alone)" for name, is_other in names.items()]


def _without_published(claim: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in claim.items() if not name.startswith("published")}


def _named(what: str, numbers: Iterable[int]) -> str:
    listed = list(numbers)
    return f"{what}{'' if len(listed) == 1 else 's'} {', '.join(map(str, listed))}"
