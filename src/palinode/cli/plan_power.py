"""The part of `palinode plan` about power, as text: the noise, the smallest effect, the seeds for an effect, the best size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from palinode.experiment.power import Power, ScalePower

MOST_SOURCES = 3
CASES = "in 4 of 5 cases"


def power_lines(power: Power) -> list[str]:
    """The lines about what the planned seeds can show, and about the seeds for the effect that is planned for."""
    from palinode.experiment.plan import NO_SMALLEST_EFFECT
    from palinode.report.words import duration, number

    if not power.comparisons:
        return []
    by_words: dict[str, list[str]] = {}
    until = [f"seeds are added until every verdict is decided: the counts above are of {power.seeds} seeds, the most"]
    for scale in power.scales:
        by_words.setdefault(_scale_words(scale, power), []).append(scale.scale)
    everywhere = len(by_words) == 1
    lines = until if power.looks else []
    lines += [words if everywhere else f"{', '.join(scales)}: {words}" for words, scales in by_words.items()]
    if power.effect is None:
        return [*lines, NO_SMALLEST_EFFECT]
    effect = number(power.effect, 3)
    if any(scale.noise is None for scale in power.scales):
        lines.append(f"how many seeds show {effect} is not known: run a few seeds, or name a --pilot")
    elif (needed := power.seeds_needed) is None:
        lines.append(f"more than 10,000 seeds are needed to show {effect}")
    else:
        single = max(scale.seeds_single or 0 for scale in power.scales)
        guessed = " (guessed from FLOPs)" if power.is_guessed else ""
        time = f"about {duration(power.seconds(needed))}{guessed}"
        alone = f", {single} for a single comparison" if single != needed else ""
        lines.append(f"{needed} seeds show {effect} {CASES}{alone}: {time}")
    return lines


def _scale_words(scale: ScalePower, power: Power) -> str:
    from palinode.report.words import number

    seeds = f"{'up to ' * power.looks}{power.seeds} seed{'' if power.seeds == 1 else 's'}"
    if power.seeds < 2:
        shows = f"{seeds}: an interval needs 2"
    else:
        unit = " sd" if scale.noise is None else ""
        single, family = (f"{number(one, 3)}{unit}" for one in (scale.smallest_single, scale.smallest_family))
        of_all = f"; {family} in each of {power.comparisons} comparisons" if power.comparisons > 1 else ""
        shows = f"{seeds} show an effect of {single} {CASES}{of_all}"
    if scale.noise is None:
        return (
            f"noise: not known, as the store has no runs like these; effects are in sd of a paired difference; {shows}"
        )
    noise, sources = scale.noise, ", ".join(scale.noise.source[:MOST_SOURCES])
    more = f" and {len(scale.noise.source) - MOST_SOURCES} more" if len(scale.noise.source) > MOST_SOURCES else ""
    source = f"from {noise.degrees:g} degrees of freedom in {sources}{more}"
    observed = f"sd of a paired difference {number(noise.deviation, 3)}, {source}"
    return f"noise: {observed}; planned with {number(noise.planned, 3)}; {shows}"


def hours_data(powers: dict[str, Power], sizes: dict[str, float], hours: float) -> dict[str, Any]:
    """For each size, the seeds that fit into the hours and what they show; and the largest size that shows the effect.

    Args:
        powers: size -> what it can show.
        sizes: size -> the largest number of parameters of its models.
    """
    rows = {}
    for name, power in powers.items():
        fits, needed = power.seeds_within(hours), power.seeds_needed
        rows[name] = {
            "parameters": sizes[name],
            "seeds_that_fit": fits,
            "seeds_needed": needed,
            "smallest_effect": power.smallest_with(fits) if fits >= 2 else None,
            "in_sd": any(scale.noise is None for scale in power.scales),
            "shows_the_effect": needed is not None and needed <= fits,
        }
    able = [name for name, row in rows.items() if row["shows_the_effect"]]
    return {"hours": hours, "sizes": rows, "chosen": max(able, key=lambda name: sizes[name]) if able else None}


def hours_lines(data: dict[str, Any], powers: dict[str, Power]) -> list[str]:
    """What the hours are best used for: the largest size that shows the effect; if none does, the smallest effect that is shown."""
    from palinode.report.words import duration, number

    hours, rows = f"{data['hours']:g} hours", data["sizes"]
    if (chosen := data["chosen"]) is not None:
        power, needed = powers[chosen], rows[chosen]["seeds_needed"]
        effect = number(power.effect, 3)
        time = duration(power.seconds(needed))
        return [
            f"within {hours}: {chosen} is the largest size that shows {effect} {CASES}: {needed} seeds, about {time}"
        ]
    shown = {name: row for name, row in rows.items() if row["smallest_effect"] is not None}
    if not shown:
        return [f"within {hours} no size ends 2 seeds, so nothing can be shown"]
    known = {name: row for name, row in shown.items() if not row["in_sd"]} or shown
    best = min(known, key=lambda name: known[name]["smallest_effect"])
    row, planned_for = known[best], powers[best].effect
    unit = " sd of a paired difference" if row["in_sd"] else ""
    why = "no effect is planned for (--effect)"
    if planned_for is not None:
        why = f"no size is known to show {number(planned_for, 3)} {CASES}"
    smallest = f"the smallest effect that is shown is {number(row['smallest_effect'], 3)}{unit}"
    return [f"within {hours} {why}; {smallest}: {best} with {row['seeds_that_fit']} seeds"]
