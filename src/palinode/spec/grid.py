"""Make the run specs of arms x scales x seeds, and check the arms: they must differ, but have the same evaluation and data."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from palinode.base.config import Config, content_hash, diff
from palinode.base.decision import FIXED, UNTIL_DECIDED, Decision
from palinode.base.errors import BadInput, check_known
from palinode.base.measures import LAST_WORD, OWN, PAIRS, RETRIEVERS
from palinode.results.record import ArmEntry
from palinode.spec.change import changed
from palinode.spec.experiment import DEFAULT_SIZE, Arm, Experiment, ResolvedExperiment, ResolvedRun, Scale, Size
from palinode.spec.names import checked, good_seeds
from palinode.spec.run_spec import RunSettings, RunSpec
from palinode.spec.start import refuse_arms
from palinode.spec.tuning import Tuning, trials

Cell = tuple[str, str]  # arm, scale
Layers = dict[str, Mapping[str, Any]]  # origin of a change -> dotted path -> value; the weakest origin comes first
# The fields of data and evaluation in which arms may differ: the amount of training text, and the extra scores at greater lengths.
# A model with a table of positions cannot have such extra scores.
NOT_COMPARED = frozenset(["data.max_train_tokens", "evaluation.length_factors"])


@dataclass(frozen=True)
class _Changes:
    """The changes to the base of an experiment that do not depend on the arm or the scale."""

    base: RunSettings
    size: Layers
    overrides: Mapping[str, Any]

    def settings(self, scale: Scale, arm: Arm | None) -> RunSettings:
        """The base after all layers of changes. The layers are applied together, so only the result has to be valid."""
        layers: Layers = {**self.size, f"scales.{scale.name}.change": scale.change}
        if arm is not None:
            layers[f"arms.{arm.name}.change"] = arm.change
            layers[f"arms.{arm.name}.at.{scale.name}"] = arm.at.get(scale.name, {})
        if self.overrides:
            layers["--set"] = self.overrides
        try:
            return changed(self.base, _merged(self.base, layers))
        except BadInput as error:
            error.field = _written_at(layers, error.field, error.message)
            raise


def expand(
    experiment: Experiment,
    size_name: str | None,
    overrides: Mapping[str, Any],
    seeds: tuple[int, ...] | None,
    runs_limit: int | None,
) -> ResolvedExperiment:
    """Resolve an experiment into runs: the work of `Experiment.resolve`."""
    size, claims = _size(experiment, size_name), experiment.claims
    if size.arms is not None:
        arms = tuple(arm for arm in experiment.arms if arm.name in size.arms)
        experiment = experiment.with_(arms=arms, sizes={}, claims=())
    scales = [scale for scale in experiment.scales if size.scales is None or scale.name in size.scales]
    planned = size.seeds or experiment.seeds
    if seeds is not None:
        planned = chosen_seeds = checked(good_seeds, seeds, field="--seeds")
    else:
        chosen_seeds = seeds_until_decided(experiment.decision) if planned == UNTIL_DECIDED else planned
    refuse_more_runs(len(experiment.arms) * len(scales) * len(chosen_seeds), runs_limit)
    size_layer = {f"sizes.{size_name}.change": size.change} if size_name else {}
    changes = _Changes(experiment.base, size_layer, overrides)
    settings = _all_settings(changes, experiment.arms, scales)
    _check_arms(experiment, scales, settings, overrides)
    runs = tuple(
        ResolvedRun(arm=arm.name, scale=scale.name, spec=RunSpec.of(settings[arm.name, scale.name], seed))
        for seed in chosen_seeds
        for scale in scales
        for arm in experiment.arms
    )
    resolved = ResolvedExperiment(
        name=experiment.name,
        size=size_name or DEFAULT_SIZE,
        question=experiment.question,
        about=experiment.about,
        decision=experiment.decision,
        arms=_arm_entries(changes, experiment.arms, scales[0], settings),
        scales=tuple(scale.name for scale in scales),
        seeds=chosen_seeds,
        runs=runs,
        tuning=size.tuning or experiment.tuning,
        claims=claims,
        seeds_planned=UNTIL_DECIDED if planned == UNTIL_DECIDED else FIXED,
    )
    refuse_arms(resolved)
    if resolved.tuning is not None:
        trials(resolved)  # check now that every trial is possible: an impossible trial raises an error
        _refuse_tuned_alike(resolved.tuning, scales, settings)
    return resolved


def refuse_more_runs(count: int, limit: int | None) -> None:
    """Refuse more runs than a limit; None: no limit.

    Raises:
        BadInput: there are more.
    """
    if limit is not None and count > limit:
        raise BadInput(f"{count:,} runs are more than {limit:,}", field="seeds", hint="add --yes to run them anyway")


def seeds_until_decided(decision: Decision) -> tuple[int, ...]:
    """The largest set of seeds of an experiment with `seeds = "until decided"`: 1, 2, 3 and so on."""
    return tuple(range(1, decision.looks.most + 1))


def _refuse_tuned_alike(tuning: Tuning, scales: Sequence[Scale], settings: Mapping[Cell, RunSettings]) -> None:
    """Refuse arms that differ only in the tuned setting: the same trials would choose the same value for each arm."""
    if not tuning.values:  # factors multiply the value of each arm, and these values differ
        return
    for scale in scales:
        at_scale = {arm: ours for (arm, at), ours in settings.items() if at == scale.name}
        of_arm = {arm: tuning.with_value(ours, tuning.values[0]) for arm, ours in at_scale.items()}
        for first, second in _equal(of_arm):
            who = f"arms {first!r} and {second!r} differ only in {tuning.field}"
            message = f"{who}, which is chosen for both by the same trials"
            raise BadInput(message, field="tuning.field", hint="give factors, or no tuning")


def _size(experiment: Experiment, name: str | None) -> Size:
    """A size by its name.

    Without a name, all scales are run; this is refused if each size has its own scales, because it would cost too much.
    """
    sizes = experiment.sizes
    if name is not None:
        check_known(name, sizes, what="size", field="--size", none="the experiment defines no sizes")
        return sizes[name]
    every = {scale.name for scale in experiment.scales}
    if len(sizes) > 1 and all(size.scales and set(size.scales) < every for size in sizes.values()):
        hint = f"choose: {', '.join(sizes)}"
        raise BadInput("each size has scales of its own, so one must be chosen", field="--size", hint=hint)
    return Size()


def _all_settings(changes: _Changes, arms: Sequence[Arm], scales: Sequence[Scale]) -> dict[Cell, RunSettings]:
    """The settings of every arm at every scale. If only some arms or scales refuse a change, the error names the first of them."""
    settings: dict[Cell, RunSettings] = {}
    refused: dict[Cell, BadInput] = {}
    for scale in scales:
        for arm in arms:
            try:
                settings[arm.name, scale.name] = changes.settings(scale, arm)
            except BadInput as refusal:
                refused[arm.name, scale.name] = refusal
    if not refused:
        return settings
    (arm_name, scale_name), first = next(iter(refused.items()))
    alike = {cell for cell, refusal in refused.items() if str(refusal) == str(first)}
    if len(alike) == len(scales) * len(arms) or (first.field or "").startswith("arms."):
        raise first
    at_every_scale = all((arm_name, scale.name) in alike for scale in scales)
    raise _refused_by(f"arm {arm_name!r}" + ("" if at_every_scale else f" at scale {scale_name!r}"), first)


def _arm_entries(
    changes: _Changes, arms: Sequence[Arm], scale: Scale, settings: Mapping[Cell, RunSettings]
) -> tuple[ArmEntry, ...]:
    """The entries of the arms.

    An entry holds the differences between the settings of the arm and the settings without any change by an arm.
    """
    try:
        plain = changes.settings(scale, None)
    except BadInput as refusal:
        raise _refused_by("the base", refusal) from None
    return tuple(
        ArmEntry(
            name=arm.name,
            expect_leak=arm.expect_leak,
            expect_collapse=arm.expect_collapse,
            note=arm.note,
            diff=tuple(diff(plain, settings[arm.name, scale.name])),
        )
        for arm in arms
    )


def _refused_by(who: str, refusal: BadInput) -> BadInput:
    """The error with the name of the arm that refuses a change which other arms accept."""
    everyone = "--set changes every arm" if (refusal.field or "").startswith("--set") else None
    refusal.hint = "; ".join(part for part in (everyone, refusal.hint) if part) or None
    refusal.message = f"{refusal.message}, in {who}"
    return refusal


def _merged(base: RunSettings, layers: Layers) -> dict[str, Any]:
    """One value for each path: the value of the strongest layer. Paths of weaker layers come first.

    A table of fields is split into its fields, so that two layers can change different fields of one table.
    """
    merged: dict[str, Any] = {}
    for change in layers.values():
        for written, value in change.items():
            for path, leaf in _flat(base, written, value):
                merged.pop(path, None)
                merged[path] = leaf
    return merged


def _flat(base: RunSettings, path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and "kind" not in value and isinstance(_at(base, path), Config):
        for name, inner in value.items():
            yield from _flat(base, f"{path}.{name}", inner)
    else:
        yield path, value


def _at(base: RunSettings, path: str) -> Any:
    """The value of the base at this path; None if the base has no such field."""
    value: Any = base
    for name in path.split("."):
        value = getattr(value, name, None) if isinstance(value, Config) else None
    return value


def _written_at(layers: Layers, field: str | None, message: str) -> str | None:
    """The place of the strongest change that sets a field, such as `arms.both.change.objective.p`.

    If a part refuses a combination of its fields, the place names those fields of the change that the message names, or else all
    fields of the change.
    """
    for origin, change in reversed(layers.items()):
        if field is None or not (paths := [path for path in change if _inside(path, field) or _inside(field, path)]):
            continue
        fields = [path for path in paths if _inside(path, field)]
        named = [path for path in fields if path.rpartition(".")[2] in re.findall(r"\w+", message)]
        place = ", ".join(named or fields) if len(fields) == len(paths) else field
        return f"{origin} {place}" if origin.startswith("--") else f"{origin}.{place}"
    return f"base.{field}" if field else next(reversed(layers))


def _inside(path: str, place: str) -> bool:
    """Whether a dotted path is equal to a place or leads to a field inside the place."""
    return f"{path}.".startswith(f"{place}.")


def _check_arms(
    experiment: Experiment,
    scales: Sequence[Scale],
    settings: Mapping[Cell, RunSettings],
    overrides: Mapping[str, Any],
) -> None:
    """Refuse arms or scales that resolve to the same runs, arms that cannot be compared, and a metric that no run measures."""
    decision = experiment.decision
    for scale in scales:
        of_arm = {arm.name: settings[arm.name, scale.name] for arm in experiment.arms}
        for name, ours in of_arm.items():
            _refuse_confounded(name, of_arm[decision.baseline], ours)
            _refuse_unmeasured(decision, name, ours)
        for first, second in _equal(of_arm):
            who = "the baseline" if decision.baseline in (first, second) else f"arm {first!r}"
            other = experiment.arm(first if second == decision.baseline else second)
            message = f"resolves to the same runs as {who}: nothing differs between them"
            hint = _replaced(other, scale, overrides)
            raise BadInput(message, field=f"arms.{other.name}.change", hint=hint)
    for first, second in _equal({scale.name: settings[decision.baseline, scale.name] for scale in scales}):
        raise BadInput(f"resolves to the same runs as scale {first!r}", field=f"scales.{second}.change")


def _replaced(arm: Arm, scale: Scale, overrides: Mapping[str, Any]) -> str | None:
    """A hint for an arm whose own change is replaced by the command line; None for other arms."""
    own = [*arm.change, *arm.at.get(scale.name, {})]
    replaced = [path for path in overrides if any(_inside(path, mine) or _inside(mine, path) for mine in own)]
    return f"what this arm changes is replaced by --set {', '.join(replaced)}" if replaced else None


def _equal(settings: Mapping[str, RunSettings]) -> Iterator[tuple[str, str]]:
    seen: dict[str, str] = {}
    for name, ours in settings.items():
        if (first := seen.setdefault(content_hash(ours), name)) != name:
            yield first, name


def _refuse_confounded(name: str, baseline: RunSettings, arm: RunSettings) -> None:
    """Refuse an arm that changes the evaluation or the data: such a change could cause the difference between the arms."""
    for part in ("evaluation", "data"):
        for path, _, _ in diff(getattr(baseline, part), getattr(arm, part)):
            if (field := f"{part}.{path}") not in NOT_COMPARED:
                message = f"changes what is evaluated ({field}), so arms could not be compared"
                hint = "make it a scale, or an experiment of its own"
                raise BadInput(message, field=f"arms.{name}.change", hint=hint)


def _refuse_unmeasured(decision: Decision, name: str, settings: RunSettings) -> None:
    """Refuse a metric that the runs of an arm do not measure."""
    split, direction, measure = decision.score
    evaluation, data = settings.evaluation, settings.data
    why, hint = None, None
    if direction in (PAIRS, LAST_WORD):
        missing = direction not in evaluation.of_sentences
        why, hint = ("is not measured", f"name a file in evaluation.{direction}") if missing else (None, None)
    elif direction in RETRIEVERS:
        asked = evaluation.retrieval.retrievers if evaluation.retrieval is not None else ()
        why = None if direction in asked else "is not measured"
        hint = "set evaluation.retrieval, with its reading" if why else None
    elif direction != OWN and direction not in evaluation.directions:
        why = f"is not measured: evaluation.directions lacks {direction!r}"
    elif direction != OWN and not settings.objective.reads_in_a_direction:
        why, hint = f"is not measured: arm {name!r} reads in no direction", f"use {split}.{OWN}.{measure}"
    elif split != "test" and split != evaluation.split:
        why = f"is not measured: evaluation.split is {evaluation.split!r}"
    elif split == "test" and not evaluation.test:
        why, hint = "is not measured", "set evaluation.test = true"
    elif split == "validation" and not data.keeps("validation"):
        why = "needs data.validation_fraction above 0"
    if why:
        raise BadInput(f"{decision.metric} {why}", field="decision.metric", hint=hint)
    if evaluation.test and not data.keeps("test"):
        raise BadInput("needs data.test_fraction above 0", field="evaluation.test")
