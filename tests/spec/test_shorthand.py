"""`grid` gives the scales that one would write by hand, `arms_of` the arms; what cannot be meant is refused by name."""

import pytest

from palinode import Arm, BothObjective, LtrObjective, Scale, arms_of, grid, modern, p
from palinode.base.errors import BadInput


def test_a_grid_is_every_combination_and_the_last_setting_changes_fastest():
    assert grid(depth=(2, 4), width=(64, 128)) == tuple(
        Scale(name=f"{depth}x{width}", change={"model.layers": depth, "model.width": width})
        for depth in (2, 4)
        for width in (64, 128)
    )


def test_other_settings_are_named_and_any_path_may_be_given():
    scales = grid(width=(64, 32), depth=(2,), window_tokens=(16,), **{"recipe.optimizer.muon_rate": (0.01, 0.02)})
    assert [scale.name for scale in scales] == [
        f"2x{width}, window_tokens 16, muon_rate {rate}" for width in (64, 32) for rate in (0.01, 0.02)
    ]
    assert scales[0].change == {
        "model.width": 64,
        "model.layers": 2,
        "data.window_tokens": 16,
        "recipe.optimizer.muon_rate": 0.01,
    }
    assert [scale.name for scale in grid(depth=[1, 2])] == ["depth 1", "depth 2"]


def test_the_values_of_a_setting_are_arms():
    assert arms_of("objective.p.p", 0.1, 0.5) == (
        Arm(name="p=0.1", change={"objective.p.p": 0.1}),
        Arm(name="p=0.5", change={"objective.p.p": 0.5}),
    )
    parts = arms_of("objective", LtrObjective(), BothObjective(p=p.Constant(p=0.5)))
    assert [arm.name for arm in parts] == ["objective=ltr", "objective=both"]


def test_an_experiment_of_both_resolves(experiment):
    wide = experiment.with_(
        base=experiment.base.with_(model=modern(layers=1, width=16, heads=2)),
        scales=grid(depth=(1, 2), width=(16, 32)),
        arms=arms_of("recipe.batch_windows", 2, 4),
        decision=experiment.decision.with_(baseline="batch_windows=2", equal="window_tokens"),
        sizes={},
    )
    runs = wide.resolve(seeds=(1,)).runs
    assert {(run.arm, run.scale) for run in runs} == {
        (f"batch_windows={windows}", f"{depth}x{width}") for windows in (2, 4) for depth in (1, 2) for width in (16, 32)
    }
    assert {(run.spec.model.layers, run.spec.model.width, run.spec.recipe.batch_windows) for run in runs} == {
        (depth, width, windows) for windows in (2, 4) for depth in (1, 2) for width in (16, 32)
    }


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda: grid(), "grid: needs a setting"),
        (lambda: grid(dept=(2, 4)), "did you mean 'depth'"),
        (lambda: grid(depth=()), "grid.depth: has no values"),
        (lambda: grid(depth=4), "grid.depth: takes a list of values, got 4"),
        (lambda: grid(depth="24"), "grid.depth: takes a list of values"),
        (lambda: grid(depth=(2, 2)), "grid.depth: the value 2 is given twice"),
        (lambda: arms_of("model.width"), "arms_of model.width: has no values"),
        (lambda: arms_of("model.width", 64, 64), "the value 64 is given twice"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(wrong, told):
    with pytest.raises(BadInput) as refused:
        wrong()
    assert told in str(refused.value)
