"""Every answer follows from its prompt by a second formula; shapes, ids and determinism hold for any config."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from palinode.base.config import decode, encode
from palinode.base.seeds import generator
from palinode.data.tasks import (
    TASKS,
    Addition,
    AssociativeRecall,
    Compression,
    Copy,
    Counting,
    Grammar,
    Hierarchy,
    InductionHead,
    Language,
    MadFuzzyRecall,
    MadNoisyRecall,
    MadRecall,
    Majority,
    MarkovLanguage,
    Memorisation,
    MultiQueryRecall,
    Parity,
    ProductLanguage,
    Reversal,
    Reversed,
    SelectiveCopy,
    XorLanguage,
)
from palinode.data.tasks.base import NO_VALUE
from palinode.data.tasks.draws import previous_places

ROWS = 6


def sizes(low, high):
    return st.integers(low, high)


def answers_of(task, row, marked):
    """The marked tokens of a row, from the others, by another formula than the generator's."""
    return [row[i] for i, is_answer in enumerate(marked) if is_answer], SECOND_FORMULA[type(task)](task, row, marked)


def recall(task, row, marked):
    width = task.key_tokens + 1
    body, query = row[: task.pairs * width], row[-width:-1]
    result = [body[i + width - 1] for i in range(0, len(body), width) if body[i : i + width - 1] == query]
    assert len(set(result)) <= 1
    return result[:1] or [0]


def induction(task, row, marked):
    first = row.index(task.vocabulary - 1)
    return row[first + 1 : first + 1 + task.answer_tokens]


def queries(task, row, marked):
    shown = row[: 2 * task.pairs]
    table = dict(zip(shown[::2], shown[1::2], strict=True))
    assert len(table) == task.pairs == len(set(table.values()))
    return [table[row[i - 1]] for i, is_answer in enumerate(marked) if is_answer]


def mad(task, row, marked):
    table, result = {}, []
    body = row if task.multi_query else row[:-3] + row[-2:]
    for i in range(0, len(body), 2):
        key, value = body[i : i + 2]
        if key >= task.keys:  # noise
            continue
        if key in table and (task.multi_query or i == len(body) - 2):
            result.append(table[key])
        table.setdefault(key, value)
    return result


def memorised(task, row, marked):
    return task.value_of()[torch.tensor(row[::2])].tolist()


def bits_before(row, marked):
    result = []
    for i, is_answer in enumerate(marked):
        if is_answer:
            yield list(result)
        elif row[i] < 2:
            result.append(row[i])


SECOND_FORMULA = {
    AssociativeRecall: recall,
    InductionHead: induction,
    MultiQueryRecall: queries,
    MadRecall: mad,
    MadNoisyRecall: mad,
    SelectiveCopy: lambda task, row, marked: [token for token in row[: task.body] if token < task.vocabulary - 2],
    Compression: lambda task, row, marked: row[: task.length - (not task.as_published)],
    Memorisation: memorised,
    Copy: lambda task, row, marked: row[: task.length],
    Reversal: lambda task, row, marked: [row[task.length - 1 - i] for i in range(task.length)],
    Parity: lambda task, row, marked: [str(bits).count("1") % 2 for bits in bits_before(row, marked)],
    Majority: lambda task, row, marked: [
        int(str(bits).count("1") - str(bits).count("0") >= (0 if task.cumulative else 1))
        for bits in bits_before(row, marked)
    ],
    Counting: lambda task, row, marked: [task.alphabet + 1 + row[: task.length].count(row[-2])],
    Addition: lambda task, row, marked: summed(task, "".join(map(str, row[: 2 * task.digits + 1]))),
    XorLanguage: lambda task, row, marked: [
        sum(a and b for a, b in zip(line, row[: task.bits], strict=True)) % 2 for line in task.matrix().tolist()
    ],
    ProductLanguage: lambda task, row, marked: multiplied(task, row),
}


def summed(task, text):
    left, right = text[: task.digits], text[task.digits + 2 :]  # `+` is id 10
    total = str(int(left) + int(right)).zfill(task.digits + 1)
    return [int(digit) for digit in (total[::-1] if task.lsd_first else total)]


def multiplied(task, row):
    left, right = (int("".join(map(str, row[i : i + task.digits]))) for i in (0, task.digits + 1))
    assert left < right
    assert all(number % divisor for number in (left, right) for divisor in range(2, int(number**0.5) + 1))
    return [int(digit) for digit in str(left * right).zfill(2 * task.digits)]


