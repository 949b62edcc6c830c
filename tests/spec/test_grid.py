"""Arms x scales x seeds: what is expanded, which change wins, and which comparisons are refused."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palinode.base.config import decode, encode
from palinode.base.decision import Decision
from palinode.base.errors import BadInput
from palinode.data.task_store import TaskData
from palinode.data.tasks import AssociativeRecall
from palinode.objectives import OBJECTIVES
from palinode.objectives.directional import BothObjective
from palinode.spec.change import changed
from palinode.spec.experiment import Arm, Experiment, Scale, Size
from palinode.spec.run_spec import EvaluationConfig, RunSpec
from palinode.train.recipe import Speedrun


def with_arms(experiment, *changes, **fields):
    arms = (experiment.arms[0], *(Arm(name=f"arm{i}", change=change) for i, change in enumerate(changes)))
    return experiment.with_(arms=arms, **fields)


def refused(field, action) -> BadInput:
    with pytest.raises(BadInput) as caught:
        action()
    assert field in str(caught.value), str(caught.value)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return caught.value


def test_every_cell_once_and_all_arms_of_a_seed_together(experiment):
    runs = experiment.resolve().runs
    cells = [(run.seed, run.scale, run.arm) for run in runs]
    assert cells == list(itertools.product((1, 2, 3), ("d2", "d3"), ("ltr", "both")))
    assert len({run.spec.run_id for run in runs}) == 12
    assert [run.spec.model.layers for run in runs[:4]] == [2, 2, 3, 3]
    assert runs[1].spec.objective == BothObjective().with_(p=BothObjective().p.with_(p=0.25))


def test_a_size_picks_scales_seeds_and_budget(experiment):
    resolved = experiment.resolve("smoke")
    assert [(run.seed, run.scale, run.spec.recipe.steps) for run in resolved.runs] == [(7, "d2", 120)] * 2
    assert resolved.size == "smoke"
    assert experiment.resolve().size == "default"


def test_the_most_specific_change_of_one_path_wins(experiment):
    sized = experiment.with_(
        scales=(Scale(name="s", change={"recipe.steps": 300, "recipe.batch_windows": 8}),),
        seeds=(1,),
        sizes={"n": Size(change={"recipe.steps": 400, "recipe.batch_windows": 16, "recipe.micro_batches": 2})},
    )
    arms = with_arms(sized, {"recipe.steps": 250})
    first, second = (run.spec.recipe for run in arms.resolve("n", {"recipe.micro_batches": 4}).runs)
    assert (first.steps, first.batch_windows, first.micro_batches) == (300, 8, 4)
    assert (second.steps, second.batch_windows, second.micro_batches) == (250, 8, 4)


def test_a_field_set_by_a_size_holds_inside_a_part_that_an_arm_brings(experiment):
    arms = with_arms(experiment, {"recipe": Speedrun(steps=1000)})
    assert {run.spec.recipe.steps for run in arms.resolve("long").runs} == {500}


def test_only_the_result_must_make_sense_not_each_step_towards_it(experiment):
    # width 36 does not divide by 2 x 8 heads, nor 8 heads into width 36: both change at once
    arms = with_arms(experiment, {"model.heads": 8, "model.width": 64}, {"model.width": 36, "model.heads": 6})
    assert [run.spec.model.width for run in arms.resolve(seeds=(1,)).runs[:3]] == [32, 64, 36]


def test_the_diff_of_an_arm_is_what_it_changed(experiment):
    arms = with_arms(experiment, {"recipe.steps": 150}).resolve("long").arms
    assert arms[0].diff == ()
    assert arms[1].diff == (("recipe.steps", 500, 150),)


def test_a_kind_alone_chooses_the_part_with_its_defaults(experiment):
    for change in ({"objective": "both"}, {"objective.kind": "both"}, {"objective": {"kind": "both"}}):
        assert with_arms(experiment, change).resolve().runs[1].spec.objective == BothObjective()
    nested = with_arms(experiment, {"recipe": {"steps": 130, "schedule": {"warmup_steps": 7}}}).resolve().runs[1].spec
    assert (nested.recipe.steps, nested.recipe.schedule.warmup_steps, nested.recipe.batch_windows) == (130, 7, 4)


def test_tables_of_two_layers_both_hold_and_the_stronger_wins_field_by_field(experiment):
    scale = Scale(name="long", change={"recipe": {"steps": 70, "schedule": {"warmup_steps": 9}}})
    arms = with_arms(
        experiment, {"recipe": {"batch_windows": 2}}, {"recipe": {"steps": 90}, "recipe.log_every_steps": 3}
    )
    recipes = [run.spec.recipe for run in arms.with_(scales=(scale,), sizes={}).resolve(seeds=(1,)).runs]
    assert [(r.steps, r.batch_windows, r.schedule.warmup_steps) for r in recipes] == [
        (70, 4, 9),
        (70, 2, 9),
        (90, 4, 9),
    ]
    assert recipes[2].log_every_steps == 3
    set_too = arms.with_(scales=(scale,), sizes={}).resolve(seeds=(1,), overrides={"recipe": {"steps": 50}})
    assert {(run.spec.recipe.steps, run.spec.recipe.schedule.warmup_steps) for run in set_too.runs} == {(50, 9)}


def test_a_spec_survives_json_with_its_id(experiment):
    for run in experiment.resolve().runs:
        again = decode(RunSpec, encode(run.spec))
        assert again == run.spec
        assert again.run_id == run.spec.run_id


@given(seed=st.integers(0, 2**63 - 1))
def test_the_id_is_the_settings_and_the_seed(experiment_once, seed):
    spec = RunSpec.of(experiment_once, seed)
    assert len(spec.run_id) == 16
    assert spec.settings == experiment_once
    assert spec.run_id == RunSpec.of(experiment_once, seed).run_id
    assert spec.run_id != RunSpec.of(experiment_once, (seed + 1) % 2**63).run_id
    assert spec.run_id != RunSpec.of(experiment_once.with_(threads=2), seed).run_id


@pytest.fixture(scope="module")
def experiment_once():
    from palinode.data.config import DataConfig
    from palinode.models.decoder import DecoderConfig
    from palinode.spec.run_spec import RunSettings
    from palinode.train.recipe import Gpt2AdamW

    return RunSettings(data=DataConfig(), model=DecoderConfig(), objective=OBJECTIVES["ltr"](), recipe=Gpt2AdamW())


def test_changed_leaves_the_original_alone(experiment):
    before = encode(experiment.base)
    after = changed(experiment.base, {"model.width": 64, "threads": 2})
    assert (after.model.width, after.threads) == (64, 2)
    assert encode(experiment.base) == before


@pytest.mark.parametrize(
    ("change", "field", "hint"),
    [
        ({"model.layes": 3}, "arms.arm0.change.model.layes", "layers"),
        ({"modle.layers": 3}, "arms.arm0.change.modle.layers", "model"),
        ({"recipe.optimizer.learning_rat": 0.1}, "arms.arm0.change.recipe.optimizer.learning_rat", "learning_rate"),
        ({"objective": {"kind": "bth"}}, "arms.arm0.change.objective", "both"),
        ({"objective": {"kind": "both", "combin": "sum"}}, "arms.arm0.change.objective.combin", "combine"),
        ({"recipe.steps": "10Q"}, "arms.arm0.change.recipe.steps", "integer"),
        ({"recipe.steps": True}, "arms.arm0.change.recipe.steps", "integer"),
        ({"recipe.steps.more": 1}, "arms.arm0.change.recipe.steps", "no fields"),
        ({".": 1}, "arms.arm0.change", "unknown key"),
    ],
)
def test_a_wrong_change_names_where_it_was_written_and_the_nearest_name(experiment, change, field, hint):
    error = refused(field, with_arms(experiment, change).resolve)
    assert hint in str(error)


def test_a_change_for_all_arms_that_one_refuses_names_it(experiment):
    def message(overrides, of=experiment):
        return str(refused("--set", lambda: of.resolve(overrides=overrides)))

    assert message({"objective.p.p": 0.3}) == (
        "--set objective.p.p: unknown key 'p', in arm 'ltr' (--set changes every arm; valid: direction_token)"
    )
    assert ", in arm" not in message({"recipe.stps": 3})  # every arm refuses it: it is of none
    wide = Arm(name="wide", change={"model.width": 48}, at={"d3": {"model.width": 34}})
    three = experiment.with_(arms=(*experiment.arms, wide))
    assert "3 heads do not divide width 32, in arm 'ltr' (" in message({"model.heads": 3}, three)
    even = message({"model.heads": 16}, three.with_(arms=(experiment.arms[0], wide)))
    assert "16 heads do not divide width 34, in arm 'wide' at scale 'd3' (--set changes every arm)" in even


def test_a_change_that_only_the_base_refuses_says_so(experiment):
    arms = tuple(Arm(name=name, change={"objective": BothObjective(p=p)}) for name, p in (("ltr", 0.1), ("b", 0.2)))
    both = experiment.with_(arms=arms)
    error = refused("--set objective.granularity", lambda: both.resolve(overrides={"objective.granularity": "row"}))
    assert "in the base (--set changes every arm" in str(error)


@pytest.mark.parametrize(
    ("overrides", "place"),
    [
        ({"recipe.steps": 50}, "--set recipe.steps: schedule.warmup_steps"),
        ({"recipe.steps": 50, "recipe.log_every_steps": 3}, "--set recipe.steps: "),
        ({"recipe.steps": 150, "recipe.checkpoint_every_steps": 160}, "--set recipe.steps, recipe.checkpoint_every_"),
        ({"recipe": {"steps": 50}}, "--set recipe: schedule.warmup_steps"),
        (
            {"model.mixer": {"kind": "hyena"}, "model.qk_norm": True, "model.bias": True},
            "--set model.mixer, model.qk_norm: ",
        ),
    ],
)
def test_fields_that_do_not_go_together_are_those_given(experiment, overrides, place):
    assert str(refused("--set", lambda: experiment.resolve(overrides=overrides))).startswith(place)


def test_fields_of_an_arm_that_do_not_go_together_are_those_written(experiment):
    error = refused("arms.arm0", with_arms(experiment, {"recipe.steps": 50, "threads": 2}).resolve)
    assert error.field == "arms.arm0.change.recipe.steps"


def test_a_refusal_of_a_task_has_the_whole_path(experiment):
    task = experiment.base.with_(data=TaskData(task=AssociativeRecall(vocabulary=10, length=8)))
    recall = experiment.with_(base=task, sizes={}, arms=experiment.arms[:1])
    whole = {"kind": "associative-recall", "length": 1}
    for overrides in ({"data.task.length": 1}, {"data.task": whole}, {"data": {"task": whole}}):
        error = refused(
            "2 are needed: a key and a value", lambda overrides=overrides: recall.resolve(overrides=overrides)
        )
        assert error.field == "--set data.task.length"


def test_arms_that_the_command_line_makes_equal_say_so(experiment):
    error = refused(
        "arms.both.change", lambda: experiment.resolve(overrides={"objective": "both", "objective.p.p": 0.3})
    )
    assert error.hint == "what this arm changes is replaced by --set objective, objective.p.p"
    one = with_arms(experiment, {"recipe.steps": 300}).resolve
    error = refused("arms.arm0.change", lambda: one(overrides={"recipe.steps": 310, "threads": 2}))
    assert error.hint == "what this arm changes is replaced by --set recipe.steps"
    assert refused("arms.arm0.change", with_arms(experiment, {}).resolve).hint is None


def test_arms_that_are_the_same_runs_are_refused(experiment):
    refused("arms.arm0.change", with_arms(experiment, {}).resolve)
    same = with_arms(experiment, {"recipe.steps": 300}, {"recipe.steps": 300})
    assert "same runs as arm 'arm0'" in str(refused("arms.arm1.change", same.resolve))
    hidden = with_arms(experiment, {"recipe.steps": 300})
    refused("arms.arm0.change", lambda: hidden.resolve(overrides={"recipe.steps": 310}))
    two_scales = experiment.with_(scales=(Scale(name="a"), Scale(name="b")), sizes={})
    refused("scales.b.change", two_scales.resolve)


@pytest.mark.parametrize(
    "change",
    [
        {"data.corpus": "other.txt"},
        {"data.tokenizer": "char"},
        {"data.window_tokens": 64},
        {"data.validation_fraction": 0.1},
        {"evaluation.max_tokens": 10},
        {"evaluation": EvaluationConfig(directions=("ltr",))},
    ],
)
def test_an_arm_that_changes_the_test_is_refused(experiment, change):
    assert "evaluated" in str(refused("arms.arm0.change", with_arms(experiment, change).resolve))


def test_an_arm_may_have_less_to_train_on(experiment):
    assert with_arms(experiment, {"data.max_train_tokens": 1000}).resolve().runs[1].spec.data.max_train_tokens == 1000


def test_an_arm_may_be_scored_at_further_lengths(experiment):
    recall = {"data": TaskData(task=AssociativeRecall(vocabulary=10, length=8))}
    longer = with_arms(experiment.with_(sizes={}), {"evaluation.length_factors": (2,)})
    assert longer.resolve(overrides=recall).runs[1].spec.evaluation.length_factors == (2,)


def test_a_metric_must_be_measured(experiment):
    metric = experiment.decision.with_(metric="test.ltr.nats_per_token")
    assert "evaluation.test" in str(refused("decision.metric", experiment.with_(decision=metric).resolve))
    experiment.with_(decision=metric).resolve(overrides={"evaluation.test": True})
    rtl = experiment.with_(decision=experiment.decision.with_(metric="validation.rtl.bits_per_byte"))
    refused("decision.metric", lambda: rtl.resolve(overrides={"evaluation.directions": ["ltr"]}))


def test_what_decides_needs_something_to_be_scored_on(experiment):
    nothing = {"data.validation_fraction": 0.0}
    error = refused("decision.metric", lambda: experiment.resolve(overrides=nothing))
    assert error.message == "validation.ltr.nats_per_token needs data.validation_fraction above 0"
    test = {"evaluation.test": True, "data.test_fraction": 0.0}
    error = refused("evaluation.test", lambda: experiment.resolve(overrides=test))
    assert error.message == "needs data.test_fraction above 0"
    for overrides in (nothing | {"data.split": "given"}, test | {"data.split": "given"}, {"data.test_fraction": 0.0}):
        assert experiment.resolve(overrides=overrides).runs
    on_test = experiment.with_(decision=experiment.decision.with_(metric="test.ltr.nats_per_token"))
    assert on_test.resolve(overrides=nothing | {"evaluation.test": True}).runs
    task = TaskData(task=AssociativeRecall(vocabulary=10, length=8))
    assert experiment.with_(sizes={}).resolve(overrides={"data": task, "evaluation.test": True}).runs


def test_too_many_runs_need_a_yes_and_are_counted_before_they_are_made(experiment):
    many = tuple(range(10**6))
    error = refused("seeds", lambda: experiment.resolve(seeds=many, runs_limit=1000))
    assert "4,000,000" in str(error)
    assert "--yes" in str(error)
    assert len(experiment.resolve(seeds=(1, 2), runs_limit=8).runs) == 8


def test_sizes_with_scales_of_their_own_are_not_run_all_at_once(experiment):
    scales = tuple(Scale(name=name, change={"recipe.steps": steps}) for name, steps in (("small", 200), ("large", 300)))

    def with_sizes(**chosen):
        sizes = {name: Size(scales=of_it) for name, of_it in chosen.items()}
        return experiment.with_(scales=scales, sizes=sizes)

    with pytest.raises(BadInput, match="--size: each size has scales of its own") as caught:
        with_sizes(smoke=("small",), gpu=("large",)).resolve()
    assert "smoke, gpu" in str(caught.value.hint)
    for allowed in (with_sizes(smoke=("small",)), with_sizes(smoke=("small",), laptop=None)):
        assert set(allowed.resolve().scales) == {"small", "large"}
    assert with_sizes(smoke=("small",), gpu=("large",)).resolve("gpu").scales == ("large",)


def test_unknown_sizes_name_the_nearest(experiment):
    assert "smoke" in str(refused("--size", lambda: experiment.resolve("smokee")))


def test_decisions_that_make_no_sense(experiment):
    refused("decision.better", lambda: Decision(baseline="ltr", metric="validation.ltr.accuracy"))
    Decision(baseline="ltr", metric="validation.ltr.accuracy", better="higher")
    assert "0.95" in str(pytest.raises(ValueError, Decision, baseline="ltr", confidence=95.0).value)
    refused("decision.baseline", lambda: experiment.with_(decision=Decision(baseline="lrt")))
    leaking = (experiment.arms[0].with_(expect_leak=True), experiment.arms[1])
    refused("decision.baseline", lambda: experiment.with_(arms=leaking))


BAD_NAMES = ["", " a", "a ", "a/b", "a\\b", "..", "a..b", "-x", ".x", "x.", "a\0b", "a\nb", "CON", "nul.txt", "x" * 101]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_are_not_good_everywhere(name):
    with pytest.raises(ValueError, match="name"):
        Arm(name=name)
    with pytest.raises(ValueError, match="name"):
        Scale(name=name)


@pytest.mark.parametrize("name", ["both", "p=0.05", "<b>bold", "🐍 arm", "ltr + rtl", "a.b", "x" * 100])
def test_names_that_only_have_to_be_shown_are_free(name):
    assert Arm(name=name).name == name


@pytest.mark.parametrize("name", ["a b", "<x>", "a--b", "ä"])
def test_names_of_experiments_name_files(experiment, name):
    with pytest.raises(ValueError, match="name"):
        experiment.with_(name=name)
    refused("sizes", lambda: experiment.with_(sizes={name: Size()}))


def test_names_differ_in_more_than_case(experiment):
    refused("arms", lambda: experiment.with_(arms=(*experiment.arms, Arm(name="BOTH"))))
    refused("scales", lambda: experiment.with_(scales=(Scale(name="a"), Scale(name="a"))))
    refused("sizes", lambda: experiment.with_(sizes={"Smoke": Size(), "smoke": Size()}))


@pytest.mark.parametrize("name", ["default", "Default"])
def test_no_size_takes_the_name_of_a_run_without_one(experiment, name):
    """Both would be one entry of the store: the second would take the place of the first."""
    assert experiment.with_(sizes={}).resolve().size == "default"
    refused(f"sizes.{name}", lambda: experiment.with_(sizes={name: Size()}))


@pytest.mark.parametrize("seeds", [(), (1, 1), (-1,), (2**63,), (True,), ("1",), (1.0,)])
def test_bad_seeds(experiment, seeds):
    with pytest.raises(ValueError, match="seed"):
        experiment.with_(seeds=seeds)


def test_an_experiment_needs_arms_and_scales(experiment):
    for field, value in (("arms", []), ("scales", []), ("sizes.s.seeds", {"s": {"seeds": []}})):
        changes = {field.partition(".")[0]: value}
        caught = refused(field, lambda changes=changes: decode(Experiment, encode(experiment) | changes))
        assert caught.field == field
    refused("sizes.s.scales", lambda: experiment.with_(sizes={"s": Size(scales=("d9",))}))


def test_an_arm_has_another_shape_at_one_scale(experiment):
    wide = Arm(name="wide", change={"model.width": 64}, at={"d3": {"model.width": 96, "model.heads": 2}})
    runs = experiment.with_(arms=(experiment.arms[0], wide)).resolve().runs
    shapes = {(run.arm, run.scale): (run.spec.model.width, run.spec.model.heads) for run in runs}
    plain = experiment.resolve().settings(experiment.arms[0].name, "d2").model
    assert shapes["wide", "d2"] == (64, plain.heads)
    assert shapes["wide", "d3"] == (96, 2)
    refused("d2", lambda: experiment.with_(arms=(experiment.arms[0], wide.with_(at={"d22": {}}))))


def test_a_size_picks_arms_and_keeps_the_baseline(experiment):
    three = with_arms(
        experiment, {"recipe.steps": 300}, {"recipe.steps": 400}, sizes={"few": Size(arms=("ltr", "arm1"))}
    )
    resolved = three.resolve("few")
    assert [arm.name for arm in resolved.arms] == ["ltr", "arm1"]
    assert {run.arm for run in resolved.runs} == {"ltr", "arm1"}
    assert len(three.resolve().arms) == 3
    for arms, field in (((), "sizes.few.arms"), (("ltr", "arm9"), "arm9"), (("arm0",), "baseline")):
        refused(field, lambda arms=arms: three.with_(sizes={"few": Size(arms=arms)}))
