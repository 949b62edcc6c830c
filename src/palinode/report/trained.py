"""The block "What was trained" of the page: the settings of the baseline as rows, and the changes of every other arm."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from palinode.analysis.tasks import settings_of
from palinode.base.measures import COST_AXES
from palinode.report import words
from palinode.report.study import Study, millions
from palinode.report.words import plain
from palinode.results.record import ArmEntry

MOST_CHANGES = 5  # the most changes of one arm on the first screen; the section about the arms lists all changes
MOST_SCALES = 3  # if there are more scales, a row shows only the values of the first and the last scale
SPLITS = ("train", "tuning", "validation", "test")
UNCOUNTED = ("source_sha256", "code_sha256")  # these hashes identify the code of a user's part; they are not options
SAME_SETTING = "the same settings"

Settings = Mapping[str, Any]


def what_was_trained(study: Study) -> dict[str, Any]:
    """The content of the block: the settings of the baseline as rows (name, value), and the note and changes of every other arm."""
    per_scale = {scale: settings_of(study.record, study.rule.baseline, scale) or {} for scale in study.scales}
    rows: dict[str, dict[str, str]] = {}
    for scale, settings in per_scale.items():
        for name, value in _rows(study, settings, scale):
            rows.setdefault(name, {})[scale] = value
    base = study.record.entry.arm(study.rule.baseline)
    return {
        "rows": [(name, _of_scales(values)) for name, values in rows.items()],
        "arms": [_arm(study, arm, base) for arm in study.record.entry.arms if arm is not base],
        "baseline": base.name,
    }


def _rows(study: Study, settings: Settings, scale: str) -> Iterator[tuple[str, str]]:
    """The rows about the settings of the baseline at one scale. A setting that is not in the spec has no row."""
    if "data.corpus" in settings:
        yield "text", f"{settings['data.corpus']}, windows of {_count(settings.get('data.window_tokens'), 'token')}"
        yield "tokenizer", str(settings.get("data.tokenizer"))
    elif "data.task.kind" in settings:
        options = _options(settings, "data.task")
        yield "task", f"{settings['data.task.kind']}{f' ({options})' if options else ''}"
    if splits := _splits(study, scale):
        yield "split sizes", splits
    if model := _model(study, settings, scale):
        yield "model", model
    if "objective.kind" in settings:
        labels = settings.get("labels", "all")
        yield "objective", f"{settings['objective.kind']}{'' if labels == 'all' else f', trained on {labels} alone'}"
    if "recipe.kind" in settings:
        schedule, precision = settings.get("recipe.schedule.kind"), settings.get("recipe.precision")
        parts = (settings["recipe.kind"], settings.get("recipe.optimizer.kind"), schedule, precision)
        yield "recipe", ", ".join(str(part) for part in parts if part)
    if steps := settings.get("recipe.steps"):
        yield "steps", f"{words.number(steps)}, in batches of {_batch(settings)}"
    if budget := _budget(study, scale):
        yield "budget of a run", budget


def _splits(study: Study, scale: str) -> str:
    """The number of tokens of every split, taken from the plan.

    If the plan lacks these numbers (older versions), the text states how many tokens an evaluation scored.
    """
    cells = study.record.entry.plan.get("cells")
    for cell in cells if isinstance(cells, list | tuple) else ():  # decoding turns a stored list into a tuple
        if (cell.get("arm"), cell.get("scale")) == (study.rule.baseline, scale) and cell.get("split_tokens"):
            sizes = {name: size for name in SPLITS if (size := cell["split_tokens"].get(name))}
            listed = [f"{name} {_tokens(size)}" for name, size in sizes.items()]
            if "train" not in sizes:
                listed.insert(0, "train drawn anew")
            return f"{', '.join(listed)} tokens"
    for run in study.record.runs_of(study.rule.baseline, scale):
        if run.result is not None:
            scored = [scores.get("tokens_scored") for scores in run.result.scores.get(study.split, {}).values()]
            if scored and scored[0]:
                return f"{words.number(scored[0])} tokens of {study.split} are scored"
    return ""


def _model(study: Study, settings: Settings, scale: str) -> str:
    if "model.kind" not in settings:
        return ""
    shape = {"layers": "block", "heads": "head"}
    parts = [_count(settings[f"model.{name}"], word) for name, word in shape.items() if f"model.{name}" in settings]
    if "model.width" in settings:
        parts.insert(1, f"width {words.number(settings['model.width'])}")
    size = study.sizes[scale].parameters
    parts += [f"{millions(size)} parameters"] if size else []
    return f"{settings['model.kind']}: {', '.join(parts)}" if parts else str(settings["model.kind"])


def _batch(settings: Settings) -> str:
    windows, tokens = settings.get("recipe.batch_windows"), settings.get("data.window_tokens")
    if not isinstance(tokens, int) or not isinstance(windows, int):
        return _count(windows, "window")
    return f"{_count(windows, 'window')} ({words.number(windows * tokens)} tokens)"


def _budget(study: Study, scale: str) -> str:
    """The budget: the costs of one run of the baseline, and the cost axis on which the arms are meant to be equal."""
    runs = [run.result for run in study.record.runs_of(study.rule.baseline, scale) if run.outcome == "done"]
    spent = []
    for axis in dict.fromkeys((study.rule.equal, "train_flops")):
        cost = COST_AXES[axis]
        values = [value for result in runs if result is not None and (value := result.cost(cost)) is not None]
        if values:
            meant = " (meant to be equal in all arms)" if axis == study.rule.equal else ""
            spent.append(f"{words.number(sum(values) / len(values))} {cost.title}{meant}")
    return ", ".join(spent)


def _of_scales(values: Mapping[str, str]) -> str:
    """The text for the values of all scales: one value if all scales agree, otherwise a value for each scale.

    With more than MOST_SCALES scales, the text gives only the first and the last scale.
    """
    if len(set(values.values())) == 1:
        return next(iter(values.values()))
    listed = [f"{scale}: {value}" for scale, value in values.items()]
    return "; ".join(listed) if len(listed) <= MOST_SCALES else f"{listed[0]}; … {listed[-1]}"


def _arm(study: Study, arm: ArmEntry, base: ArmEntry) -> dict[str, Any]:
    changes = [
        f"{path} {plain(before)} → {plain(after)}" if before is not None else f"{path} = {plain(after)}"
        for path, before, after in changes_against(arm, base)
        if path.rpartition(".")[2] not in UNCOUNTED and after is not None
    ]
    return {
        "name": arm.name,
        "colour": study.look.colours[arm.name],
        "note": arm.note,
        "changes": changes[:MOST_CHANGES] or [SAME_SETTING],
        "more": len(changes[MOST_CHANGES:]),
    }


def changes_against(arm: ArmEntry, base: ArmEntry) -> list[tuple[str, Any, Any]]:
    """The fields in which two arms differ, as tuples (path, value in `base`, value in `arm`).

    The entry of an arm stores how the arm differs from the experiment file's base. A change that both arms make is left out.
    """
    mine, other = ({path: (before, after) for path, before, after in one.diff} for one in (arm, base))
    pairs = {
        path: (other[path][1] if path in other else mine[path][0], mine[path][1] if path in mine else other[path][0])
        for path in (*mine, *(path for path in other if path not in mine))
    }
    return [(path, before, after) for path, (before, after) in pairs.items() if before != after]


def _options(settings: Settings, part: str) -> str:
    """The options of a part of the spec that are set, as text such as `vocabulary 10, length 12`."""
    prefix = f"{part}."
    leaves = {path.removeprefix(prefix): leaf for path, leaf in settings.items() if path.startswith(prefix)}
    options = {name: leaf for name, leaf in leaves.items() if name != "kind" and not isinstance(leaf, bool) and leaf}
    return ", ".join(
        f"{name.replace('_', ' ')} {plain(leaf)}" for name, leaf in options.items() if name not in UNCOUNTED
    )


def _count(value: Any, word: str) -> str:
    return words.plural(value, word) if isinstance(value, int) else f"{plain(value)} {word}s"


def _tokens(count: int) -> str:
    return millions(count) if count >= 100_000 else words.number(count)
