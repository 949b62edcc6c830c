"""Splits of tasks share no prompt and keep the task's law; streams are functions of the index; bad input is one line."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from palinode.base.config import decode
from palinode.base.errors import BadInput
from palinode.base.seeds import generator
from palinode.checks.contamination import check_prompt_splits
from palinode.data.task_store import TaskData, TaskStore, TaskStream
from palinode.data.tasks import (
    TASKS,
    Addition,
    AssociativeRecall,
    Copy,
    Counting,
    Grammar,
    Hierarchy,
    InductionHead,
    MadFuzzyRecall,
    MadNoisyRecall,
    MadRecall,
    MarkovLanguage,
    MultiQueryRecall,
    Parity,
    Reversed,
    Sample,
    SelectiveCopy,
    XorLanguage,
)
from palinode.data.tasks.splits import BUCKETS_OF, buckets, check_support, draw, in_split, repeated_share

PLENTY = {  # of every kind one with prompts enough, few enough that careless splits would share some
    "addition": Addition(digits=2),
    "parity": Parity(length=14),
    "xor": XorLanguage(bits=13),
    "copy": Copy(vocabulary=4, length=6),
    "associative-recall": AssociativeRecall(vocabulary=10, length=6),
    "reversed": Reversed(of=Addition(digits=2)),
    "counting": Counting(alphabet=3, length=8),
    "hierarchy": Hierarchy(levels=3),
}
KINDS = [PLENTY.get(kind) or cls() for kind, cls in TASKS.items()]


def prompts_of(task, samples):
    return {name: task.split_key(sample).numpy() for name, sample in samples.items()}


def judged(task, samples):
    """The audit's check, with the buckets recomputed from the raw prompts."""
    return check_prompt_splits(
        prompts_of(task, samples), lambda rows: buckets(task, torch.from_numpy(rows)).numpy(), BUCKETS_OF
    )


@pytest.mark.parametrize("task", KINDS, ids=lambda task: task.kind_name())
def test_splits_share_no_prompt(task):
    samples = {split: draw(task, split, 30, generator(0, "test", split)) for split in BUCKETS_OF}
    samples["train"] = draw(task, "train", 600, generator(0, "test", "train"))
    assert judged(task, samples).outcome == "pass"


def test_m44_a_test_set_drawn_with_the_train_seed_is_caught():
    task = AssociativeRecall()
    train = TaskStream(task, seed=0).batch(0, 500)
    wrong = TaskStream(task, seed=0).batch(100, 60)  # the split is forgotten, the seed is that of train
    finding = judged(task, {"train": train, "test": wrong})
    assert finding.outcome == "fail"
    assert finding.numbers["train_and_test"] > 40
    assert finding.numbers["test_outside_its_buckets"] > 40
    fresh = task.sample(60, generator(1, "test"))  # shares nothing, by luck: the buckets tell
    assert judged(task, {"train": train, "test": fresh}).numbers["test_outside_its_buckets"] > 40


@pytest.mark.parametrize("task", [Parity(length=20), Addition(), MultiQueryRecall(), XorLanguage(bits=18)], ids=repr)
def test_buckets_are_equally_full(task):
    keys = task.split_key(task.sample(20_000, generator(3, "test")))
    keys = torch.from_numpy(np.unique(keys.numpy(), axis=0))
    assert chisquare(torch.bincount(buckets(task, keys), minlength=100)).pvalue > 1e-4


def test_another_config_splits_in_another_way():
    keys = Parity(length=20).split_key(Parity(length=20).sample(2000, generator(0, "test")))
    left, right = buckets(Parity(length=20), keys), buckets(Parity(length=20, cumulative=True), keys)
    assert float((left == right).double().mean()) < 0.03


def test_swapped_summands_are_one_prompt():
    task = Addition(digits=3)
    sample = task.sample(200, generator(0, "test"))
    tokens = sample.tokens
    swapped = torch.cat([tokens[:, 4:7], tokens[:, 3:4], tokens[:, :3], tokens[:, 7:]], 1)
    assert torch.equal(task.split_key(sample), task.split_key(Sample(swapped, sample.answers)))


def test_a_reversed_task_has_the_splits_of_its_original():
    task = AssociativeRecall()
    for split in BUCKETS_OF:
        one, other = (draw(each, split, 20, generator(5, "test")) for each in (task, Reversed(of=task)))
        assert torch.equal(one.tokens.flip(1), other.tokens)


