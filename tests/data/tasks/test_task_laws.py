"""Vectorised tasks have the distribution of straightforward loops: chi-square over many statistics, which a wrong loop fails."""

import importlib.util
import sys
from collections import Counter
from pathlib import Path

import pytest
from scipy.stats import chi2_contingency

from palinode.base.seeds import generator
from palinode.data.tasks import (
    AssociativeRecall,
    InductionHead,
    MadFuzzyRecall,
    MadNoisyRecall,
    MadRecall,
    MultiQueryRecall,
    SelectiveCopy,
)

COUNT = 4000
LEAST_P = 1e-4
LEAST_CELL = 10


@pytest.fixture(scope="module")
def loops():
    """The loops that benchmarks/task_generation.py times."""
    path = Path(__file__).parents[3] / "benchmarks" / "task_loops.py"
    spec = importlib.util.spec_from_file_location("benchmark_task_loops", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def p_value(left, right):
    """That two lists of outcomes come from one law; outcomes seen fewer than 2 x 10 times are one."""
    counts = Counter(left), Counter(right)
    common = [kind for kind in counts[0] | counts[1] if counts[0][kind] + counts[1][kind] >= 2 * LEAST_CELL]
    rows = [[count[kind] for kind in common] + [sum(count.values())] for count in counts]
    for row in rows:
        row[-1] -= sum(row[:-1])
    if rows[0][-1] + rows[1][-1] < 2 * LEAST_CELL:  # too few rare ones for a cell: the largest takes them
        for row in rows:
            row[0] += row.pop()
    return 1.0 if len(rows[0]) == 1 else chi2_contingency(rows).pvalue


def compared(statistics, task, drawn, rng_name="law"):
    """p by statistic: our sample against the loop's sequences."""
    ours = task.sample(COUNT, generator(0, rng_name)).tokens.tolist()
    return {name: p_value([f(row) for row in ours], [f(row) for row in drawn]) for name, f in statistics.items()}


def pairs_of(task, row):
    width = task.key_tokens + 1
    return [(tuple(row[i : i + width - 1]), row[i + width - 1]) for i in range(0, task.pairs * width, width)]


def recall_statistics(task):
    width = task.key_tokens + 1

    def query(row):
        return tuple(row[-width:-1])

    def keys(row):
        return [key for key, _ in pairs_of(task, row)]

    def gap(row):
        return keys(row)[::-1].index(query(row)) if query(row) in keys(row) else -1

    return {
        "first_key": lambda row: keys(row)[0],
        "first_value": lambda row: pairs_of(task, row)[0][1],
        "last_key": lambda row: keys(row)[-1],
        "query": query,
        "answer": lambda row: row[-1],
        "gap": gap,
        "first_place_of_query": lambda row: keys(row).index(query(row)) if query(row) in keys(row) else -1,
        "times_query_shown": lambda row: keys(row).count(query(row)),
        "distinct_keys": lambda row: len(set(keys(row))),
        "distinct_values": lambda row: len({value for _, value in pairs_of(task, row)}),
        "keys_that_repeat_at_once": lambda row: sum(a == b for a, b in zip(keys(row), keys(row)[1:], strict=False)),
    }


RECALL = {
    "plain": AssociativeRecall(vocabulary=10, length=20),
    "sorted": AssociativeRecall(vocabulary=20, length=8),  # more keys than a table is drawn for
    "two_tokens": AssociativeRecall(vocabulary=8, length=24, key_tokens=2),
    "dot": AssociativeRecall(vocabulary=10, length=12, allow_dot=True),
    "odd": AssociativeRecall(vocabulary=9, length=16),
}


@pytest.mark.parametrize("task", RECALL.values(), ids=RECALL)
def test_associative_recall(task, loops):
    dice = loops.PlainDice(1)
    p_values = compared(recall_statistics(task), task, [loops.associative_recall(task, dice) for _ in range(COUNT)])
    assert len(p_values) >= 8
    assert min(p_values.values()) > LEAST_P, p_values


def test_m45_a_query_by_frequency_is_caught(loops):
    dice, task = loops.PlainDice(1), RECALL["plain"]
    wrong = [loops.associative_recall(task, dice, query_by_frequency=True) for _ in range(COUNT)]
    p_values = compared(recall_statistics(task), task, wrong)
    caught = {name for name, p in p_values.items() if p < LEAST_P}
    assert {"times_query_shown", "gap"} <= caught
    assert len(caught) < len(p_values)  # the marginals look innocent: one statistic is not enough


@pytest.mark.parametrize("triggers", [1, 3])
@pytest.mark.parametrize("answer_tokens", [1, 2])
def test_induction_head(triggers, answer_tokens, loops):
    task = InductionHead(vocabulary=8, length=14, triggers=triggers, answer_tokens=answer_tokens)
    trigger, dice = task.vocabulary - 1, loops.PlainDice(2)

    def places(row):
        return [i for i, token in enumerate(row) if token == trigger]

    statistics = {
        "first_trigger": lambda row: places(row)[0],
        "last_trigger": lambda row: places(row)[-2],
        "triggers": lambda row: len(places(row)),
        "places": lambda row: tuple(places(row)) if triggers == 1 else tuple(places(row)[:2]),
        "answer": lambda row: tuple(row[-answer_tokens:]),
        "first_token": lambda row: row[0],
        "token_before": lambda row: row[places(row)[0] - 1] if places(row)[0] else -1,
        "times_answer_occurs": lambda row: row.count(row[-1]),
        "last_random_token": lambda row: row[task.length - 1],
        "distinct": lambda row: len(set(row)),
    }
    p_values = compared(statistics, task, [loops.induction_head(task, dice) for _ in range(COUNT)])
    assert min(p_values.values()) > LEAST_P, p_values


@pytest.mark.parametrize(
    "task",
    [
        MultiQueryRecall(vocabulary=64, length=40, pairs=3),
        MultiQueryRecall(vocabulary=12, length=32, pairs=5, passes=2, filler="uniform"),
        MultiQueryRecall(vocabulary=40, length=36, pairs=6, power=0.5),
    ],
    ids=["sparse", "dense", "flatter"],
)
def test_mqar(task, loops):
    dice, shown = loops.PlainDice(3), 2 * task.pairs * task.passes

    def asked_at(row, pair):
        return next(i for i in range(shown, task.length, 2) if row[i : i + 2] == row[2 * pair : 2 * pair + 2])

    statistics = {
        "first_pair_asked_at": lambda row: asked_at(row, 0),
        "second_pair_asked_at": lambda row: asked_at(row, 1),
        "last_pair_asked_at": lambda row: asked_at(row, task.pairs - 1),
        "order_of_queries": lambda row: tuple(sorted(range(min(3, task.pairs)), key=lambda pair: asked_at(row, pair))),
        "first_key": lambda row: row[0],
        "last_key": lambda row: row[2 * task.pairs - 2],
        "first_value": lambda row: row[1],
        "last_value": lambda row: row[2 * task.pairs - 1],
        "largest_key": lambda row: max(row[0 : 2 * task.pairs : 2]),
        "last_token": lambda row: row[-1],
        "filler": lambda row: row[shown:].count(0),
    }
    p_values = compared(statistics, task, [loops.mqar(task, dice) for _ in range(COUNT)])
    assert min(p_values.values()) > LEAST_P, p_values


@pytest.mark.parametrize(
    "task",
    [
        MadRecall(vocabulary=10, length=20),
        MadRecall(vocabulary=9, length=24, multi_query=False),
        MadNoisyRecall(vocabulary=8, length=20, noise=0.6, noise_vocabulary=3),
    ],
    ids=["multi", "single", "noisy"],
)
def test_mad_recall(task, loops):
    dice = loops.PlainDice(4)

    def keys(row):
        return [row[i] for i in range(0, task.length - 2, 2)]

    def real(row):
        return [key for key in keys(row) if key < task.keys]

    statistics = {
        "first_key": lambda row: row[0],
        "first_value": lambda row: row[1],
        "last_shown": lambda row: row[task.length - 3],
        "query": lambda row: row[-2],
        "answer": lambda row: row[-1],
        "gap": lambda row: keys(row)[::-1].index(row[-2]),
        "times_shown": lambda row: keys(row).count(row[-2]),
        "distinct_keys": lambda row: len(set(real(row))),
        "real_pairs": lambda row: len(real(row)),
        "distinct_values": lambda row: len({row[i + 1] for i in range(0, task.length - 2, 2)}),
    }
    p_values = compared(statistics, task, [loops.mad_recall(task, dice) for _ in range(COUNT)])
    assert min(p_values.values()) > LEAST_P, p_values


@pytest.mark.parametrize(
    "task",
    [
        pytest.param(MadFuzzyRecall(vocabulary=8, length=30, most_tokens=2), id="two"),
        pytest.param(
            MadFuzzyRecall(vocabulary=11, length=40, key_sizes="longest", multi_query=False),
            id="single",
            marks=pytest.mark.nightly,
        ),
        pytest.param(MadFuzzyRecall(vocabulary=8, length=50, multi_query=True), id="three", marks=pytest.mark.nightly),
    ],
)
def test_mad_fuzzy_recall(task, loops):
    dice, letters = loops.PlainDice(6), task.vocabulary - (1 if task.multi_query else 2)

    def body(row):
        return [token for token in row if token < letters]

    def end(row):
        """The last key and value."""
        start = next(i for i in range(len(row) - 1, -1, -1) if row[i] < task.keys)
        return len(row) - 1 - start

    statistics = {
        "pads": lambda row: row.count(task.vocabulary - 1),
        "answer_size": end,
        "answer": lambda row: tuple(row[-end(row) :]),
        "last_key_letter": lambda row: row[-end(row) - 1],
        "first_letter": lambda row: body(row)[0],
        "second_letter": lambda row: body(row)[1],
        "which_are_keys": lambda row: tuple(token < task.keys for token in body(row)[2:7]),
        "key_letters": lambda row: sum(token < task.keys for token in row),
        "runs": lambda row: sum(
            (a < task.keys) != (b < task.keys) for a, b in zip(body(row), body(row)[1:], strict=False)
        ),
        "seen_before": lambda row: next(
            i for i in range(len(row)) if row[i : i + end(row) + 1] == row[-end(row) - 1 :]
        ),
        "distinct": lambda row: len(set(row)),
    }
    p_values = compared(statistics, task, [loops.mad_fuzzy_recall(task, dice) for _ in range(COUNT)])
    assert min(p_values.values()) > LEAST_P, p_values


@pytest.mark.parametrize("as_published", [False, True])
def test_selective_copy(as_published, loops):
    task = SelectiveCopy(vocabulary=7, length=20, content_tokens=4, as_published=as_published)
    dice, blank = loops.PlainDice(5), task.vocabulary - 2

    def places(row):
        return [i for i in range(task.body) if row[i] != blank]

    statistics = {
        "first_place": lambda row: places(row)[0],
        "second_place": lambda row: places(row)[1],
        "last_place": lambda row: places(row)[-1],
        "places": lambda row: tuple(places(row)[:2]),
        "neighbours": lambda row: sum(b - a == 1 for a, b in zip(places(row), places(row)[1:], strict=False)),
        "first_answer": lambda row: row[-4],
        "last_answer": lambda row: row[-1],
        "distinct": lambda row: len(set(row[-4:])),
    }
    drawn = [loops.selective_copy(task, dice) for _ in range(COUNT)]
    p_values = compared(statistics, task, drawn)
    assert min(p_values.values()) > LEAST_P, p_values
    other = compared(statistics, task.with_(as_published=not as_published), drawn)
    assert min(other.values()) < LEAST_P
