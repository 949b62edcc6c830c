"""`palinode plan`: the numbers are those the runs will show."""

import json
import platform
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quick_audit import no_audit_ahead, quick_audit_arm, quick_calibrate
from tiny_experiment import TOML

from palinode import Store
from palinode.base import user_settings
from palinode.cli.plan import plan_text
from palinode.experiment import audits, plan
from palinode.experiment.calibrate import Predicted, shares
from palinode.experiment.plan import MOST_ARMS_LISTED, Plan, PlannedCell, makespan
from palinode.sweep import executors


def planned(palinode, *options: str) -> dict:
    output = palinode("plan", "x.toml", "--json", *options)
    assert output.code == 0, output.err
    return json.loads(output.out)


def test_counters_follow_from_the_spec(palinode):
    Path("x.toml").write_text(TOML)
    data = planned(palinode, "--no-measure")
    ltr, both = data["cells"]
    windows = 4 * 2
    assert ltr["window_tokens"] == both["window_tokens"] == windows * 16
    assert ltr["tokens_read"] == windows * 16
    assert both["tokens_read"] == pytest.approx(windows * 16 * 1.5)
    assert ltr["tokens_scored_ltr"] == both["tokens_scored_ltr"] == windows * 16
    assert both["train_flops"] == pytest.approx(1.5 * ltr["train_flops"])
    assert (data["runs"], data["runs_left"], data["predicted_seconds"]) == (4, 4, None)
    assert data["disk_bytes"] > 4 * 12 * ltr["parameters"]
    first, second = data["warnings"]
    assert first.startswith("both: tokens_read +50.0%")
    assert "train_flops +50%" in second


def test_equal_arms_give_no_warning(palinode):
    text = TOML.replace('kind = "both"', 'kind = "choose"').replace("[decision]", '[decision]\nequal = "tokens_read"')
    Path("x.toml").write_text(text)
    data = planned(palinode, "--no-measure")
    (warning,) = data["warnings"]
    assert warning == "both differs from ltr in tokens_scored_ltr -50%"


ANSWERS = (
    TOML.replace("seeds = [1, 2]", "seeds = [1]")
    .replace('corpus = "text.txt"\nsplit = "contiguous"\nwindow_tokens = 16', "validation_sequences = 20")
    .replace("[base.model]", '[base.data.task]\nkind = "mad-recall"\nlength = 16\n\n[base.model]')
    .replace('kind = "ltr"', 'kind = "both"\ndirection_token = false\np = 0.5')
    .replace("steps = 4\nbatch_windows = 2", "steps = 8\nbatch_windows = 16")
    .replace("max_tokens = 400", 'labels = "answer"')
    .partition("[[arms]]")[0]
    + """
[[arms]]
name = "all"
[[arms]]
name = "answer"
change = { labels = "answer" }
[[arms]]
name = "last"
change = { labels = "last" }
[decision]
baseline = "all"
metric = "validation.own.accuracy"
better = "higher"
equal = "optimizer_steps"
"""
)


def test_the_slower_ways_of_this_machine_are_said(palinode, monkeypatch):
    Path("x.toml").write_text(TOML)
    assert not any("slower" in warning for warning in planned(palinode, "--no-measure")["warnings"])
    monkeypatch.setenv("PALINODE_NURSERY", "off")
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    assert planned(palinode, "--no-measure")["warnings"][-2:] == [
        "each step returns the memory that it frees, which is slower: MALLOC_ARENA_MAX is set",
        "each worker is started on its own, which is slower: PALINODE_NURSERY is off",
    ]


def test_labels_are_counted_as_a_run_scores_them(palinode, monkeypatch):
    monkeypatch.setattr(audits, "audit_arm", quick_audit_arm)
    monkeypatch.setattr(audits, "audit_ahead", no_audit_ahead)
    Path("x.toml").write_text(ANSWERS)
    output = {cell["arm"]: cell["tokens_scored_ltr"] for cell in planned(palinode, "--no-measure")["cells"]}
    done = palinode("run", "x.toml", "--workers", "1")
    assert done.code == 0, done.err
    for record in Store(Path("runs")).records():
        assert record.result
        expected = output.pop(record.spec["labels"])
        assert record.result.counters["tokens_scored_ltr"] == pytest.approx(expected, rel=0.1)
        assert (record.spec["labels"] == "last") == (expected == 8 * 16)
    assert not output