CONFIGS = st.one_of(
    st.builds(
        AssociativeRecall,
        vocabulary=sizes(6, 30),
        length=sizes(4, 40),
        key_tokens=sizes(1, 3),
        allow_dot=st.booleans(),
    ),
    st.builds(
        InductionHead, vocabulary=sizes(4, 30), length=sizes(8, 40), answer_tokens=sizes(1, 3), triggers=sizes(1, 4)
    ),
    st.builds(
        MultiQueryRecall,
        vocabulary=sizes(20, 300),
        length=sizes(27, 40).map(lambda half: 2 * half),
        pairs=sizes(1, 9),
        passes=sizes(1, 2),
        filler=st.sampled_from(["zero", "uniform"]),
    ),
    st.builds(
        MadRecall, vocabulary=sizes(5, 30), length=sizes(2, 30).map(lambda half: 2 * half), multi_query=st.booleans()
    ),
    st.builds(
        MadNoisyRecall,
        vocabulary=sizes(5, 30),
        length=sizes(2, 30).map(lambda half: 2 * half),
        noise=st.floats(0, 0.95),
        multi_query=st.booleans(),
    ),
    st.builds(
        SelectiveCopy,
        vocabulary=sizes(4, 20),
        length=sizes(20, 60),
        content_tokens=sizes(1, 9),
        as_published=st.booleans(),
    ),
    st.builds(Compression, vocabulary=sizes(3, 20), length=sizes(2, 20), as_published=st.booleans()),
    st.builds(Memorisation, vocabulary=sizes(5, 60), pairs=sizes(1, 20), map_seed=sizes(0, 3)),
    st.builds(Copy, vocabulary=sizes(2, 20), length=sizes(1, 20)),
    st.builds(Reversal, vocabulary=sizes(2, 20), length=sizes(1, 20)),
    st.builds(Parity, length=sizes(1, 20), cumulative=st.booleans()),
    st.builds(Majority, length=sizes(1, 20), cumulative=st.booleans()),
    st.builds(Counting, alphabet=sizes(2, 6), length=sizes(1, 20), most=st.sampled_from([None, 40])),
    st.builds(Addition, digits=sizes(1, 17), lsd_first=st.booleans()),
    st.builds(XorLanguage, bits=sizes(2, 20), matrix_seed=sizes(0, 3)),
    st.builds(ProductLanguage, digits=sizes(2, 4)),
)
SEEDS = st.integers(0, 1000)
DEFAULTS = [cls() for kind, cls in TASKS.items() if kind != "reversed"]


def test_every_task_with_a_prompt_has_a_second_formula():
    """A new task needs its entry in SECOND_FORMULA and CONFIGS. Fuzzy recall and reversed tasks have tests of their own."""
    prompted = {cls for cls in TASKS.values() if not issubclass(cls, Language)}
    assert set(SECOND_FORMULA) == prompted - {MadFuzzyRecall, Reversed}


@settings(max_examples=300)
@given(task=CONFIGS, seed=SEEDS)
def test_answers_follow_from_the_prompt(task, seed):
    sample = task.sample(ROWS, generator(seed, "test"))
    for row, marked in zip(sample.tokens.tolist(), sample.answers.tolist(), strict=True):
        answers, computed = answers_of(task, row, marked)
        assert answers == computed
        assert answers
    assert torch.isin(sample.tokens[sample.answers], task.legal_answers()).all()


@settings(max_examples=150)
@given(task=st.one_of(CONFIGS, st.sampled_from(DEFAULTS)), seed=SEEDS, count=sizes(1, 5), flipped=st.booleans())
def test_shapes_ids_and_determinism(task, seed, count, flipped):
    task = Reversed(of=task) if flipped else task
    sample, again = (task.sample(count, generator(seed, "test")) for _ in range(2))
    assert sample.tokens.shape == sample.answers.shape == (count, task.length_tokens)
    assert (sample.tokens.dtype, sample.answers.dtype) == (torch.int64, torch.bool)
    assert 0 <= int(sample.tokens.min()) <= int(sample.tokens.max()) < task.vocab_size
    assert sample.answers.any(1).all()
    assert all(values.dtype == torch.int64 for values in sample.slices.values())
    assert {values.shape for values in sample.slices.values()} <= {(count,), sample.tokens.shape}
    for values in (values for values in sample.slices.values() if values.dim() == 2):
        assert torch.equal(values != NO_VALUE, sample.answers), "every answer has a value, and nothing else"
    assert torch.equal(sample.tokens, again.tokens)
    assert torch.equal(sample.answers, again.answers)
    assert 0 < task.chance() <= 1
    assert decode(type(task), {k: v for k, v in encode(task).items() if k != "kind"}) == task


