"""Arms x scales x seeds -> run specs, and the rules between them: arms must differ, and be evaluated on the same data."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from palinode.base.config import Config, content_hash, diff
from palinode.base.decision import Decision
from palinode.base.errors import BadInput, nearest
from palinode.base.measures import OWN
from palinode.results.record import ArmEntry
from palinode.spec.change import changed
from palinode.spec.experiment import (
    DEFAULT_SIZE,
    Arm,
    Experiment,
    ResolvedExperiment,
    ResolvedRun,
    Scale,
    Size,
)
from palinode.spec.names import check_seeds
from palinode.spec.run_spec import RunSettings, RunSpec
from palinode.spec.tuning import Tuning, trials

Cell = tuple[str, str]  # arm, scale
Layers = dict[str, Mapping[str, Any]]  # where a change was written -> dotted path -> value, weakest first
# What arms may differ in although it lies in the data or the evaluation: what is trained on, and further scores at the end, which
# not every model can have (a table of positions ends somewhere).
NOT_COMPARED = frozenset(["data.max_train_tokens", "evaluation.length_factors"])


def expand(
    experiment: Experiment,
    size_name: str | None,
    overrides: Mapping[str, Any],
    seeds: tuple[int, ...] | None,
    runs_limit: int | None,
) -> ResolvedExperiment:
    """See `Experiment.resolve`."""
    size, claims = _size(experiment, size_name), experiment.claims
    if size.arms is not None:
        arms = tuple(arm for arm in experiment.arms if arm.name in size.arms)
        experiment = experiment.with_(arms=arms, sizes={}, claims=())
    scales = [scale for scale in experiment.scales if size.scales is None or scale.name in size.scales]
    chosen_seeds = seeds if seeds is not None else size.seeds if size.seeds is not None else experiment.seeds
    check_seeds(chosen_seeds, field="--seeds" if seeds is not None else "seeds")
    _refuse_too_many(len(experiment.arms) * len(scales) * len(chosen_seeds), runs_limit)
    size_layer = {f"sizes.{size_name}.change": size.change} if size_name else {}
    settings = _all_settings(experiment, size_layer, scales, overrides)
    _check_arms(experiment, scales, settings, overrides)
    runs = tuple(
        ResolvedRun(arm=arm.name, scale=scale.name, spec=RunSpec.of(settings[arm.name, scale.name], seed))
        for seed in chosen_seeds
        for scale in scales
        for arm in experiment.arms
    )
    tuning = size.tuning or experiment.tuning
    plain = _plain_settings(experiment.base, size_layer, scales[0], overrides)
    resolved = ResolvedExperiment(
        name=experiment.name,
        size=size_name or DEFAULT_SIZE,
        question=experiment.question,
        decision=experiment.decision,
        arms=tuple(_resolved_arm(arm, plain, settings[arm.name, scales[0].name]) for arm in experiment.arms),
        scales=tuple(scale.name for scale in scales),
        seeds=chosen_seeds,
        runs=runs,
        tuning=tuning,
        claims=claims,
    )
    if tuning is not None:
        trials(resolved)  # a trial that cannot be is said now
        _refuse_tuned_alike(tuning, scales, settings)
    return resolved


def _refuse_tuned_alike(tuning: Tuning, scales: Sequence[Scale], settings: Mapping[Cell, RunSettings]) -> None:
    """Arms that differ only in the setting that is then chosen for each by the same trials are one arm."""
    if not tuning.values:  # factors are of each arm's own value
        return
    for scale in scales:
        of_arm = {
            arm: tuning.with_value(ours, tuning.values[0]) for (arm, at), ours in settings.items() if at == scale.name
        }
        for first, second in _equal(of_arm):
            raise BadInput(
                f"arms {first!r} and {second!r} differ only in {tuning.field}, which is chosen for both by the same trials",
                field="tuning.field",
                hint="give factors, or no tuning",
            )


def _size(experiment: Experiment, name: str | None) -> Size:
    if name is None:
        _refuse_all_sizes_at_once(experiment)
        return Size()
    if name not in experiment.sizes:
        hint = nearest(name, experiment.sizes) or "the experiment defines no sizes"
        raise BadInput(f"no size is named {name!r}", field="--size", hint=hint)
    return experiment.sizes[name]


def _refuse_all_sizes_at_once(experiment: Experiment) -> None:
    """Where every size takes scales of its own, all of them together are a smoke test and a cluster's work in one."""
    every = {scale.name for scale in experiment.scales}
    taken = [set(size.scales) if size.scales is not None else every for size in experiment.sizes.values()]
    if len(taken) > 1 and all(scales < every for scales in taken):
        names = ", ".join(experiment.sizes)
        raise BadInput(
            "each size has scales of its own, so one must be chosen", field="--size", hint=f"choose: {names}"
        )


