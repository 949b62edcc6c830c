"""What stands beside an accuracy on a task adds up to it, and bins lose no sequence."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import one_hot

from palinode.base.example import Draw, SpecialTokens
from palinode.data.task_store import TaskData, TaskStore
from palinode.data.tasks import (
    AssociativeRecall,
    Copy,
    Counting,
    MadRecall,
    Memorisation,
    MultiQueryRecall,
    Reversed,
    SelectiveCopy,
)
from palinode.data.tasks.base import NO_VALUE
from palinode.evaluate.losses import DirectionScores, Evaluation, Sums, TokenHits, evaluation_passes
from palinode.evaluate.tasks import MOST_SLICES, by_slice, levels, own_reading
from palinode.objectives import (
    BothObjective,
    BottleneckObjective,
    LtrObjective,
    MaskedInputObjective,
    MaskedObjective,
    RtlObjective,
)
from palinode.objectives.label_mask import masked

WAYS = ("ltr", "rtl")


def evaluation(scored, hits) -> Evaluation:
    sums = DirectionScores(tokens_scored=sum(scored), nats_sum=1.0, bytes_scored=0, hits=sum(hits))
    return Evaluation({"ltr": sums}, {}, {"ltr": scored}, {"ltr": hits})


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 200)), min_size=1, max_size=300))
def test_slices_add_up_to_the_whole(rows):
    scored = [tokens for tokens, _, _ in rows]
    hits = [min(tokens, right) for tokens, right, _ in rows]
    values = torch.tensor([value for _, _, value in rows])
    result = by_slice(evaluation(scored, hits), {"gap": values})["ltr"]
    by_value = result["slices"]["gap"]
    assert sum(row["sequences"] for row in by_value) == len(rows)
    assert sum(row["tokens_scored"] for row in by_value) == sum(scored)
    assert sum(row["hits"] for row in by_value) == sum(hits)
    assert len(by_value) <= MOST_SLICES
    assert [row["value"] for row in by_value] == sorted({row["value"] for row in by_value})
    answered = [(tokens, right) for tokens, right in zip(scored, hits, strict=True) if tokens]
    expected = sum(tokens == right for tokens, right in answered) / len(answered) if answered else None
    assert result["exact_match"] == expected


def test_slices_of_a_part_of_the_split_are_those_of_its_first_sequences():
    rows = by_slice(evaluation([1, 1], [1, 0]), {"gap": torch.tensor([5, 7, 9])})["ltr"]["slices"]["gap"]
    assert rows == [
        {"value": 5, "sequences": 1, "tokens_scored": 1, "hits": 1},
        {"value": 7, "sequences": 1, "tokens_scored": 1, "hits": 0},
    ]


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(-1, 100), st.booleans()), min_size=1, max_size=300),
    st.integers(0, 2**32),
)
def test_slices_of_tokens_add_up_to_the_tokens_that_have_a_value(targets, seed):
    """Scored tokens as (window, value, hit), each at a place of its own."""
    windows, values, hits = (torch.tensor(column) for column in zip(*targets, strict=True))
    of_token = torch.full((10, len(targets)), 7)
    of_token[windows, torch.arange(len(targets))] = values
    shuffled = torch.randperm(len(targets), generator=torch.Generator().manual_seed(seed))
    kept = TokenHits(windows[shuffled], shuffled, hits[shuffled])
    rows = by_slice(replace(evaluation([1], [1]), token_hits={"ltr": kept}), {"gap": of_token})["ltr"]["slices"]["gap"]
    with_value = [(window, value, hit) for window, value, hit in targets if value != NO_VALUE]
    assert sum(row["tokens_scored"] for row in rows) == len(with_value)
    assert sum(row["hits"] for row in rows) == sum(hit for _, _, hit in with_value)
    assert len(rows) <= MOST_SLICES
    if len({value for _, value, _ in with_value}) <= MOST_SLICES:
        for row in rows:
            here = [(window, hit) for window, value, hit in with_value if value == row["value"]]
            assert (row["sequences"], row["hits"]) == (len({w for w, _ in here}), sum(hit for _, hit in here))


@pytest.mark.parametrize("direction", ["ltr", "rtl"])
@pytest.mark.parametrize("direction_token", [True, False])
@pytest.mark.parametrize("labels", ["answer", "all"])
def test_a_model_that_recalls_over_short_gaps_alone_is_right_at_those(direction, direction_token, labels):
    """The states say which targets are known; 300 sequences in batches of 64, read from either end, with a token or bare."""
    store = TaskStore(TaskData(task=MadRecall(vocabulary=8, length=24), validation_sequences=300))
    held_out, objectives = (
        store.held_out("validation"),
        evaluation_passes(LtrObjective(direction_token=direction_token), WAYS),
    )
    near = (held_out.slices["gap"] != NO_VALUE) & (held_out.slices["gap"] <= 6)
    sums, kept = Sums(tokens_kept=[]), 0
    for batch in store.evaluation("validation", 24, batch_windows=64, max_tokens=None):
        example = masked(objectives[direction].example(batch.tokens, Draw(), SpecialTokens(8)), batch, labels)
        is_known = near[kept : kept + len(batch)].gather(1, example.target_source)
        states = one_hot(torch.where(is_known, example.targets, 8), 19).float()
        sums.add(example, states, lambda states: states, torch.zeros(19, dtype=torch.int64))
        kept += len(batch)
    scores = {"ltr": sums.scores()}
    evaluated = Evaluation(
        scores, {}, {"ltr": sums.window_scored}, {"ltr": sums.window_hits}, {"ltr": sums.token_hits()}
    )
    rows = by_slice(evaluated, held_out.slices)["ltr"]["slices"]
    unscored = {"ltr": held_out.answers[:, 0], "rtl": held_out.answers[:, -1]}[direction].sum()
    assert sum(row["tokens_scored"] for row in rows["gap"]) == held_out.answers.sum() - (
        0 if direction_token else unscored
    )
    assert {row["value"] for row in rows["gap"]} >= {2, 4, 6, 8, 10}
    assert all(row["hits"] == (row["tokens_scored"] if row["value"] <= 6 else 0) for row in rows["gap"])
    assert sum(row["tokens_scored"] for row in rows["pairs"]) == scores["ltr"].tokens_scored
    assert {row["value"] for row in rows["pairs"]} == {2, 3, 4}


def levels_of(task, reading="ltr", sequences=2000, **options):
    data = TaskData(task=task, validation_sequences=sequences, **options)
    return levels(data, TaskStore(data).held_out("validation"), reading)


RECALL = AssociativeRecall(vocabulary=10, length=20)


def test_the_levels_of_a_task_are_known_numbers():
    result = levels_of(RECALL)
    assert (result["reading"], result["chance"], result["best"]) == ("ltr", 0.25, 1.0)
    assert result["trivial"]["in_context_mode"] == pytest.approx(0.505, abs=0.04)  # twice chance, without learning
    assert result["trivial"]["cache_1"] == 1.0
    assert "cache_1" in result["solved_by"]


def test_levels_are_those_of_the_direction_that_is_read():
    """Read rtl the answer comes first: nothing tells it. A reversed task read rtl is the task read ltr."""
    before_anything = levels_of(RECALL, "rtl")
    assert before_anything["best"] is None
    for name in ("in_context_mode", "most_recent_value", "copy_last", "cache_1", "position_only"):
        assert before_anything["trivial"][name] == 0.0
    assert before_anything["trivial"]["unigram"] > 0.2
    mirrored = levels_of(Reversed(of=RECALL), "rtl")
    assert mirrored["best"] == 1.0
    for name in ("in_context_mode", "cache_1"):
        assert mirrored["trivial"][name] == pytest.approx(levels_of(RECALL)["trivial"][name], abs=0.05)


def test_without_a_direction_all_that_is_shown_counts():
    mirrored = levels_of(Reversed(of=RECALL), "prompt")
    assert mirrored["best"] == 1.0, "the answer stands first, and what tells it is seen"
    assert mirrored["trivial"]["cache_1"] == 1.0
    assert levels_of(Reversed(of=RECALL), "ltr")["trivial"]["cache_1"] == 0.0
    # of a string whose second half is hidden no look-up is left; where its other answers are seen, all of them are
    copy = Copy(vocabulary=16, length=16)
    assert levels_of(copy, sequences=200, reading="prompt")["trivial"]["cache_2"] == 0.0
    assert (
        levels_of(copy, sequences=200, reading="others")["trivial"]["cache_2"]
        > levels_of(copy, sequences=200, reading="ltr")["trivial"]["cache_2"]
        > 0.7
    )


def test_guessers_and_the_ceiling_know_no_more_sequences_than_the_run():
    """mad-memorisation: with 256 sequences of 16 keys out of 4095 a third of the keys is never shown."""
    task = Memorisation(vocabulary=8192)
    few = levels_of(task, sequences=200, train_sequences=256)
    assert few["best"] == pytest.approx(0.632, abs=0.001)
    assert few["trivial"]["bigram"] == pytest.approx(0.632, abs=0.02)
    endless = levels_of(task, sequences=200)
    assert endless["best"] == 1.0
    assert endless["trivial"]["bigram"] > 0.99
    assert few["solved_by"] == ["bigram"]


@pytest.mark.parametrize(
    ("task", "readable"),
    [(Memorisation(), 0.058), (Memorisation(pairs=128), 0.367), (SelectiveCopy(as_published=True), 0.024)],
    ids=repr,
)
def test_a_published_input_hides_what_could_be_read_off(task, readable):
    """`readable` is the share of answers that follow a token which an earlier answer followed with the same value."""
    shown, hidden = (levels_of(task, reading, sequences=300) for reading in ("ltr", "ltr_prompt"))
    assert shown["trivial"]["cache_1"] == pytest.approx(readable, abs=0.01)
    assert hidden["trivial"]["cache_1"] < 0.005
    assert hidden["trivial"]["copy_last"] == 0.0
    assert hidden["trivial"]["unigram"] == shown["trivial"]["unigram"]


def test_the_best_of_a_published_input_is_what_training_showed():
    shown, hidden = (
        levels_of(Memorisation(pairs=128), reading, sequences=200, train_sequences=1)["best"]
        for reading in ("ltr", "ltr_prompt")
    )
    assert hidden == pytest.approx(1 - (1 - 1 / 127) ** 128)
    assert shown == pytest.approx(1 - (1 - hidden) * 0.633, abs=0.002)


def test_the_pairs_of_a_published_input_stay_readable():
    recall = MultiQueryRecall(vocabulary=64, length=32)
    assert levels_of(recall, "ltr_prompt", sequences=200)["trivial"]["cache_1"] == 1.0


def test_chance_is_told_for_every_length():
    data = TaskData(task=Counting(length=8, most=64), validation_sequences=200)
    task_levels = levels(data, TaskStore(data).held_out("validation"), length_factors=(2, 4))
    assert task_levels["chance"] == 1 / 9
    assert task_levels["chance_by_length"] == {"2": 1 / 17, "4": 1 / 33}


@pytest.mark.parametrize(
    ("objective", "scored", "reading"),
    [
        (LtrObjective(), (5, 0), "ltr"),
        (RtlObjective(), (0, 5), "rtl"),
        (BothObjective(), (5, 5), "ltr"),
        (MaskedInputObjective(), (5, 0), "ltr"),
        (MaskedInputObjective(rate=0.0, hide_answers=True), (5, 0), "ltr_prompt"),
        (MaskedObjective(), (0, 0), "prompt"),
        (MaskedObjective(hide_answers=False, rate=0.1), (0, 0), "others"),
        (BottleneckObjective(), (0, 0), "prompt"),
    ],
    ids=repr,
)
def test_a_run_reads_as_its_own_pass_does(objective, scored, reading):
    assert own_reading(objective, *scored) == reading