@settings(max_examples=60)
@given(task=st.one_of(CONFIGS, st.sampled_from(DEFAULTS)), seed=SEEDS)
def test_reversed_is_the_mirror_image(task, seed):
    mirrored = Reversed(of=task)
    sample, flipped = (one.sample(4, generator(seed, "test")) for one in (task, mirrored))
    assert torch.equal(sample.tokens.flip(1), flipped.tokens)
    assert torch.equal(sample.answers.flip(1), flipped.answers)
    assert mirrored.floor_nats_all_tokens("ltr") == task.floor_nats_all_tokens("rtl")
    assert mirrored.sequence_nats() == task.sequence_nats()
    assert torch.equal(mirrored.split_key(flipped), task.split_key(sample))
    for name, values in sample.slices.items():
        assert torch.equal(values.flip(1) if values.dim() == 2 else values, flipped.slices[name])


@settings(max_examples=60)
@given(
    task=st.one_of(
        st.builds(
            MultiQueryRecall, vocabulary=sizes(20, 60), length=st.just(54), pairs=sizes(1, 9), passes=sizes(1, 2)
        ),
        st.builds(MadRecall, vocabulary=sizes(5, 12), length=st.just(40), multi_query=st.booleans()),
        st.builds(MadNoisyRecall, vocabulary=sizes(5, 12), length=st.just(40), multi_query=st.booleans()),
    ),
    seed=SEEDS,
)
def test_every_answer_has_the_gap_to_the_last_time_its_key_was_shown(task, seed):
    """By search: the key stands before the answer, and so many tokens before it once more, with no other in between."""
    sample = task.sample(ROWS, generator(seed, "test"))
    for row, gaps in zip(sample.tokens.tolist(), sample.slices["gap"].tolist(), strict=True):
        for place, gap in ((place, gap) for place, gap in enumerate(gaps) if gap != NO_VALUE):
            key = row[place - 1]
            assert gap == row[: place - 1][::-1].index(key) + 1
            assert row[place - gap] == row[place]
    if "pairs" in sample.slices:
        shown = sample.tokens.where(sample.tokens < task.keys, task.keys)
        assert sample.slices["pairs"].tolist() == [len(set(row) - {task.keys}) for row in shown.tolist()]


@settings(max_examples=40)
@given(length=sizes(20, 40), content=sizes(1, 9), as_published=st.booleans(), seed=SEEDS)
def test_every_copied_token_has_the_gap_to_where_it_stood(length, content, as_published, seed):
    task = SelectiveCopy(length=length, content_tokens=content, as_published=as_published)
    sample = task.sample(ROWS, generator(seed, "test"))
    for row, gaps in zip(sample.tokens.tolist(), sample.slices["gap"].tolist(), strict=True):
        stood = [place for place, token in enumerate(row[: task.body]) if token < task.vocabulary - 2]
        assert [place - gap for place, gap in enumerate(gaps) if gap != NO_VALUE] == stood


@settings(max_examples=40)
@given(
    task=st.builds(
        AssociativeRecall, vocabulary=sizes(6, 60), length=sizes(6, 40), key_tokens=sizes(1, 2), allow_dot=st.booleans()
    ),
    seed=SEEDS,
)
def test_pairs_are_the_different_keys_of_a_sequence(task, seed):
    sample, width = task.sample(ROWS, generator(seed, "test")), task.key_tokens + 1
    for row, pairs in zip(sample.tokens.tolist(), sample.slices["pairs"].tolist(), strict=True):
        assert pairs == len({tuple(row[i : i + width - 1]) for i in range(0, task.pairs * width, width)})


@settings(max_examples=40)
@given(rows=st.lists(st.lists(st.integers(0, 5), min_size=7, max_size=7), min_size=1, max_size=4))
def test_the_previous_place_of_a_kind(rows):
    places = previous_places(torch.tensor(rows)).tolist()
    assert places == [[max((j for j in range(i) if row[j] == row[i]), default=-1) for i in range(7)] for row in rows]