def _refuse_too_many(runs: int, runs_limit: int | None) -> None:
    if runs_limit is not None and runs > runs_limit:
        raise BadInput(
            f"{runs:,} runs are more than {runs_limit:,}", field="seeds", hint="add --yes to run them all the same"
        )


def _all_settings(
    experiment: Experiment, size_layer: Layers, scales: list[Scale], overrides: Mapping[str, Any]
) -> dict[Cell, RunSettings]:
    """The settings of every arm at every scale; a change that only some of them refuse is said of the first that does."""
    settings: dict[Cell, RunSettings] = {}
    refused: dict[Cell, BadInput] = {}
    for scale in scales:
        for arm in experiment.arms:
            try:
                settings[arm.name, scale.name] = _settings(experiment.base, size_layer, scale, arm, overrides)
            except BadInput as refusal:
                refused[arm.name, scale.name] = refusal
    if not refused:
        return settings
    (arm_name, scale_name), first = next(iter(refused.items()))
    alike = {cell for cell, refusal in refused.items() if str(refusal) == str(first)}
    if len(alike) == len(scales) * len(experiment.arms) or (first.field or "").startswith("arms."):
        raise first
    at_every_scale = all((arm_name, scale.name) in alike for scale in scales)
    raise _said_of(f"arm {arm_name!r}" + ("" if at_every_scale else f" at scale {scale_name!r}"), first)


def _plain_settings(base: RunSettings, size_layer: Layers, scale: Scale, overrides: Mapping[str, Any]) -> RunSettings:
    """What arms are told apart from: the base with every change but theirs."""
    try:
        return _settings(base, size_layer, scale, None, overrides)
    except BadInput as refusal:
        raise _said_of("the base", refusal) from None


def _said_of(who: str, refusal: BadInput) -> BadInput:
    """The refusal of a change that others take: who refuses it."""
    everyone = "--set changes every arm" if (refusal.field or "").startswith("--set") else None
    refusal.hint = "; ".join(told for told in (everyone, refusal.hint) if told) or None
    refusal.message = f"{refusal.message}, in {who}"
    return refusal


def _settings(
    base: RunSettings, size_layer: Layers, scale: Scale, arm: Arm | None, overrides: Mapping[str, Any]
) -> RunSettings:
    """The base with every layer of changes applied at once, so that only the result has to make sense."""
    layers: Layers = {**size_layer, f"scales.{scale.name}.change": scale.change}
    if arm is not None:
        layers[f"arms.{arm.name}.change"] = arm.change
        layers[f"arms.{arm.name}.at.{scale.name}"] = arm.at.get(scale.name, {})
    if overrides:
        layers["--set"] = overrides
    try:
        return changed(base, _merged(base, layers))
    except BadInput as error:
        error.field = _written_at(layers, error.field, error.message)
        raise