def test_too_few_prompts_are_refused():
    with pytest.raises(BadInput, match="length: parity has 256 prompts; 50 sequences of test need 1000"):
        check_support(Parity(length=8), {"test": 50})
    check_support(Parity(length=8), {"validation": 6, "test": 6})
    with pytest.raises(BadInput, match="validation and test"):
        check_support(Parity(length=8), {"validation": 7, "test": 6})
    with pytest.raises(BadInput, match="none of them is in train"):
        draw(OneSequence(length=1), "train", 5, generator(0, "test"))


class OneSequence(Parity):
    """A single prompt, whose bucket is not in train."""

    def sample(self, count, rng):
        sample = Parity(length=12).sample(400, generator(0, "one"))
        outside = sample.rows(~in_split(self, sample, "train")).rows(slice(1))
        return Sample.together([outside] * count)


@pytest.fixture(scope="module")
def whole():
    return stream().batch(0, 4000)


@settings(max_examples=15)
@given(cuts=st.lists(st.integers(1, 600), min_size=1, max_size=3), first=st.integers(0, 2000))
def test_any_slice_of_the_stream_is_the_same(whole, cuts, first):
    reader, at = stream(), first
    for count in cuts:
        part = reader.batch(at, count)
        assert torch.equal(part.tokens, whole.tokens[at : at + count])
        assert torch.equal(part.answers, whole.answers[at : at + count])
        assert torch.equal(part.slices["gap"], whole.slices["gap"][at : at + count])
        at += count
    assert torch.equal(reader.read(first, 3).tokens, whole.tokens[first : first + 3])  # back again


def stream(seed=1, sequences=None):
    return TaskStream(AssociativeRecall(vocabulary=10, length=6), seed, sequences)


def test_streams_differ_by_seed_and_do_not_repeat():
    assert not torch.equal(stream(seed=2).batch(0, 100).tokens, stream().batch(0, 100).tokens)
    long = TaskStream(AssociativeRecall(), 1).batch(0, 3000)
    assert len(np.unique(long.tokens.numpy(), axis=0)) == 3000
    assert len(stream().batch(7, 0)) == 0


def test_a_stream_of_long_sequences_has_small_blocks():
    task = Copy(vocabulary=4, length=40_000)
    made = TaskStream(task, 0)
    assert made.block_sequences == 3
    assert torch.equal(made.batch(2, 3).tokens[1], made.batch(3, 1).tokens[0])


def test_epochs_read_the_same_sequences_in_new_orders():
    fixed, endless = stream(sequences=37), stream()
    wanted = sorted(endless.batch(0, 37).tokens.tolist())
    epochs = [fixed.batch(37 * epoch, 37).tokens.tolist() for epoch in range(3)]
    assert [sorted(epoch) for epoch in epochs] == [wanted] * 3
    assert epochs[0] != epochs[1] != epochs[2]
    assert fixed.batch(30, 20).tokens.tolist() == (epochs[0] + epochs[1])[30:50]
    with pytest.raises(BadInput, match="window_tokens: sequences of associative-recall have 9 tokens"):
        fixed.of_length(8)
    assert fixed.of_length(9) is fixed


BAD = {
    "vocabulary": [
        lambda: AssociativeRecall(vocabulary=5),
        lambda: InductionHead(vocabulary=3),
        lambda: MultiQueryRecall(vocabulary=3, pairs=1),
        lambda: MadRecall(vocabulary=3),
        lambda: MadRecall(vocabulary=4, multi_query=False),
        lambda: MadFuzzyRecall(vocabulary=6),
        lambda: SelectiveCopy(vocabulary=3),
    ],
    "length": [
        lambda: AssociativeRecall(length=3, key_tokens=3),
        lambda: InductionHead(length=4, answer_tokens=3),
        lambda: MultiQueryRecall(length=14, pairs=4),
        lambda: MultiQueryRecall(length=65),
        lambda: MadRecall(length=2),
        lambda: MadRecall(length=7),
        lambda: MadFuzzyRecall(length=18),
        lambda: SelectiveCopy(length=32),
        lambda: MarkovLanguage(length=2, order=3, symmetric=False),
    ],
    "pairs": [lambda: MultiQueryRecall(vocabulary=16, pairs=8, length=64)],
    "key_tokens": [lambda: AssociativeRecall(vocabulary=40, key_tokens=5)],
    "most": [lambda: Counting(length=8, most=7), lambda: Counting(length=8).with_length(2)],
    "symmetric": [lambda: MarkovLanguage(order=2)],
    "order": [lambda: MarkovLanguage(states=16, order=5, symmetric=False)],
    "noise_vocabulary": [lambda: MadNoisyRecall(noise_vocabulary=0)],
    "digits": [lambda: Addition(digits=9).with_length(2), lambda: Reversed(of=Addition(digits=9)).with_length(2)],
    "levels": [lambda: Hierarchy(levels=16).with_length(2)],
    "productions": [lambda: Hierarchy(symbols=3, productions=4)],
    "rules": [lambda: Grammar(rules=4, terminals=3)],
    "factor": [
        lambda: XorLanguage().with_length(2),
        lambda: Hierarchy().with_length(3),
        lambda: Copy().with_length(0),
    ],
}


