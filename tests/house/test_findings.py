"""The scripts that make the findings pages: what an interval allows to say."""

import contextlib
import importlib.util
import itertools
import json
import math
import sys
from pathlib import Path

import pytest

from palinode.analysis.compare import Comparison, Pair
from palinode.analysis.verdict import Rule
from palinode.base.finding import AuditReport, Finding
from synthetic_store import Synthetic, SyntheticArm, add_geometry, add_terms, make_store
from synthetic_tasks import SyntheticTask, TaskArm, make_task_store

FINDINGS = Path(__file__).parents[2] / "findings"


@contextlib.contextmanager
def loaded(name):
    """A script of findings/, imported from its folder as Python runs it; `sys.modules` is as before afterwards."""
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FINDINGS)
        spec = importlib.util.spec_from_file_location(f"findings_{name}", FINDINGS / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # where its dataclasses look for their annotations
        spec.loader.exec_module(module)
        yield module
    own = (key for key in set(sys.modules) - before if key == spec.name or (FINDINGS / f"{key}.py").exists())
    for key in list(own):
        del sys.modules[key]


@pytest.fixture(scope="module")
def arrows():
    with loaded("arrows") as module:
        yield module


TELLS_NOT = "cannot tell at this scale"


@pytest.mark.parametrize(
    ("intervals", "above", "within"),
    [
        ([(-0.001, 0.002), (0.004, 0.012)], "holds", "holds"),
        ([(-0.001, 0.002), (-0.004, 0.012)], TELLS_NOT, "holds"),
        ([(-0.001, 0.002), (-0.04, -0.01)], "does not hold", "holds"),
        ([(0.06, 0.09), (0.004, 0.012)], "holds", "does not hold"),
        ([(-0.9, -0.7), (-0.9, -0.7)], "does not hold", "does not hold"),  # the published mask
        ([(0.01, 0.09), (0.004, 0.012)], "holds", TELLS_NOT),
        ([(None, None), (None, None)], TELLS_NOT, TELLS_NOT),
        ([], TELLS_NOT, TELLS_NOT),
    ],
)
def test_the_verdict_on_the_arrow_follows_from_the_intervals(arrows, intervals, above, within):
    found = [arrows.Gap(16 * 2**i, 0.0, low, high, 3, None) for i, (low, high) in enumerate(intervals)]
    assert [claim.verdict for claim in arrows.judged(found, [])] == [above, within]
    assert {claim.verdict for claim in arrows.judged(found, ["ltr failed its audit: C1.flow"])} == {
        "cannot tell: ltr failed its audit: C1.flow"
    }


SIZE = "laptop"
SHARED = ("encdec", "encdec-mse", "encdec-sub", "encdec-mse8-sub")
EFFECTS = {  # nats added to the decoder's loss: as published but for the embedding loss, which here does harm
    "decoder": 0.0,
    "decoder-smaller": 0.01,
    "decoder-dropout": -0.02,
    "encdec": -0.01,
    "encdec-cosine": -0.01,
    "encdec-mse": 0.05,
    "encdec-sub": -0.06,
    "encdec-mse8-sub": -0.2,
    "encdec-mse-published": 0.05,
}


@pytest.fixture(scope="module")
def encdec():
    with loaded("encdec") as module:
        yield module


def encdec_store(root, names=("encdec", "encdec_parameters")):
    """The second experiment shares the runs of the encoder-decoders, and has a decoder of its own that is as good as they are."""
    for name in names:
        effects = (
            EFFECTS if name == "encdec" else {"decoder": -0.2, **{a: e for a, e in EFFECTS.items() if a in SHARED}}
        )
        arms = tuple(SyntheticArm(arm, effect_nats=effect) for arm, effect in effects.items())
        seeds = (1, 2, 3, 4, 5)
        store = make_store(root, Synthetic(name=name, size=SIZE, arms=arms, seeds=seeds, smallest_effect=0.005))
        if name == "encdec":
            add_geometry(store, name, without_positions=("decoder-dropout",))
            kinds = {"encdec-mse": "honest", "encdec-cosine": "honest", "encdec-mse-published": "collapse"}
            add_terms(store, name, kinds)
        else:
            first = {(run.arm, run.seed): run.run_id for run in store.entry("encdec").runs}
            entry = store.entry(name)
            runs = [run.with_(run_id=first[run.arm, run.seed]) if run.arm in SHARED else run for run in entry.runs]
            store.write_experiment(entry.with_(runs=tuple(runs)))
    return store


@pytest.fixture(scope="module")
def found(encdec, tmp_path_factory):
    records = encdec.records_of(encdec_store(tmp_path_factory.mktemp("encdec") / "runs"), SIZE)
    published = json.loads(encdec.PUBLISHED.read_text())
    numbers = encdec.numbers(records, published, dict.fromkeys(records))
    return records, published, numbers, list(encdec.lines(SIZE, records, numbers, published))


def test_the_claims_on_the_encoder_decoder_follow_from_the_runs(found):
    claims = {(c["comparison"], c["name"], c["arm"], c["against"]): c for c in found[2]["claims"]}
    combined, tokens = "encdec-mse8-sub", "encdec"
    verdicts = {key: claim["verdict"] for key, claim in claims.items()}
    assert verdicts.pop((tokens, "E2", "encdec-cosine", "encdec")) in (
        TELLS_NOT,
        "does not hold",
    )  # truly no difference
    assert verdicts.pop(("encdec_parameters", "E1", combined, "decoder")) in (TELLS_NOT, "does not hold")
    assert verdicts == {
        (tokens, "E1", combined, "decoder"): "holds",
        (tokens, "E1", combined, "decoder-smaller"): "holds",
        (tokens, "E2", "encdec-mse", "encdec"): "does not hold",
        (tokens, "E3", "encdec-sub", "encdec"): "holds",
        (tokens, "E4", combined, "encdec-sub"): "holds",
        (tokens, "E5", combined, "decoder-dropout"): "holds",
    }, "what has the same runs as before is not claimed twice"
    first = claims[tokens, "E1", combined, "decoder"]
    assert first["effect"] == pytest.approx(-0.2, abs=0.01)
    assert first["low"] < first["effect"] < first["high"]
    assert first["pairs"] == 5
    assert first["published"] == pytest.approx(3.378 - 3.424)
    assert claims[tokens, "E4", combined, "encdec-sub"]["published"] == pytest.approx(3.378 - 3.381)


def test_a_claim_on_runs_that_may_not_be_believed_is_not_made(encdec, tmp_path):
    store = encdec_store(tmp_path, names=("encdec",))
    finding = Finding(check="C1.perturbation", outcome="fail", law="l", message="sees itself")
    run = next(run for run in store.entry("encdec").runs if run.arm == "encdec-sub")
    store.write_run_audit(run.run_id, AuditReport(subject="encdec-sub", findings=(finding,)))
    records = encdec.records_of(store, SIZE)
    published = json.loads(encdec.PUBLISHED.read_text())
    [claim] = [c for c in encdec.numbers(records, published, dict.fromkeys(records))["claims"] if c["name"] == "E3"]
    assert claim["verdict"] == TELLS_NOT
    assert "sees its own answer" in claim["reasons"][0]
    assert set(records) == {"encdec"}, "comparisons that were not run are left out"


def test_runs_that_learned_nothing_of_the_order_of_tokens_are_told_nothing_of(encdec, found):
    records, published, honest, _ = found
    worst = max(honest["arms"]["encdec"], key=lambda row: row["validation"])
    numbers = encdec.numbers(records, published, {"encdec": worst["validation"], "encdec_parameters": None})
    told = {(c["comparison"], c["arm"], c["against"]): c for c in numbers["claims"]}
    for key, claim in told.items():
        before = next(c for c in honest["claims"] if (c["comparison"], c["arm"], c["against"]) == key)
        if key[0] == "encdec" and worst["arm"] in key:
            assert claim["verdict"] == TELLS_NOT
            assert worst["arm"] in claim["reasons"][0]
        else:
            assert claim == before
    assert any(claim["verdict"] == TELLS_NOT for claim in told.values())


def test_a_collapsed_term_has_no_affinity_beside_honest_ones(found):
    terms = {row["arm"]: row for row in found[2]["terms"]}
    assert set(terms) == {"encdec-mse", "encdec-cosine", "encdec-mse-published"}
    assert terms["encdec-mse-published"]["affinity"] is None
    honest = terms["encdec-mse"]
    assert honest["affinity"] == pytest.approx(1 - honest["last_value"] / 1.5)
    assert honest["last_gain"] == 1


def test_the_page_is_made_of_whole_tables(found):
    records, _, numbers, page = found
    assert json.loads(json.dumps(numbers, allow_nan=False))
    width = None
    for line in page:
        width = (width or line.count("|")) if line.startswith("|") else None
        assert width is None or line.count("|") == width, line
    text = "\n".join(page)
    for arm in EFFECTS:
        assert f"| {arm} |" in text
    for said in ("| holds |", "| does not hold |", "16,036,800", "4.14e-09", "python findings/encdec.py --size laptop"):
        assert said in text, said
    assert len(records) == 2
    asked = [
        line
        for line in page
        if line.startswith("| E1. The combined encoder-decoder has a lower loss than the decoder. | ")
    ]
    [short, tokens, parameters] = [line.split(" | ") for line in asked]
    for told, cell in ((tokens, short[-2]), (parameters, short[-1])):
        assert any(
            cell.startswith(f"{verdict}: ") for verdict in told if verdict in ("holds", "does not hold", TELLS_NOT)
        )
    [same] = [
        line for line in page if line.startswith("| E3. Subtracting the next position helps. | ") and "asked" in line
    ]
    assert same.endswith("not asked again |")


MIXERS = {"attention": -0.3, "h3": 0.0, "hyena": -0.1, "s4d": 0.2}  # mixer -> nats added on text


@pytest.fixture(scope="module")
def recall():
    with loaded("recall") as module:
        yield module


def recall_store(root, text=True, vocabularies=(10, 30)):
    """All learn vocabulary 10; at 30 those that train on answers alone stay at the trivial level, but for one seed of three."""
    arms = [
        TaskArm(
            f"{mixer}-{visibility}-{labels}",
            labels,
            objective,
            0.15 if labels == "all" and objective == "masked" else 0.0,
        )
        for mixer in MIXERS
        for visibility, objective in (("causal", "ltr"), ("full", "masked"))
        for labels in ("all", "answer")
    ]
    store = make_task_store(root, SyntheticTask(arms=tuple(arms), vocabularies=vocabularies))
    entry = store.entry("recall")
    store.write_experiment(entry.with_(decision={**entry.decision, "smallest_effect": 0.02}))
    if text:
        on_text = tuple(SyntheticArm(mixer, effect_nats=nats) for mixer, nats in MIXERS.items())
        make_store(root, Synthetic(name="recall_text", size=SIZE, arms=on_text, seeds=(1, 2, 3)))
    return store


@pytest.fixture(scope="module")
def recalled(recall, tmp_path_factory):
    records = recall.records_of(recall_store(tmp_path_factory.mktemp("recall") / "runs"), SIZE)
    numbers = recall.numbers(records, json.loads(recall.PUBLISHED.read_text()))
    return records, numbers, list(recall.lines(SIZE, records, numbers))


def claims_on(numbers, name, mixer, scale):
    found = [c for c in numbers["claims"] if (c["name"], c["mixer"], c["scale"]) == (name, mixer, scale)]
    return {claim["visibility"]: claim for claim in found}


def test_claims_on_recall_follow_from_the_runs(recalled):
    numbers = recalled[1]
    easy = claims_on(numbers, "R1", "h3", "v10")["full"]
    assert easy["verdict"] == "does not hold", "both learn it: no difference that matters"
    assert easy["low"] <= easy["effect"] <= easy["high"]
    assert (easy["arm"], easy["against"], easy["pairs"]) == ("h3-full-all", "h3-full-answer", 3)
    hard = claims_on(numbers, "R1", "h3", "v30")["causal"]
    assert hard["effect"] > 0.3
    assert hard["verdict"] == TELLS_NOT, "one seed of three learned it from answers too"
    assert claims_on(numbers, "R2", "h3", "v10")["trained on all"]["verdict"] == "holds"
    assert claims_on(numbers, "R1", "mean of mixers", "v30")["full"]["reasons"] == (f"mean of {', '.join(MIXERS)}",)


@pytest.mark.parametrize(
    ("low", "high", "only_all", "only_answer", "verdict"),
    [
        (0.4, 0.9, 0, 0, "holds"),
        (0.4, 0.9, 3, 0, "holds"),
        (0.4, 0.9, 0, 1, TELLS_NOT),
        (1.1, 2.0, 0, 1, "does not hold"),
        (1.1, 2.0, 1, 0, TELLS_NOT),
        (0.9, 1.1, 0, 0, TELLS_NOT),
        (None, None, 5, 0, TELLS_NOT),
        (0.5, 0.5, 0, 0, TELLS_NOT),
    ],
)
def test_who_learned_sooner_follows_from_the_interval_and_from_who_learned_at_all(
    recall, low, high, only_all, only_answer, verdict
):
    assert sys.modules["recall_numbers"].told_sooner(low, high, only_all, only_answer) == verdict


def test_sooner_is_counted_in_steps_seed_by_seed(recalled):
    numbers = recalled[1]
    learned = {(row["arm"], row["scale"]): row for row in numbers["learned"]}
    for row in numbers["sooner"]:
        arms = [learned[f"{row['mixer']}-{row['visibility']}-{labels}", row["scale"]] for labels in ("all", "answer")]
        assert row["both"] + row["only_all"] == arms[0]["learned"]
        assert row["both"] + row["only_answer"] == arms[1]["learned"]
        assert row["ratio"] is None or (row["both"] and row["ratio"] > 0)
    assert {(row["only_all"], row["both"]) for row in numbers["sooner"] if row["scale"] == "v30"} == {(2, 1)}


def test_at_the_ceiling_accuracy_says_nothing_of_what_is_easier(recall):
    module = sys.modules["recall_numbers"]
    rule = Rule(baseline="b", metric="validation.own.accuracy", better="higher", smallest_effect=0.02)

    def comparison(*values):
        pairs = tuple(Pair(seed, *both) for seed, both in enumerate(values))
        return Comparison("a", "b", "v10", rule.metric, 0.95, pairs)

    assert module.at_the_ceiling(comparison((1.0, 0.99), (0.99, 1.0)), rule)
    assert not module.at_the_ceiling(comparison((1.0, 0.97), (0.99, 0.98)), rule)
    assert not module.at_the_ceiling(comparison(), rule)


def test_arms_that_learned_nothing_allow_no_claim(recall, tmp_path):
    store = recall_store(tmp_path, text=False, vocabularies=(30,))
    seeds = [run for run in store.entry("recall").runs if run.seed != 2]  # without the seed that learned
    store.write_experiment(store.entry("recall").with_(runs=tuple(seeds), seeds=(1, 3)))
    records = recall.records_of(store, SIZE)
    numbers = recall.numbers(records, json.loads(recall.PUBLISHED.read_text()))
    claim = claims_on(numbers, "R2", "h3", "v30")["trained on answer"]
    assert claim["verdict"] == TELLS_NOT
    assert "without learning" in claim["reasons"][-1]
    [missing] = [c for c in numbers["claims"] if c["name"] == "R3"]
    assert (missing["verdict"], missing["pairs"]) == (TELLS_NOT, 0)
    assert "not trained on text" in "\n".join(recall.lines(SIZE, records, numbers))


def test_a_rank_correlation_is_that_of_ranks_with_ties(recall):
    module = sys.modules["recall_numbers"]
    assert module.spearman([(1, 10), (2, 20), (3, 900)]) == pytest.approx(1)
    assert module.spearman([(1, 3), (2, 2), (3, 1)]) == pytest.approx(-1)
    assert module.spearman([(1, 1), (1, 2), (2, 3)]) == pytest.approx(0.75**0.5)
    assert module.spearman([(1, 1), (1, 2)]) is None
    every = module.resampled_mixers([(1, 3), (2, 2), (3, 1)], 0.95)
    assert (every.low, every.high) == pytest.approx((-1, -1))
    assert module.resampled_mixers([(1, 1), (2, 2)], 0.95) is None


def test_resamples_of_mixers_are_counted_as_often_as_they_come(recall):
    """Against all 4^4 resamples in order, one by one."""
    module = sys.modules["recall_numbers"]
    rows = [(0.9, 2.0), (0.5, 1.0), (0.7, 3.0), (0.2, 1.5)]
    drawn = [module.spearman([rows[i] for i in chosen]) for chosen in itertools.product(range(4), repeat=4)]
    known = sorted(value for value in drawn if value is not None)
    found = module.resampled_mixers(rows, 0.5)
    assert found.low == pytest.approx(known[math.ceil(0.25 * len(known)) - 1])
    assert found.high == pytest.approx(known[math.ceil(0.75 * len(known)) - 1])


@pytest.mark.parametrize("count", [9, 10])
def test_as_many_mixers_as_there_are_have_an_interval(recall, count):
    module = sys.modules["recall_numbers"]
    falling = module.resampled_mixers([(place, -place) for place in range(count)], 0.95)
    assert (falling.low, falling.high) == pytest.approx((-1, -1))
    assert module.resampled_mixers([(place, place) for place in range(module.MOST_MIXERS + 1)], 0.95) is None


def test_a_mean_that_is_missing_says_why(recall):
    module = sys.modules["recall_numbers"]
    learned, ceiling, pairs = module.NOTHING_LEARNED, module.AT_THE_CEILING, module.NO_PAIRS
    assert module.why_no_mean([ceiling, ceiling], {}) == (ceiling,)
    assert module.why_no_mean([learned, ceiling], {}) == (learned, ceiling)
    assert module.why_no_mean([learned, pairs], {}) == (pairs,)
    assert module.why_no_mean([learned], {"h3": {}}) == (pairs,)


def test_recall_and_text_are_correlated_over_mixers(recalled):
    numbers = recalled[1]
    assert {row["mixer"] for row in numbers["text"]} == set(MIXERS)
    claims = [c for c in numbers["claims"] if c["name"] == "R3"]
    assert [c["scale"] for c in claims] == ["v10", "v30", "mean of scales"]
    for claim in claims:
        assert claim["pairs"] == 4
        assert -1 <= claim["effect"] <= 1
        assert (claim["low"], claim["verdict"]) == (None, TELLS_NOT)
        assert claim["reasons"] == ("an interval over mixers wants 6 of them",)


def test_few_mixers_would_claim_a_correlation_too_often(recall):
    """All orders of unrelated mixers: one side of a 95 % interval should be wrong 2.5 times in a hundred."""
    module = sys.modules["recall_numbers"]
    orders = list(itertools.permutations(range(3)))
    wrong = sum(module.resampled_mixers(list(enumerate(order)), 0.95).low > 0 for order in orders)
    assert wrong / len(orders) == pytest.approx(1 / 6)
    assert module.LEAST_MIXERS > 3


def test_missing_pairs_are_not_told_as_arms_that_learned_nothing(recall, tmp_path):
    store = recall_store(tmp_path, text=False, vocabularies=(10,))
    entry = store.entry("recall")
    left = [run for run in entry.runs if "-full-" not in run.arm or run.seed == 1]
    store.write_experiment(entry.with_(runs=tuple(left)))
    module = sys.modules["recall_numbers"]
    numbers = recall.numbers(recall.records_of(store, SIZE), json.loads(recall.PUBLISHED.read_text()))
    told = [c for c in numbers["claims"] if c["name"] == "R2" and c["mixer"] == module.ALL_MIXERS]
    assert {c["reasons"] for c in told} == {(module.NO_PAIRS,)}


def test_a_store_without_the_experiment_is_one_line(tmp_path, monkeypatch, capsys):
    for name in ("arrows", "encdec", "mask", "recall"):
        with loaded(name) as module:
            monkeypatch.setattr(sys, "argv", [name, "--store", str(tmp_path)])
            assert module.ending(module.main) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_published_accuracies_stand_beside_ours_with_chance(recalled):
    rows = {(row["arm"], row["scale"]): row for row in recalled[1]["accuracy"]}
    ours = rows["hyena-causal-all", "v10"]
    assert [(theirs["accuracy"], theirs["agrees"]) for theirs in ours["published"]] == [(1.0, None)], "another length"
    agrees = sys.modules["recall_numbers"].agrees
    theirs = {"accuracy": 0.9, "length": 40}
    assert [agrees(theirs, length, 0.91, 0.95, 0.02) for length in (40, 20)] == [True, None]
    assert agrees(theirs, 40, 0.95, 0.97, 0.02) is False
    assert agrees({"accuracy": 0.9, "length": None}, 40, 0.91, 0.95, 0.02) is None
    assert agrees(theirs, 40, -0.5, 1.5, 0.02) is None, "an interval that holds everything"
    assert agrees(theirs, 40, 0.85, 1.5, 0.02) is True, "no accuracy is above 1"
    missing = recalled[1]["not_run"]
    assert {"gss"} < {row["mixer"] for row in missing}, "no published accuracy is left out"
    assert ("hyena", 10) not in {(row["mixer"], row["vocabulary"]) for row in missing}
    assert (ours["chance"], ours["vocabulary"], ours["seeds"]) == (0.25, 10, 3)
    assert rows["hyena-causal-answer", "v10"]["published"] == []


def test_when_an_arm_learned_is_the_first_look_half_way(recalled):
    rows = {(row["arm"], row["scale"]): row for row in recalled[1]["learned"]}
    row = rows["h3-causal-all", "v10"]
    assert (row["learned"], row["seeds"]) == (3, 3)
    assert 200 <= row["step"] <= 300  # the jump is at step 180 + 20 seed
    assert rows["h3-causal-answer", "v30"]["learned"] == 1


def test_longer_sequences_are_scored_beside_those_of_training(recalled):
    _, numbers, page = recalled
    at_one = {(row["arm"], row["scale"]): row["accuracy"] for row in numbers["accuracy"]}
    assert {(row["arm"], row["scale"]) for row in numbers["longer"]} == set(at_one)
    for row in numbers["longer"]:
        assert list(row["accuracy"]) == ["1", "2", "4", "8"]
        assert row["accuracy"]["1"] == pytest.approx(at_one[row["arm"], row["scale"]])
        assert sorted(row["accuracy"].values(), reverse=True) == list(row["accuracy"].values())
    assert "## Longer than in training" in page


def test_the_page_of_recall_is_made_of_whole_tables(recalled):
    _, numbers, page = recalled
    assert json.loads(json.dumps(numbers, allow_nan=False))
    width = None
    for line in page:
        width = (width or line.count("|")) if line.startswith("|") else None
        assert width is None or line.count("|") == width, line
    text = "\n".join(page)
    for said in ("R1.", "R2.", "R3.", "25.0 % by chance", "Transformer: 92.0 %", "findings/recall.py --size laptop"):
        assert said in text, said


def test_every_page_that_a_script_makes_is_listed():
    listed = (FINDINGS / "README.md").read_text()
    assert all(f"findings/{script.name}" in listed for script in FINDINGS.glob("*.py"))


@pytest.fixture(scope="module")
def mask():
    with loaded("mask") as module:
        yield module


def mask_page(mask, root, unigram_nats=50.0, **changes):
    """The page of two experiments with two arms at two widths and two depths; the second has `changes`.

    Token frequencies alone reach `unigram_nats`; another text's do so at .5.
    """
    arms = (
        SyntheticArm("ltr"),
        SyntheticArm("both-05", effect_nats=0.04, rtl="honest", p=0.05),
        SyntheticArm("both-05-published-mask", effect_nats=0.04, rtl="leak", p=0.05, expect_leak=True),
    )
    scales = {f"{depth}x{width}": (depth, width) for depth in (2, 4) for width in (32, 64)}
    for name, more in (("mask", {}), ("mask_total", changes)):
        made = Synthetic(name=name, arms=arms, scales=tuple(scales), models=scales, command=COMMAND, **more)
        store = make_store(root, made)
    for run_id in store.run_ids():
        store.write_run_audit(run_id, floor("C8.text_floor", ngram_order=2, ngram_nats=1.5, ngram_train_tokens=10_000))
    for number, (train_tokens, frequencies) in enumerate([(20_000, 0.5), (10_000, unigram_nats)]):
        counted = {"nats_per_token_order_1": frequencies, "nats_per_token_order_2": 1.5, "train_tokens": train_tokens}
        store.write_audit(f"{number:064x}", floor("C8.reference", **counted))
    records = {name: store.experiment(f"{name}--laptop") for name in ("mask", "mask_total")}
    bars = {name: mask.token_frequencies(store, record) for name, record in records.items()}
    assert set(bars.values()) <= {unigram_nats, None}
    found = {name: mask.claims(record, bars[name]) for name, record in records.items()}
    return found, list(mask.lines("laptop", records, found, bars))


def floor(check, **numbers):
    """An audit that holds what counting reaches."""
    return AuditReport(
        subject="x", findings=(Finding(check=check, outcome="pass", law="", message="", numbers=numbers),), seconds=0
    )


COMMAND = ("palinode", "run", "an idea.py", "--store", "/here/runs", "--workers=2", "--set", "a=1", "--stack", "8")


def test_the_page_of_the_mask_says_what_the_runs_say(mask, tmp_path):
    found, page = mask_page(mask, tmp_path / "runs")
    m1, m2 = found["mask"][:2]
    assert m1.verdict == "does not hold"
    assert sys.modules["mask_numbers"].ALMOST_PERFECT < m1.low <= m1.effect <= m1.high < 0.2
    assert m2.seeds == 3
    assert sum("| both-05 | 2x32 | " in line and "worse" in line for line in page) == 2
    assert sum("LEAK: " in line for line in page) == 8
    assert len([line for line in page if line.startswith("| ltr | 4x64 |")]) == 2
    said = [line for line in page if line.startswith("Honest arms against the baseline: ")]
    worse = [line for line in page if line.endswith("| worse |")]
    assert sum(int(line.split(" lie above 0")[0].split()[-1]) for line in said) == len(worse) == 8


def test_an_rtl_loss_above_token_frequencies_says_nothing(mask, tmp_path):
    """Nothing was learned right to left: neither that it suffices nor that it does not."""
    found, page = mask_page(mask, tmp_path / "runs", unigram_nats=0.4)
    told = {claim.name: claim for claim in found["mask"]}
    assert told["M1"].effect is not None
    for name in ("M1", "M4"):
        assert (told[name].verdict, told[name].because) == (TELLS_NOT, sys.modules["mask_numbers"].UNLEARNED)
    assert not any(told[name].because for name in ("M2", "M3", "M5"))
    assert sum("Token frequencies alone reach 0.400 nats" in line for line in page) == 2


def test_what_is_not_measured_yet_is_left_empty(mask, tmp_path):
    every = {
        (arm, f"{d}x{w}", seed): "missing"
        for arm in ("ltr", "both-05")
        for d in (2, 4)
        for w in (32, 64)
        for seed in range(3)
    }
    found, page = mask_page(mask, tmp_path / "runs", outcomes=every)
    assert {claim.effect for claim in found["mask_total"]} == {None}
    assert {claim.verdict for claim in found["mask_total"]} == {TELLS_NOT}
    assert not any("nan" in line.lower().split() for line in page)


def test_a_command_is_repeated_without_what_is_local(mask, tmp_path):
    _, page = mask_page(mask, tmp_path / "runs")
    assert page.count("    palinode run 'an idea.py' --set a=1") == 2