def _merged(base: RunSettings, layers: Layers) -> dict[str, Any]:
    """One value per path, the strongest layer's, in the order of strength.

    A table of fields counts field by field, as dotted paths do: two layers that each change another one both hold.
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
    """What the base holds there; None where it has no such field."""
    found: Any = base
    for name in path.split("."):
        found = getattr(found, name, None) if isinstance(found, Config) else None
    return found


def _written_at(layers: Layers, field: str | None, message: str) -> str | None:
    """The place of the strongest change that concerns a field: `arms.both.change.objective.p`.

    A part refuses how its fields go together: then the place is that of the fields given, those that the message names.
    """
    for origin, change in reversed(layers.items()):
        if field is None or not (given := [path for path in change if _inside(path, field) or _inside(field, path)]):
            continue
        fields = [path for path in given if _inside(path, field)]
        named = [path for path in fields if path.rpartition(".")[2] in re.findall(r"\w+", message)]
        place = ", ".join(named or fields) if len(fields) == len(given) else field
        return f"{origin} {place}" if origin.startswith("--") else f"{origin}.{place}"
    return f"base.{field}" if field else next(reversed(layers))


def _inside(path: str, place: str) -> bool:
    """Whether a dotted path is a place or leads to something in it."""
    return f"{path}.".startswith(f"{place}.")


def _check_arms(
    experiment: Experiment,
    scales: list[Scale],
    settings: Mapping[Cell, RunSettings],
    overrides: Mapping[str, Any],
) -> None:
    decision = experiment.decision
    for scale in scales:
        of_arm = {arm.name: settings[arm.name, scale.name] for arm in experiment.arms}
        for name, ours in of_arm.items():
            _refuse_confounded(name, of_arm[decision.baseline], ours)
            _refuse_unmeasured(decision, name, ours)
        for first, second in _equal(of_arm):
            who = "the baseline" if decision.baseline in (first, second) else f"arm {first!r}"
            other = experiment.arm(first if second == decision.baseline else second)
            raise BadInput(
                f"resolves to the same runs as {who}: nothing differs between them",
                field=f"arms.{other.name}.change",
                hint=_replaced(other, scale, overrides),
            )
    for first, second in _equal({scale.name: settings[decision.baseline, scale.name] for scale in scales}):
        raise BadInput(f"resolves to the same runs as scale {first!r}", field=f"scales.{second}.change")


def _replaced(arm: Arm, scale: Scale, overrides: Mapping[str, Any]) -> str | None:
    """What to say where the command line takes the place of an arm's own change."""
    own = [*arm.change, *arm.at.get(scale.name, {})]
    taken = [path for path in overrides if any(_inside(path, mine) or _inside(mine, path) for mine in own)]
    return f"what this arm changes is replaced by --set {', '.join(taken)}" if taken else None


def _equal(settings: Mapping[str, RunSettings]) -> Iterator[tuple[str, str]]:
    seen: dict[str, str] = {}
    for name, ours in settings.items():
        if (first := seen.setdefault(content_hash(ours), name)) != name:
            yield first, name


def _refuse_confounded(name: str, baseline: RunSettings, arm: RunSettings) -> None:
    """An arm may change how one trains, never what one is tested on: the difference would be the test's."""
    for part in ("evaluation", "data"):
        for path, _, _ in diff(getattr(baseline, part), getattr(arm, part)):
            if (field := f"{part}.{path}") not in NOT_COMPARED:
                raise BadInput(
                    f"changes what is evaluated ({field}), so arms could not be compared",
                    field=f"arms.{name}.change",
                    hint="make it a scale, or an experiment of its own",
                )


def _refuse_unmeasured(decision: Decision, name: str, settings: RunSettings) -> None:
    split, direction, measure = decision.score
    if direction != OWN and direction not in settings.evaluation.directions:
        raise BadInput(
            f"{decision.metric} is not measured: evaluation.directions lacks {direction!r}", field="decision.metric"
        )
    if direction != OWN and not settings.objective.reads_in_a_direction:
        told = f"{decision.metric} is not measured: arm {name!r} reads in no direction"
        raise BadInput(told, field="decision.metric", hint=f"use {split}.{OWN}.{measure}")
    if split in ("validation", "tuning") and split != settings.evaluation.split:
        told = f"{decision.metric} is not measured: evaluation.split is {settings.evaluation.split!r}"
        raise BadInput(told, field="decision.metric")
    if split == "test" and not settings.evaluation.test:
        raise BadInput(f"{decision.metric} is not measured", field="decision.metric", hint="set evaluation.test = true")
    if split == "validation" and not settings.data.keeps("validation"):
        raise BadInput(f"{decision.metric} needs data.validation_fraction above 0", field="decision.metric")
    if settings.evaluation.test and not settings.data.keeps("test"):
        raise BadInput("needs data.test_fraction above 0", field="evaluation.test")


def _resolved_arm(arm: Arm, plain: RunSettings, settings: RunSettings) -> ArmEntry:
    return ArmEntry(
        name=arm.name,
        expect_leak=arm.expect_leak,
        expect_collapse=arm.expect_collapse,
        note=arm.note,
        diff=tuple(diff(plain, settings)),
    )
