"""The colours and the names that arms and sizes have in all figures of one report."""

from __future__ import annotations

from dataclasses import dataclass

from palinode.analysis.audits import arm_audit
from palinode.analysis.sizes import ScaleSize
from palinode.analysis.verdict import Rule
from palinode.report import theme
from palinode.report.words import number
from palinode.results.record import ExperimentRecord


@dataclass(frozen=True)
class Look:
    """Arm -> colour, and arm -> the name that charts print."""

    colours: dict[str, str]
    labels: dict[str, str]
    leaking: tuple[str, ...] = ()


def look_of(record: ExperimentRecord, rule: Rule) -> Look:
    """The arms' colours and labels; an arm that leaks is red, and stamped wherever it is named, as one that collapses is."""
    arms = [arm.name for arm in record.entry.arms]
    audits = {arm: arm_audit(record, arm) for arm in arms}
    leaking = [arm for arm in arms if audits[arm].leak != "none"]
    collapsing = [arm for arm in arms if audits[arm].collapse != "none"]
    stamps = dict.fromkeys(collapsing, " (COLLAPSE)") | dict.fromkeys(leaking, " (LEAK)")
    labels = {arm: arm + stamps.get(arm, "") for arm in arms}
    return Look(theme.arm_colours(arms, rule.baseline, leaking), labels, tuple(leaking))


def size_labels(sizes: dict[str, ScaleSize]) -> dict[str, str]:
    """Scale -> `16x768, 136 M`, from the smallest to the largest where sizes are known."""
    ordered = sorted(sizes.values(), key=lambda size: size.parameters or 0)
    return {
        size.scale: size.scale if size.parameters is None else f"{size.scale}, {millions(size.parameters)}"
        for size in ordered
    }


def millions(parameters: int) -> str:
    """136 M, 1.25 M, 427 k: three digits."""
    unit, letter = (1e6, "M") if parameters >= 1e6 else (1e3, "k")
    return f"{number(float(f'{parameters / unit:.3g}'), 3)} {letter}"
