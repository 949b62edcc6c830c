"""The shared words have one home: no other module lists measures, costs or outcomes."""

import ast
from pathlib import Path
from typing import get_args

import pytest

from palinode.base import measures
from palinode.base.measures import COST_AXES, CURVE_AXES, MEASURES, METRICS, PARITY_AXES, CheckOutcome, RecordOutcome

PACKAGE = Path(__file__).parents[2] / "src" / "palinode"
HOME = Path(measures.__file__)
FOREIGN = PACKAGE / "published"  # maps our words to the columns of files that others made
# Vocabulary -> its words, and so many of them in one collection are a second list of it.
VOCABULARIES = {
    "measures": (set(MEASURES), 3),
    "costs": (set(COST_AXES) | set(CURVE_AXES), 3),
    "outcomes of a run": (set(get_args(RecordOutcome)), 2),
    "outcomes of a check": (set(get_args(CheckOutcome)), 3),
}


def constants(nodes):
    return {node.value for node in nodes if isinstance(node, ast.Constant)}


def listed(node):
    """The strings of a collection that is written out; of a table only where its values are written out too."""
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        return constants(node.elts)
    if isinstance(node, ast.Dict) and all(isinstance(value, ast.Constant | ast.Dict) for value in node.values):
        return constants(node.keys)
    return set()


def second_lists(source):
    result = []
    for node in ast.walk(ast.parse(source)):
        strings = listed(node)
        for name, (words, fewest) in VOCABULARIES.items():
            if len(strings & words) >= fewest:
                result.append(f"{node.lineno}: {name}")
    return result


def test_no_module_but_one_lists_them():
    modules = [path for path in sorted(PACKAGE.rglob("*.py")) if path != HOME and FOREIGN not in path.parents]
    result = [
        f"{path.relative_to(PACKAGE)}:{place}"
        for path in modules
        for place in second_lists(path.read_text(encoding="utf-8"))
    ]
    assert result == []


@pytest.mark.parametrize(
    "source",
    [
        'AXES = ("parameters", "tokens_read", "train_flops")',
        'FINAL = frozenset(["done", "diverged"])',
        'Outcome = Literal["pass", "fail", "could_not_tell"]',
        'TITLES = {"nats_per_token": "loss", "accuracy": "share", "perplexity": "perplexity"}',
    ],
)
def test_a_second_list_would_be_seen(source):
    assert len(second_lists(source)) == 1


def test_the_tables_agree_with_the_types():
    assert set(PARITY_AXES) <= set(COST_AXES)
    assert len(METRICS) == len(set(METRICS))
    assert all(measures.Metric.parse(str(metric)) == metric for metric in METRICS)
    assert set(measures.CHECK_WORDS) == set(get_args(CheckOutcome))
    assert set(get_args(measures.RunOutcome)) >= measures.FINAL_OUTCOMES | measures.FINE_OUTCOMES
    assert all(axis.short for axis in CURVE_AXES.values())