def test_many_differences_are_said_by_axis(palinode):
    arms = "".join(
        f'\n[[arms]]\nname = "wide{number}"\nchange = {{ "model.width" = {width} }}\n'
        for number, width in enumerate(range(18, 18 + 2 * (MOST_ARMS_LISTED + 1), 2))
    )
    Path("x.toml").write_text(TOML + arms)
    warnings = planned(palinode, "--no-measure")["warnings"]
    assert warnings[0].startswith("both: tokens_read +50.0%")
    (parameters,) = [line for line in warnings if line.startswith("parameters")]
    assert "(wide0 at base) to " in parameters
    assert f"in {MOST_ARMS_LISTED + 1} of {MOST_ARMS_LISTED + 3} settings" in parameters
    assert not any("wide1 differs" in line for line in warnings)


def test_an_arm_that_is_tuned_by_the_loss_of_a_pass_it_never_reads_is_named(palinode):
    text = TOML.replace("window_tokens = 16", "window_tokens = 16\ntuning_fraction = 0.1") + (
        '\n[[arms]]\nname = "backwards"\nchange = { objective = { kind = "rtl" } }\n'
        '\n[tuning]\nfield = "recipe.optimizer.learning_rate"\nvalues = [0.001, 0.002]\n'
    )
    Path("x.toml").write_text(text)
    (warning,) = [line for line in planned(palinode, "--no-measure")["warnings"] if "tuned by" in line]
    assert warning.startswith("backwards: tuned by the ltr loss, and never trained on it; Tuning(by_own_pass=True)")
    Path("x.toml").write_text(text + "by_own_pass = true\n")
    assert not any("tuned by" in line for line in planned(palinode, "--no-measure")["warnings"])


def test_parameters_are_those_of_the_model(palinode):
    from palinode.models.decoder import DecoderConfig

    Path("x.toml").write_text(TOML)
    model = DecoderConfig(layers=1, width=16, heads=2).build(256 + 11, 16, seed=1)
    assert planned(palinode, "--no-measure")["cells"][0]["parameters"] == sum(p.numel() for p in model.parameters())


def test_seconds_are_measured_and_shared_between_workers(palinode):
    Path("x.toml").write_text(TOML)
    data = planned(palinode, "--workers", "4")
    each = [cell["seconds"] for cell in data["cells"]]
    assert all(seconds > 0 for seconds in each)
    assert data["predicted_seconds"] == pytest.approx(max(each))
    assert all(cell["product_share"] > 0 for cell in data["cells"])
    text = palinode("plan", "x.toml", "--no-measure").out
    assert "product rate" not in text
    assert "4 of 4 runs are left to do" in text
    assert "warning: both" in text


@given(st.lists(st.floats(0, 1e4), max_size=20), st.integers(1, 8))
def test_makespan_is_between_its_bounds(seconds, workers):
    wall = makespan(seconds, workers)
    assert wall >= max([0.0, *seconds, sum(seconds) / workers - 1e-6])
    assert wall <= sum(seconds) / workers + max([0.0, *seconds]) + 1e-6
    assert makespan(seconds, 1) == pytest.approx(sum(seconds))


@given(st.integers(1, 30), st.integers(1, 8))
def test_every_setting_is_measured_and_no_process_idles(count, processes):
    given_out = shares(count, processes)
    assert {index for share in given_out for index in share} == set(range(count))
    assert len({len(share) for share in given_out}) == 1
    assert len(given_out) == processes


