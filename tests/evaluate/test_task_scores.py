"""What stands beside an accuracy on a task adds up to it, and bins lose no sequence."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from palinode.data.task_store import TaskData, TaskStore
from palinode.data.tasks import AssociativeRecall
from palinode.evaluate.losses import DirectionScores, Evaluation
from palinode.evaluate.tasks import MOST_SLICES, by_slice, levels


def evaluation(scored, hits) -> Evaluation:
    sums = DirectionScores(tokens_scored=sum(scored), nats_sum=1.0, bytes_scored=0, hits=sum(hits))
    return Evaluation({"ltr": sums}, {}, {"ltr": scored}, {"ltr": hits})


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 200)), min_size=1, max_size=300))
def test_slices_add_up_to_the_whole(rows):
    scored = [tokens for tokens, _, _ in rows]
    hits = [min(tokens, right) for tokens, right, _ in rows]
    values = torch.tensor([value for _, _, value in rows])
    found = by_slice(evaluation(scored, hits), {"gap": values})["ltr"]
    by_value = found["slices"]["gap"]
    assert sum(row["sequences"] for row in by_value) == len(rows)
    assert sum(row["tokens_scored"] for row in by_value) == sum(scored)
    assert sum(row["hits"] for row in by_value) == sum(hits)
    assert len(by_value) <= MOST_SLICES
    assert [row["value"] for row in by_value] == sorted({row["value"] for row in by_value})
    asked = [(tokens, right) for tokens, right in zip(scored, hits, strict=True) if tokens]
    expected = sum(tokens == right for tokens, right in asked) / len(asked) if asked else None
    assert found["exact_match"] == expected


def test_slices_of_a_part_of_the_split_are_those_of_its_first_sequences():
    found = by_slice(evaluation([1, 1], [1, 0]), {"gap": torch.tensor([5, 7, 9])})["ltr"]["slices"]["gap"]
    assert found == [
        {"value": 5, "sequences": 1, "tokens_scored": 1, "hits": 1},
        {"value": 7, "sequences": 1, "tokens_scored": 1, "hits": 0},
    ]


def test_the_levels_of_a_task_are_known_numbers():
    store = TaskStore(TaskData(task=AssociativeRecall(vocabulary=10, length=20), validation_sequences=2000))
    found = levels(store.config.task, store.held_out("validation"))
    assert found["chance"] == 0.25
    assert found["best"] == 1.0
    assert found["trivial"]["in_context_mode"] == pytest.approx(0.505, abs=0.04)  # twice chance, without learning
    assert found["trivial"]["cache_1"] == 1.0
