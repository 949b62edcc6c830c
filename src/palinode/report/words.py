"""Numbers and verdicts in plain words, for the page and for the terminal. This module imports no charts."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palinode.base.decision import Decision
from palinode.base.measures import COST_AXES, MEASURES, OWN, probability_words

if TYPE_CHECKING:
    from palinode.analysis.scales import OverScales
    from palinode.analysis.verdict import Verdict

MINUS = "\N{MINUS SIGN}"


def number(value: float | int | None, digits: int = 4) -> str:
    """A number as text. A whole number below a billion keeps all digits, with thin spaces between thousands.

    Any other number is rounded to `digits` significant digits; below a million, all digits before the decimal point are kept. None
    becomes a dash: a missing number is never written as zero.
    """
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "not finite"
    if value == 0:
        return "0"
    size = abs(value)
    if float(value).is_integer() and size < 1e9:
        text = f"{int(size):,}".replace(",", "\N{NARROW NO-BREAK SPACE}")
    elif 1e-4 <= size < 1e6:
        decimals = max(0, digits - 1 - math.floor(math.log10(size)))
        text = f"{size:.{decimals}f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
    else:
        text = _scientific(size, digits)
    return (MINUS if value < 0 else "") + text


def aligned(value: float | None, decimals: int = 4) -> str:
    """A number as text for a column of a table, always with the same number of decimals."""
    if value is None or not math.isfinite(value):
        return number(value)
    return f"{value:.{decimals}f}".replace("-", MINUS) if abs(value) < 1e6 else number(value)


def signed(value: float | None, digits: int = 3) -> str:
    """A difference as text, with its sign."""
    return f"+{number(value, digits)}" if value is not None and value > 0 else number(value, digits)


def percent(ratio_minus_one: float | None) -> str:
    """A ratio minus one as text in percent, such as +5.0%."""
    return "–" if ratio_minus_one is None else f"{ratio_minus_one:+.1%}".replace("-", MINUS)


def interval_words(low: float, high: float, confidence: float, digits: int = 3) -> str:
    """The text of an interval, such as `95% interval +0.1 to +0.3`."""
    return f"{probability_words(confidence)} interval {signed(low, digits)} to {signed(high, digits)}"


def plural(count: int, word: str) -> str:
    """A count and its noun as text, such as `1 seed` or `3 seeds`."""
    return f"{number(count)} {word}{'' if count == 1 else 's'}"


def metric_words(metric: str) -> tuple[str, str]:
    """The pair of a metric's name in words and its unit, such as ("validation ltr loss", "nats per token").

    The direction in the metric is ltr, rtl, own, or the name of another pass of an objective.
    """
    split, direction, name = metric.split(".")
    measure = MEASURES[name]
    direction = "own-direction" if direction == OWN else direction
    return " ".join([split, direction, *(["loss"] if measure.is_loss else [])]), measure.unit


def headline(verdict: Verdict) -> str:
    """The headline of a verdict: its outcome in one line."""
    arm, baseline = verdict.arm, verdict.comparison.baseline
    if verdict.leak == "unexpected":
        return f"{arm} sees its own answer, so it cannot be compared"
    return {
        "better": f"{arm} is better than {baseline}",
        "better where it ends": f"{arm} is better than {baseline} where it ends",
        "worse": f"{arm} is worse than {baseline}",
        "not worse": f"{arm} is not worse than {baseline}",
        "smaller than matters": f"what separates {arm} from {baseline} is smaller than matters",
        "cannot tell": f"cannot tell whether {arm} is better or worse than {baseline}",
    }[verdict.outcome]


def sentence(verdict: Verdict) -> str:
    """The verdict in one sentence: the outcome, the improvement, the interval that decides, and what the interval allows for."""
    comparison, improved, rule = verdict.comparison, verdict.improvement, verdict.rule
    arm, baseline, least = verdict.arm, comparison.baseline, number(rule.smallest_effect)
    at = "" if verdict.scale == "base" else f" at {verdict.scale}"
    if improved is None:
        return f"cannot tell {arm} from {baseline}{at}: no pair of runs could be compared."
    pairs, unit = plural(len(comparison.pairs), "pair"), metric_words(comparison.metric)[1]
    if verdict.learned is not None:
        return f"{headline(verdict)[:1].upper()}{headline(verdict)[1:]}: {verdict.learned.sentence}."
    if verdict.interval is None:
        return f"{pairs} without an interval: {arm} differs from {baseline} by {signed(improved)} {unit} (+ is better)."
    low, high = verdict.interval
    count = verdict.deciding.comparisons
    counted = f"{pairs}; {count} comparisons allowed for" if count > 1 else pairs
    beyond = f", by more than matters ({least})" if verdict.by_more_than_matters else ""
    ends = f"{signed(low)} to {signed(high)}"
    if verdict.outcome == "better" or verdict.outcome == "better where it ends":
        where = " where it ends" if verdict.outcome == "better where it ends" else ""
        size = f"by {number(improved, 3)} {unit} ({number(low, 3)} to {number(high, 3)}; {counted})"
        return f"{arm} is better than {baseline}{at} {size}{where}{beyond}."
    if verdict.outcome == "worse":
        size = f"by {number(-improved, 3)} {unit} ({number(-high, 3)} to {number(-low, 3)}; {counted})"
        return f"{arm} is worse than {baseline}{at} {size}{beyond}."
    if verdict.outcome == "not worse":
        worst = number(max(0.0, -low), 3)
        return f"{arm} is not worse than {baseline}{at} by {least} {unit} or more (at worst {worst}; {counted})."
    if verdict.outcome == "smaller than matters":
        sign = f" {arm} is {'better' if low > 0 else 'worse'}, but by less than matters." if low > 0 or high < 0 else ""
        size = f"{signed(improved)} {unit} ({ends}, inside \u00b1{least}; {counted})"
        return f"What separates {arm} from {baseline}{at} is smaller than matters: {size}.{sign}"
    allowed = f"; {count} comparisons allowed for" if count > 1 else ""
    return f"{pairs} cannot tell {arm} from {baseline}{at}: {signed(improved)} {unit} ({ends}{allowed}; + is better)."


def details(verdict: Verdict) -> list[str]:
    """The sentences below the verdict: one comparison alone, runs that diverged, the published effect, more seeds."""
    lines = [
        alone(verdict),
        stability(verdict),
        published(verdict),
        predicted(verdict),
        new_text(verdict),
        more_seeds(verdict),
    ]
    return [line for line in lines if line]


def alone(verdict: Verdict) -> str | None:
    """The interval of this comparison alone, where another one decides, and the p value of the exact test; None without pairs."""
    comparison, single = verdict.comparison, verdict.single_interval
    if single is None or verdict.learned is not None:
        return None
    parts = []
    if single != verdict.interval:
        parts.append(
            f"this comparison alone: {interval_words(single.low, single.high, comparison.confidence)}, + is better"
        )
    if comparison.sign_flip_p is not None:
        least_p = 2 / 2 ** len(comparison.pairs)
        floor = ", the least that this number of seeds can give" if comparison.sign_flip_p == least_p > 0.05 else ""
        parts.append(f"exact sign-flip p = {number(comparison.sign_flip_p, 2)}{floor}")
    text = "; ".join(parts)
    return f"{text[:1].upper()}{text[1:]}." if text else None


def stability(verdict: Verdict) -> str | None:
    """The sentence about runs that diverged; None if no run diverged."""
    runs, baseline = verdict.divergence, verdict.comparison.baseline
    if runs.words is None:
        return None
    p = "" if runs.p is None else f" (p = {number(runs.p, 2)})"
    text = f"{runs.arm} of {plural(runs.planned, 'run')} diverged, {runs.baseline} of {baseline}{p}: {runs.words}."
    if runs.outcome_if_ended is None:
        return text
    extreme = "the worst observed difference where the arm diverged, the best where the baseline did"
    return f"{text} With {extreme}, the outcome would be: {runs.outcome_if_ended}."


def published(verdict: Verdict) -> str | None:
    """The sentence that compares the improvement with a published effect; None where the rule names none for this arm."""
    effect, interval, improved = verdict.rule.published, verdict.interval, verdict.improvement
    if verdict.published is None or effect is None or interval is None:
        return None
    ours = f"here {signed(improved)} ({signed(interval.low)} to {signed(interval.high)})"
    return f"Published {signed(effect.effect)} ({effect.source}); {ours}: {verdict.published}."


def predicted(verdict: Verdict) -> str | None:
    """The sentence that puts the predicted effect beside the observed one; None where the rule predicts none for this arm."""
    effect, improved = verdict.rule.predicted, verdict.improvement
    if effect is None or improved is None or effect.arm not in ("", verdict.arm):
        return None
    ends = "" if effect.low is None else f" ({signed(effect.low)} to {signed(effect.high)})"
    return f"Predicted {signed(effect.effect)}{ends}; here {signed(improved)}."


def new_text(verdict: Verdict) -> str | None:
    """The sentence about the interval over seeds and documents, or over queries; None where it was not measured."""
    text = verdict.deciding.text
    if text is None or text.interval is None:
        return None
    decides = "it decides" if verdict.deciding.over != "seeds" else "it does not decide"
    floor = f"; no number of seeds makes it narrower than ±{number(text.floor, 2)}" if text.floor > 0 else ""
    between = f"{signed(text.interval.low)} to {signed(text.interval.high)}"
    if text.unit == "queries":
        decides = (
            "the wider of it and of the interval over seeds decides" if verdict.deciding.over != "seeds" else decides
        )
        return f"For other queries ({number(text.documents)} queries): {between}; {decides}."
    shares = ", ".join(f"{name} {share:.0%}" for name, share in text.shares.items())
    return f"For new text as well ({plural(text.documents, 'unit')} of text): {between}; {decides}. Variance: {shares}{floor}."


def over_scales(over: OverScales | None, rule: Decision) -> str | None:
    """The sentence about the improvement of an arm over all scales; None with fewer than two scales."""
    if over is None:
        return None
    unit = metric_words(rule.metric)[1]
    text = (
        f"Over {over.scales} scales: mean improvement {signed(over.mean)} {unit} "
        f"({interval_words(*over.interval, rule.confidence)}); it varies between scales by tau = {number(over.tau, 2)} "
        f"(I\u00b2 {over.share_between:.0%})"
    )
    if over.slope is None or over.slope_interval is None:
        return f"{text}."
    slope = (
        f"{signed(over.slope)} for ten times the parameters ({interval_words(*over.slope_interval, rule.confidence)})"
    )
    return f"{text}; slope {slope}."


def more_seeds(verdict: Verdict) -> str | None:
    """The sentence about the number of seeds that would give an answer; None if more seeds would not help."""
    needed = verdict.seeds_needed
    if needed is None or verdict.reasons or verdict.outcome != "cannot tell":
        return None
    planned = "the smallest effect that matters" if needed.planned_for == "smallest effect" else "the observed effect"
    if needed.floor is not None:
        return (
            f"No number of seeds would show {planned} ({number(needed.effect, 2)}): the same text leaves about "
            f"±{number(needed.floor, 2)}."
        )
    if needed.seeds is None:
        return (
            f"More seeds will not help: {planned} ({number(needed.effect, 2)}) is far below the spread between seeds."
        )
    if needed.seeds <= len(verdict.comparison.pairs):
        return (
            "The spread is small enough to expect an answer from this many seeds, but they did not give one: add some."
        )
    return (
        f"About {number(needed.seeds)} paired seeds would show {planned} ({number(needed.effect, 2)}) "
        "four times in five, if the spread stays what it is."
    )


def rule_words(rule: Decision) -> str:
    """The decision rule in one sentence."""
    what, unit = metric_words(rule.metric)
    least = (
        f"differences below {number(rule.smallest_effect)} {unit} do not matter"
        if rule.smallest_effect
        else 'any difference matters, so "smaller than matters" cannot be said'
    )
    over = (
        ""
        if rule.over == "seeds"
        else "; an interval is the wider one of that over seeds and that over the text or the queries"
    )
    family = "all comparisons are one family" if rule.family == "grid" else "every comparison stands alone"
    claim = f"; the claim is that an arm is {rule.claim}" if rule.claim == "not worse" else ""
    return (
        f"{what}, {unit}, {rule.better} is better; every arm against {rule.baseline}, paired by seed; "
        f"{probability_words(rule.confidence)} intervals, {family}{over}; {least}{claim}; "
        f"meant to be equal in {COST_AXES[rule.equal].title}"
    )


def verdict_lines(verdict: Verdict, levels: str = "") -> list[str]:
    """The lines of a verdict for a terminal: sentence, the levels of the task, then the reasons and cautions.

    Args:
        levels: the line with chance and the trivial level of a task; empty for text data.
    """
    stamp = "LEAK  " if verdict.leak != "none" else ""
    stamp += "COLLAPSE  " if verdict.collapse != "none" else ""
    first = headline(verdict) if verdict.leak == "unexpected" else sentence(verdict)
    where = f" [{verdict.scale}]" if verdict.leak == "unexpected" and verdict.scale != "base" else ""
    lines = [f"{stamp}{first}{where}", *([levels] if levels else [])]
    if verdict.leak == "expected":
        lines.append("It sees its own answer, as the experiment expects: its numbers are not those of an honest model.")
    if verdict.collapse == "expected":
        lines.append(
            "Its auxiliary term vanished, as the experiment expects: its losses are honest, that term says nothing."
        )
    lines += [f"Why: {reason}" for reason in verdict.reasons]
    if verdict.leak != "unexpected":
        lines += details(verdict)
    return lines + [f"Note: {caution}" for caution in verdict.cautions]


def claim_line(row: Mapping[str, Any], *, scaled: bool) -> str:
    """The line of a judged claim (`JudgedClaim.row`) for a terminal: what was claimed, the effect, its interval and the judgement.

    A ratio is told in percent.

    Args:
        scaled: whether to name the scales of the row.
    """
    tell = percent if row["measure"] == "ratio" else signed
    places = [row["group"], row["scale"] if scaled else ""]
    where = f" [{', '.join(filter(None, places))}]" if any(places) else ""
    parts = [] if row["effect"] is None else [tell(row["effect"])]
    if row["family_low"] is not None:
        parts.append(f"({tell(row['family_low'])} to {tell(row['family_high'])}; {plural(row['count'], 'seed')})")
    measured = f": {' '.join(parts)}" if parts else ""
    judged = "" if row["verdict"] == "not judged" else f": {'; '.join([row['verdict'], *row['reasons']])}"
    return f"{row['name']}{where}: {row['claim'].rstrip('.')}{measured}{judged}"


def plain(value: Any) -> str:
    """A stored value as text; a missing value becomes a dash."""
    if value is None:
        return "–"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def value(value: Any) -> str:
    """A stored value as text; a number is written by the function `number`."""
    return number(value) if isinstance(value, int | float) and not isinstance(value, bool) else plain(value)


def duration(seconds: float | None) -> str:
    """A duration as text, such as 12 s, 3.4 min or 2.1 h."""
    if seconds is None:
        return "–"
    for size, unit in ((3600.0, "h"), (60.0, "min")):
        if seconds >= size:
            return f"{number(seconds / size, 2)} {unit}"
    return f"{number(seconds, 2)} s"


def without_home(text: str) -> str:
    """The text with ~ instead of the path of the home directory, because other people read a report."""
    home = str(Path.home())
    return text if home in ("", "/") else text.replace(home, "~")


def _scientific(size: float, digits: int) -> str:
    mantissa, _, exponent = f"{size:.{digits - 1}e}".partition("e")
    superscripts = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
    return f"{mantissa.rstrip('0').rstrip('.')}\u2009×\u200910{str(int(exponent)).translate(superscripts)}"