FAILS_LATER = """
from palinode import Arm, DataConfig, Decision, EvaluationConfig, Experiment, LtrObjective, RunSettings, Speedrun, modern

print("printed by the user's file")


class Late(LtrObjective):
    \"\"\"Works at first.\"\"\"

    def draw(self, windows, tokens, generator, progress):
        if progress.step == 2:
            raise ArithmeticError("not after step 2")
        return super().draw(windows, tokens, generator, progress)


base = RunSettings(
    data=DataConfig(corpus="text.txt", window_tokens=16, split="contiguous"),
    model=modern(layers=1, width=16, heads=2),
    objective=LtrObjective(),
    recipe=Speedrun(steps=4, batch_windows=2),
    evaluation=EvaluationConfig(max_tokens=200),
)
experiment = Experiment(
    name="late",
    question="What when an arm breaks?",
    base=base,
    arms=(Arm(name="ltr"), Arm(name="late", change={"objective": Late()})),
    seeds=(1,),
    decision=Decision(metric="validation.ltr.nats_per_token", baseline="ltr", better="lower", smallest_effect=0.1),
)
"""


def test_an_arm_that_cannot_be_measured_has_no_predicted_time(palinode):
    Path("x.py").write_text(FAILS_LATER)
    output = palinode("plan", "x.py", "--json", "--workers", "2")
    assert output.code == 0, output.err
    data = json.loads(output.out)
    ltr, late = data["cells"]
    assert ltr["seconds"] > 0
    assert late["seconds"] is None
    assert data["predicted_seconds"] is None
    assert "could not measure" in output.err
    assert "printed by the user's file" in output.err
    assert "ArithmeticError: not after step 2" in output.err


def test_trials_are_planned_with_the_runs(palinode):
    Path("x.toml").write_text(TOML)
    plain = planned(palinode, "--no-measure")
    tuning = '\n[tuning]\nvalues = [0.1, 0.01, 0.001]\nseeds = [3, 4]\n[tuning.change]\n"recipe.steps" = 2\n'
    Path("x.toml").write_text(TOML.replace("window_tokens = 16", "window_tokens = 16\ntuning_fraction = 0.1") + tuning)
    tuned = planned(palinode, "--workers", "1")
    assert (tuned["trials"], tuned["trials_left"], tuned["runs_left"]) == (2 * 3 * 2, 12, plain["runs_left"])
    assert tuned["disk_bytes"] == plain["disk_bytes"] * (1 + 12 / 4)
    seconds = sum(cell["seconds"] for cell in tuned["cells"])
    assert tuned["predicted_seconds"] == pytest.approx(2 * seconds + 6 * seconds / 2)
    assert "12 of 12 trials and 4 of 4 runs are left" in palinode("plan", "x.toml", "--no-measure").out


CONFIGURATION = """
[executor.lab]
kind = "slurm"
options = { partition = "cpu", cpus_per_task = 6, gpus_per_node = 4 }
price_per_hour = 3.0

[executor.whole]
kind = "slurm"

[executor.shared]
kind = "local"
processes = 2
parallel = "ddp"

[prices]
cpu = 0.5
currency = "EUR"
"""


@pytest.fixture
def lab(here, monkeypatch):
    """A configuration with engines; each run takes a second, and has two threads."""
    Path("x.toml").write_text(TOML)
    Path("config.toml").write_text(CONFIGURATION)
    monkeypatch.setattr(user_settings, "configuration_path", lambda: Path("config.toml"))
    monkeypatch.setattr(executors, "usable_cores", lambda: 8)
    monkeypatch.setattr(plan, "calibrate", quick_calibrate)
    return ("--set", "threads=2", "--seeds", "20")