@pytest.mark.parametrize(("field", "made"), [(field, one) for field, makers in BAD.items() for one in makers])
def test_bad_input_names_the_field_in_one_line(field, made):
    with pytest.raises(BadInput) as caught:
        made()
    assert caught.value.field == field
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_unknown_tasks_and_fields_get_the_nearest_name():
    with pytest.raises(BadInput, match="associative-recall"):
        decode(Reversed, {"of": {"kind": "asociative-recall"}})
    with pytest.raises(BadInput, match="vocabulary"):
        decode(Reversed, {"of": {"kind": "copy", "vocabluary": 3}})


SHORT = {  # short enough, or with room enough, to be 8 times as long
    "counting": Counting(length=4, most=40),
    "addition": Addition(digits=2),
    "hierarchy": Hierarchy(levels=2),
    "reversed": Reversed(of=Copy()),
}


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_longer_tasks_keep_their_ids(factor):
    longer = [SHORT.get(kind) or cls() for kind, cls in TASKS.items() if kind not in ("xor", "product")]
    for task in longer:
        made = task.with_length(factor)
        assert made.vocab_size == task.vocab_size
        assert 0.6 * factor * task.length_tokens < made.length_tokens <= factor * task.length_tokens + factor
        assert made.sample(2, generator(0, "test")).tokens.shape == (2, made.length_tokens)
    assert MultiQueryRecall().with_length(factor).pairs == MultiQueryRecall().pairs


def test_a_taller_tree_keeps_the_rules_below():
    short, tall = Hierarchy(levels=2), Hierarchy(levels=2).with_length(2)
    assert tall.levels == 3
    assert torch.equal(short.rules(2), tall.rules(2))


@pytest.mark.parametrize("count", [300, 2000, 20_000])
def test_fresh_draws_repeat_as_often_as_is_said(count):
    """1024 prompts, about 870 of them in train: each stream is drawn and its repeats are counted."""
    task = Parity(length=10)
    shares = []
    for seed in range(3):
        tokens = TaskStream(task, seed).batch(0, count).tokens
        shares.append(1 - len(tokens.unique(dim=0)) / count)
    assert sum(shares) / 3 == pytest.approx(repeated_share(task, count), abs=0.02)


def test_repeats_of_very_many_prompts_are_counted_by_pairs():
    """The two formulas meet, no digit is lost, and what has no number of prompts has no share."""
    task = Copy(vocabulary=2, length=40)
    prompts = task.support() * 0.85
    assert repeated_share(task, 1000) == pytest.approx(999 / (2 * prompts), rel=1e-9)
    near = [repeated_share(Copy(vocabulary=2, length=30), count) for count in (900, 950)]
    assert near[1] / near[0] == pytest.approx(949 / 899, rel=1e-3)
    assert repeated_share(Copy(vocabulary=2, length=1), 1) == 0.0
    assert repeated_share(MultiQueryRecall(), 10) is None


@pytest.mark.parametrize(
    "fields", [{"sharpness": 10}, {"sharpness": 20.0}, {"symmetric": False, "states": 2, "sharpness": 20.0}]
)
def test_an_impossible_chain_is_refused_with_its_config(fields):
    """Within the bounds of the field, and still no chain: said where the config is read, not in the middle of a run."""
    with pytest.raises(BadInput, match="sharpness") as refused:
        decode(TaskData, {"task": {"kind": "markov", **fields}})
    assert refused.value.field in ("sharpness", "task.sharpness")
    assert refused.value.exit_code == 2


def test_a_table_of_order_2_that_does_not_settle_is_refused_with_its_config():
    """Independent draws of a table are all but periodic for some seeds."""
    with pytest.raises(BadInput, match="sharpness"):
        [MarkovLanguage(states=2, symmetric=False, order=2, sharpness=20.0, chain_seed=seed) for seed in range(10)]


def test_held_out_splits_are_counted_together():
    task = XorLanguage(bits=15)
    with pytest.raises(BadInput, match="validation and test and tuning need"):
        TaskStore(TaskData(task=task))
    assert TaskStore(TaskData(task=task, validation_sequences=500, test_sequences=500, tuning_sequences=500))