@settings(max_examples=80)
@given(
    task=st.builds(
        MadFuzzyRecall,
        vocabulary=sizes(8, 24),
        length=sizes(20, 90),
        most_tokens=sizes(1, 3),
        key_sizes=st.sampled_from(["mixed", "longest"]),
        multi_query=st.booleans(),
    ),
    seed=SEEDS,
)
def test_fuzzy_recall_repeats_what_it_planted(task, seed):
    """Parsed greedily into letters of keys, then of values: runs that hold several keys cannot be told apart, the end can."""
    sample = task.sample(ROWS, generator(seed, "test"))
    for row, marked, gap in zip(
        sample.tokens.tolist(), sample.answers.tolist(), sample.slices["gap"][:, -1], strict=True
    ):
        value_size = next(i for i in itertools.count() if not marked[-1 - i])
        key_start = len(row) - value_size
        while row[key_start - 1] < task.keys and key_start > len(row) - value_size - task.most_tokens:
            key_start -= 1
        planted = row[key_start - int(gap) : key_start - int(gap) + len(row) - key_start]
        assert len(planted) >= value_size + 1
        assert planted[-value_size:] == row[-value_size:]
        assert not any(task.keys > token for token in row[-value_size:])
        pads = row.index(next(token for token in row if token != task.vocabulary - 1))
        assert all(token != task.vocabulary - 1 for token in row[pads:])
        if not task.multi_query:
            assert row.count(task.vocabulary - 2) == 1
            assert sum(marked) == value_size


def test_xor_is_easy_one_way_and_dense_the_other():
    for seed in range(5):
        task = XorLanguage(bits=20, matrix_seed=seed)
        matrix = task.matrix()
        inverse = torch.linalg.inv(matrix.double()).round().long() % 2
        assert torch.equal(matrix @ inverse % 2, torch.eye(20, dtype=torch.long))
        assert 1 <= int(matrix.sum(1).min()) <= int(matrix.sum(1).max()) <= 3
        assert float(inverse.sum(1).double().mean()) > 1.5 * float(matrix.sum(1).double().mean())


def test_hierarchy_has_one_derivation():
    """Read upwards through the tables of pairs: every pair has one parent."""
    task = Hierarchy(symbols=5, productions=3, levels=3)
    for row in task.sample(50, generator(1, "test")).tokens.tolist():
        for level in range(1, 4):
            parents = {tuple(pair): symbol for symbol, pairs in enumerate(task.rules(level).tolist()) for pair in pairs}
            assert len(parents) == 15
            row = [parents[pair] for pair in zip(row[::2], row[1::2], strict=True)]
        assert len(row) == 1


def parses(task, sentence):
    """How many derivations a sentence has, by splitting it in every way."""
    chances, terminals, children = (part.tolist() for part in task.table())
    memory = {}

    def count(symbol, start, end):
        if (symbol, start, end) not in memory:
            memory[symbol, start, end] = sum(
                below(kids, start + 1, end)
                for terminal, kids, chance in zip(terminals[symbol], children[symbol], chances[symbol], strict=True)
                if start < end and sentence[start] == terminal and chance > 0
            )
        return memory[symbol, start, end]

    def below(kids, start, end):
        kids = [kid for kid in kids if kid >= 0]
        if not kids:
            return int(start == end)
        if len(kids) == 1:
            return count(kids[0], start, end)
        return sum(count(kids[0], start, cut) * count(kids[1], cut, end) for cut in range(start + 1, end))

    return count(0, 0, len(sentence))


def test_sentences_of_the_grammar_have_one_parse():
    task = Grammar()
    seen = 0
    for row in task.sample(60, generator(2, "test")).tokens.tolist():
        ends = [i for i, token in enumerate(row) if token == task.terminals]
        for start, end in zip([-1, *ends[:-1]], ends, strict=True):
            if end - start <= 20:
                assert parses(task, row[start + 1 : end]) == 1
                seen += 1
    assert seen > 500


@pytest.mark.parametrize("order", [1, 2, 3])
def test_markov_samples_follow_their_table(order):
    task = MarkovLanguage(states=4, order=order, symmetric=False, length=40)
    tokens = task.sample(2000, generator(3, "test")).tokens
    table, law = task.table()
    places = 4 ** torch.arange(order - 1, -1, -1)
    context = sum(tokens[:, i : 40 - order + i] * places[i] for i in range(order))
    pairs = torch.bincount((context * 4 + tokens[:, order:]).flatten(), minlength=4 ** (order + 1)).view(-1, 4)
    for counts, chances in zip(pairs, table, strict=True):
        wanted = chances * counts.sum()
        if wanted.min() >= 5:
            assert chisquare(counts, wanted).pvalue > 1e-5
    starts = torch.bincount((tokens[:, :order] * places).sum(1), minlength=4**order).double()
    common = law * len(tokens) >= 10
    rest = torch.tensor([starts[~common].sum() + 1e-9]), (law[~common].sum() * len(tokens) + 1e-9)[None]
    result, expected = torch.cat([starts[common], rest[0]]), torch.cat([law[common] * len(tokens), rest[1]])
    assert chisquare(result, expected).pvalue > 1e-5