@pytest.mark.parametrize(
    ("options", "line", "seconds", "cost"),
    [
        (
            ("--on", "lab", "--workers", "2"),
            "on lab: 2 workers with 3 slots, by the steps of this machine: about",
            7,
            3.0,
        ),
        (("--on", "local", "--workers", "2"), "on local: 2 workers with 2 slots, by the steps of", 10, 0.5),
        (("--on", "local", "--on-option", "cores=20"), "on local: 1 worker with 10 slots, by the steps of", 4, 0.5),
        (("--on", "ray", "--workers", "50"), "on ray: 50 workers with 1 slot, by the steps of", 1, 0.5),
        (("--on", "whole"), "is unknown, so no time is told (add cpus_per_task to its options)", None, None),
        (("--on", "shared"), "is unknown, so no time is told (the steps of a run that 2 processes share", None, None),
    ],
)
def test_a_plan_tells_the_time_and_the_cost_on_an_engine(palinode, lab, monkeypatch, options, line, seconds, cost):
    for package in executors.PACKAGES.values():
        pytest.importorskip(package)
    data = planned(palinode, *lab, *options)
    assert data["predicted_seconds"] == seconds
    told = palinode("plan", "x.toml", *lab, *options)
    (told_line,) = [one for one in told.out.splitlines() if one.startswith("on ")]
    assert line in told_line
    if cost is None:
        assert "cost" not in data
        assert data["on"]["slots"] is None
        return
    workers = min(data["on"]["workers"], 40)
    assert data["cost"] == pytest.approx(seconds / 3600 * cost * workers)
    assert (data["price_per_hour"], data["currency"]) == (cost, "EUR")
    assert told_line.endswith(f"about {data['cost']:.2f} EUR")


def test_a_plan_for_gpus_elsewhere_needs_none_here(palinode, lab):
    pytest.importorskip("submitit")
    assert palinode("plan", "x.toml", "--set", "device=cuda").code == 5
    told = palinode("plan", "x.toml", "--set", "device=cuda", "--on", "lab")
    assert told.code == 0, told.err
    assert "on lab: 1 worker with 4 slots; no step was timed here, so no time is told" in told.out.splitlines()
    Path("config.toml").write_text(CONFIGURATION.partition("[prices]")[0].replace("price_per_hour = 3.0", ""))
    told = palinode("plan", "x.toml", "--on", "lab")
    assert "; the cost is unknown (no price_per_hour in [executor.lab] of config.toml)\n" in told.out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--on", "lob"), "--on: 'lob' is none of local, slurm, ray, lab, whole, shared (did you mean 'lab'?)"),
        (("--on", "lab", "--on-option", "cpus_per_task=none"), "--on-option: cpus_per_task = 'none' is no number"),
        (("--on", "lab", "--on-option", "cpus_per_tusk=2"), "--on-option: slurm has no option 'cpus_per_tusk'"),
        (("--on-option", "cpus_per_task=2"), "--on-option: is an option of --on"),
    ],
)
def test_a_plan_refuses_what_is_no_engine_in_one_line(palinode, lab, options, words):
    pytest.importorskip("submitit")
    told = palinode("plan", "x.toml", *options)
    assert told.code == 2
    (line,) = told.err.splitlines()
    assert words in line


def test_a_plan_says_how_much_of_a_grid_it_measured():
    output = {count: plan_text(Plan((), 2, 60.0, (), 30, count), "tokens_read") for count in (12, 30)}
    assert "with 2 at a time (12 of 30 settings measured)" in output[12]
    assert "measured" not in output[30]


@pytest.fixture
def one_seed_ended(palinode, monkeypatch) -> None:
    """The store has a run of each arm of x.toml, and x.toml has two seeds more."""
    monkeypatch.setattr(audits, "audit_arm", quick_audit_arm)
    monkeypatch.setattr(audits, "audit_ahead", no_audit_ahead)
    Path("x.toml").write_text(TOML.replace("seeds = [1, 2]", "seeds = [1]"))
    assert palinode("run", "x.toml").code == 0
    Path("x.toml").write_text(TOML.replace("seeds = [1, 2]", "seeds = [1, 2, 3]"))


@pytest.mark.usefixtures("one_seed_ended")
def test_the_time_of_runs_that_have_ended_here_is_not_measured_again(palinode, monkeypatch):
    total = {run.entry.arm: run.result.seconds["total"] for run in Store("runs").experiment("tiny").runs}

    def never(cells, *args, **options):
        assert not cells
        return Predicted({}, 0, 0)

    with monkeypatch.context() as patch:
        patch.setattr(plan, "calibrate", never)
        data = planned(palinode)
        assert {cell["arm"]: cell["seconds"] for cell in data["cells"]} == total
        assert data["predicted_seconds"] == pytest.approx(makespan([*total.values()] * 2, data["workers"]))
        assert (data["settings"], data["settings_ended"], data["runs_left"]) == (0, 2, 4)
        assert "(for 2 settings from runs that have ended here)" in palinode("plan", "x.toml").out
        assert planned(palinode, "--no-measure")["predicted_seconds"] is None


@pytest.mark.usefixtures("one_seed_ended")
def test_the_time_of_runs_of_other_machines_is_not_used(palinode):
    of_a_pack, of_another = Path("runs").glob("*/hold-1.json")
    of_a_pack.unlink()
    of_another.write_text(of_another.read_text().replace(platform.node(), "another-machine"))
    data = planned(palinode)
    assert (data["settings"], data["settings_measured"], data["settings_ended"]) == (2, 2, 0)


@pytest.mark.parametrize(("tokenizer", "ids"), [("gpt2", 50_257), ("byte", 256), ("bpe:1024", 1024)])
def test_a_plan_needs_no_text_where_the_tokenizer_is_known(palinode, tokenizer, ids):
    """The counts are those of any text with this vocabulary; only the time needs the text."""
    from palinode.models.decoder import DecoderConfig

    absent = TOML.replace('"text.txt"', f'"wikitext-103"\ntokenizer = "{tokenizer}"').replace('"contiguous"', '"given"')
    Path("x.toml").write_text(absent)
    told = palinode("plan", "x.toml", "--json")
    assert told.code == 0, told.err
    [line] = told.err.splitlines()
    assert "`palinode data get wikitext-103`" in line
    assert "no time is predicted" in line
    ltr, both = json.loads(told.out)["cells"]
    model = DecoderConfig(layers=1, width=16, heads=2).build(ids + 11, 16, seed=1)
    assert ltr["parameters"] == sum(p.numel() for p in model.parameters())
    assert (ltr["tokens_read"], both["tokens_read"]) == (4 * 2 * 16, 4 * 2 * 16 * 1.5)
    assert json.loads(told.out)["predicted_seconds"] is None


def test_a_plan_whose_vocabulary_the_text_decides_is_refused_without_it(palinode):
    Path("x.toml").write_text(TOML.replace('"text.txt"', '"wikitext-103"\ntokenizer = "char"'))
    told = palinode("plan", "x.toml")
    assert told.code == 5
    assert "wikitext-103 is not on this machine" in told.err


def test_the_disk_of_a_plan_holds_no_checkpoint_that_is_never_made(palinode):
    """The runs of 4 steps make 4 checkpoints, however many are to be kept."""
    Path("x.toml").write_text(TOML)
    few, many = (planned(palinode, "--no-measure", "--set", f"recipe.keep_checkpoints={kept}") for kept in (4, 10**9))
    assert few["disk_bytes"] == many["disk_bytes"]


@pytest.mark.parametrize(
    ("shares", "line"),
    [((0.25, None, 0.5), ": 0.25 to 0.50"), ((0.4,), ": 0.40"), ((None,), None)],
    ids=["several cells", "one cell", "no cell was measured"],
)
def test_the_share_of_the_product_rate_is_given_from_smallest_to_largest(shares, line):
    cells = [
        PlannedCell("a", "base", 1, 1, 1.0, 1.0, 1.0, 1.0, 0.0, 1, 1, 1, 0, product_share=share) for share in shares
    ]
    lines = [
        text
        for text in plan_text(Plan(tuple(cells), 1, None, ()), "tokens_read").splitlines()
        if "product rate" in text
    ]
    assert lines == ([] if line is None else [f"share of the machine's product rate that a step reaches{line}"])
