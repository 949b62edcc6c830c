"""Entropies, floors and trivial accuracies: against counting every outcome of small tasks, and against the tables of the design."""

import math
import sys

import numpy as np
import pytest
import torch

from palinode.base.markov import asymmetric_chain
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
from palinode.data.tasks.baselines import (
    baselines,
    in_context_mode,
    most_recent_value,
    ngram_cache,
    position_only,
    unigram,
)
from palinode.data.tasks.languages import stack_law

TINY = [
    AssociativeRecall(vocabulary=6, length=4),
    AssociativeRecall(vocabulary=7, length=6),
    AssociativeRecall(vocabulary=6, length=6, key_tokens=2),
    AssociativeRecall(vocabulary=6, length=4, allow_dot=True),
    InductionHead(vocabulary=5, length=5),
    InductionHead(vocabulary=4, length=6, answer_tokens=2),
    Copy(vocabulary=3, length=3),
    Reversal(vocabulary=3, length=3),
    Parity(length=5),
    Parity(length=4, cumulative=True),
    Majority(length=6),
    Majority(length=5, cumulative=True),
    Counting(alphabet=3, length=4),
    Addition(digits=1),
    Addition(digits=1, lsd_first=True),
    SelectiveCopy(vocabulary=4, length=8, content_tokens=2),
    Compression(vocabulary=4, length=4),
    Compression(vocabulary=4, length=4, as_published=True),
    Memorisation(vocabulary=9, pairs=3),
    MarkovLanguage(states=3, length=4),
    MarkovLanguage(states=2, length=6, order=2, symmetric=False),
    MarkovLanguage(states=2, length=7, order=3, symmetric=False),
    XorLanguage(bits=6),
    ProductLanguage(digits=1),
    Hierarchy(symbols=3, productions=2, levels=2),
    Grammar(length=5, nonterminals=2, rules=2, terminals=3),
    Grammar(length=6, nonterminals=3, rules=2, terminals=3, rules_seed=2),
]
DRAWS = 50_000
LEAST_ENTROPY_ERROR = 0.015  # of the mean log-probability of so many draws, and of counting up to a thousand kinds
BASE = 13  # one more than the ids of the tiny tasks


def as_numbers(rows):
    """One number for each row."""
    assert rows.max() < BASE
    return rows.astype(np.int64) @ BASE ** np.arange(rows.shape[1] - 1, -1, -1)


def counted_nats(rows):
    """Plug-in entropy of the rows, corrected by (kinds - 1) / (2 n) (Miller and Madow 1955)."""
    _, counts = np.unique(as_numbers(rows), return_counts=True)
    share = counts / len(rows)
    return float(-(share * np.log(share)).sum()) + (len(counts) - 1) / (2 * len(rows))


@pytest.mark.parametrize("task", TINY, ids=repr)
def test_entropies_equal_counted_outcomes(task):
    tokens = task.sample(DRAWS, generator(0, "test")).tokens.numpy()
    assert task.sequence_nats() == pytest.approx(counted_nats(tokens), abs=LEAST_ENTROPY_ERROR)
    assert task.edge_nats("ltr") == pytest.approx(counted_nats(tokens[:, :1]), abs=LEAST_ENTROPY_ERROR)
    assert task.edge_nats("rtl") == pytest.approx(counted_nats(tokens[:, -1:]), abs=LEAST_ENTROPY_ERROR)


@pytest.mark.parametrize("task", [task for task in TINY if task.best_accuracy_all_tokens() is not None], ids=repr)
def test_the_best_accuracy_is_that_of_the_likeliest_continuation(task):
    tokens = task.sample(DRAWS, generator(1, "test")).tokens.numpy()
    hits = 0
    for place in range(1, tokens.shape[1]):
        kinds, counts = np.unique(as_numbers(tokens[:, : place + 1]), return_counts=True)
        _, group = np.unique(kinds // BASE, return_inverse=True)
        best = np.zeros(group.max() + 1, dtype=np.int64)
        np.maximum.at(best, group.ravel(), counts)
        hits += best.sum() / len(tokens)
    assert task.best_accuracy_all_tokens() == pytest.approx(hits / (tokens.shape[1] - 1), abs=0.01)


COUNTED = [task for task in TINY if task.support() is not None and not isinstance(task, MarkovLanguage)]


@pytest.mark.parametrize("task", COUNTED, ids=repr)
def test_the_support_counts_the_prompts(task):
    sample = task.sample(DRAWS, generator(2, "test"))
    seen = len(np.unique(as_numbers(task.split_key(sample).numpy() + 1)))
    assert seen == pytest.approx(task.support(), rel=1e-9)


def test_floors_of_the_design():
    plain = AssociativeRecall(vocabulary=20, length=40)
    assert plain.floor_nats_all_tokens() == pytest.approx(
        1.4700, abs=5e-5
    )  # the train loss logged for a model that had solved it
    assert plain.best_accuracy_all_tokens() == pytest.approx(0.405, abs=5e-4)
    small = AssociativeRecall(vocabulary=10, length=20)
    assert small.floor_nats_all_tokens() == pytest.approx(0.8650, abs=5e-5)
    assert small.best_accuracy_all_tokens() == pytest.approx(0.531, abs=5e-4)
    induction = InductionHead()
    assert induction.floor_nats_all_tokens() == pytest.approx(2.7165, abs=5e-5)
    never_a_trigger = (29 / 18 + 2) / 31  # .116, had a reader no use for the odds of the trigger
    assert induction.best_accuracy_all_tokens() == pytest.approx(0.1257, abs=5e-5)
    assert induction.best_accuracy_all_tokens() > never_a_trigger
    dots = [AssociativeRecall(vocabulary=v, length=length, key_tokens=n, allow_dot=True) for v, length, n in ABSENT]
    assert [round(task.share_absent(), 3) for task in dots] == list(ABSENT.values())
    assert Hierarchy().entropy_nats_per_token() == pytest.approx(1.4296, abs=5e-5)
    assert ProductLanguage(digits=3).sequence_nats() == pytest.approx(9.226, abs=5e-4)
    assert (ProductLanguage(digits=3).support(), ProductLanguage().support()) == (10_153, 562_330)
    assert Hierarchy(symbols=3, productions=2, levels=2).support() == pytest.approx(24)


ABSENT = {(10, 20, 1): 0.056, (20, 40, 1): 0.095, (20, 40, 2): 0.851}


def test_the_ceiling_of_memorisation():
    """256 training sequences of 16 pairs, vocabularies 256 .. 8192."""
    ceilings = [Memorisation(vocabulary=256 << i).best_hidden_accuracy(256) for i in range(6)]
    assert ceilings == pytest.approx([1.0, 1.0, 0.9997, 0.982, 0.865, 0.632], abs=6e-4)
    task = Memorisation(vocabulary=2048)
    shown = task.sample(256, generator(0, "test")).tokens[:, ::2].flatten()
    asked = task.sample(500, generator(1, "test")).tokens[:, ::2].flatten()
    assert float(torch.isin(asked, shown).double().mean()) == pytest.approx(task.best_hidden_accuracy(256), abs=0.01)


def test_the_ceiling_of_memorisation_counts_what_is_seen_earlier_in_the_row():
    task = Memorisation(vocabulary=256, pairs=16)
    shown = task.sample(8, generator(0, "test")).tokens[:, ::2].flatten()
    asked = task.sample(4000, generator(1, "test")).tokens[:, ::2]
    earlier = (asked[:, :, None] == asked[:, None, :]).tril(-1).any(2)
    readable = (torch.isin(asked, shown) | earlier).double().mean()
    assert float(readable) == pytest.approx(task.best_answer_accuracy(8), abs=0.02)
    assert float(earlier.double().mean()) == pytest.approx(task.best_answer_accuracy(0), abs=0.005)
    assert task.best_hidden_accuracy(0) == 0
    assert task.best_answer_accuracy(None) == 1


def test_conventions_of_the_floor():
    task = Copy(vocabulary=16, length=16)
    assert task.entropy_nats_per_token() == pytest.approx(16 * math.log(16) / 33)
    assert task.floor_nats_all_tokens() == pytest.approx(15 * math.log(16) / 32)
    parity = Parity(length=4)
    assert Reversed(of=parity).edge_nats("ltr") == parity.edge_nats("rtl")
    assert MultiQueryRecall().floor_nats_all_tokens() is None


def test_markov_entropies_are_those_of_the_chain():
    chain, task = asymmetric_chain(), MarkovLanguage(symmetric=False)
    assert task.entropy_nats_per_token() == pytest.approx((chain.token_entropy_nats() + 63 * chain.entropy_nats()) / 64)
    symmetric = MarkovLanguage()
    assert symmetric.edge_nats("ltr") == symmetric.edge_nats("rtl") == pytest.approx(math.log(16))


def test_the_window_of_a_grammar_tends_to_its_rate():
    """The rate of an endless stream is the entropy of a sentence / (its mean length + 1), from the expected children of a rule."""
    task = Grammar(length=200)
    tops, ends = stack_law(task)
    assert torch.allclose(tops.sum(1) + ends, torch.ones(200, dtype=torch.float64), atol=1e-9)
    chances, _, children = task.table()
    expected = torch.stack([(chances[..., None] * (children == child)).sum((1, 2)) for child in range(4)], 1)
    nats, lengths = torch.linalg.solve(
        torch.eye(4, dtype=torch.float64) - expected, torch.stack([task.rule_nats(), torch.ones(4).double()], 1)
    )[0].tolist()
    late = (task.sequence_nats() - Grammar(length=180).sequence_nats()) / 20
    assert late == pytest.approx(nats / (lengths + 1), rel=1e-3)
    sentences = task.sample(1000, generator(0, "test"))
    assert float(sentences.slices["sentences"].double().mean()) == pytest.approx(float(ends.sum()), rel=0.02)


def drawn(task, count, name="test"):
    return task.sample(count, generator(0, name))


RECALL_TABLE = {  # vocabulary, length, key tokens: in-context mode, most recent value, cache of as many tokens as the key
    (10, 20, 1): (0.505, 0.454),
    (20, 40, 1): (0.285, 0.224),
    (30, 64, 1): (0.202, 0.147),
    (40, 128, 1): (0.155, 0.106),
    (20, 40, 2): (0.260, 0.181),
}


@pytest.mark.parametrize(("size", "levels"), RECALL_TABLE.items(), ids=str)
def test_baselines_of_associative_recall(size, levels):
    vocabulary, length, key_tokens = size
    task = AssociativeRecall(vocabulary=vocabulary, length=length, key_tokens=key_tokens)
    sample = drawn(task, 8_000)
    assert (in_context_mode(task, sample), most_recent_value(task, sample)) == pytest.approx(levels, abs=0.013)
    assert ngram_cache(sample, key_tokens) == 1.0
    assert task.chance() == pytest.approx(1 / (vocabulary - 2 - (vocabulary - 2) // 2))


def test_baselines_of_the_induction_head():
    task = InductionHead()
    sample = drawn(task, 12_000)
    assert in_context_mode(task, sample) == pytest.approx(0.141, abs=0.012)
    assert ngram_cache(sample, 1) == 1.0
    assert task.chance() == pytest.approx(1 / 18)


@pytest.mark.parametrize(
    ("length", "pairs", "level"), [(64, 4, 0.289), (128, 8, 0.156), (256, 16, 0.085), (512, 64, 0.029)]
)
def test_positions_alone_beat_one_over_n_on_mqar(length, pairs, level):
    task = MultiQueryRecall(length=length, pairs=pairs)
    rows = 60_000 // pairs
    accuracy = position_only(drawn(task, rows, "fit"), drawn(task, rows))
    assert accuracy == pytest.approx(level, abs=0.007)
    assert accuracy > 1.1 / pairs


@pytest.mark.parametrize(("noise", "level"), [(0.0, 0.315), (0.2, None), (0.8, 0.371)])
def test_baselines_of_mad_recall(noise, level):
    """Asked is one, and every real pair but the first of each key: 1 + E[R] - E[distinct], with R = 1 + Binomial(62, 1 - noise)."""
    task = MadNoisyRecall(noise=noise)
    sample = drawn(task, 1000)
    real = 63 if noise == 0 else 1 + 62 * (1 - noise)
    missed = (7 / 8) ** 63 if noise == 0 else 7 / 8 * (1 - (1 - noise) / 8) ** 62  # P(a key is not shown)
    assert float(sample.answers.sum(1).double().mean()) == pytest.approx(1 + real - 8 * (1 - missed), abs=0.35)
    if level is not None:
        assert in_context_mode(task, sample) == pytest.approx(level, abs=0.018)
    assert ngram_cache(sample, 1) == 1.0
    assert task.chance() == 0.125


CACHES = {
    Copy(vocabulary=16, length=16): (0.39, 0.83, 0.81),
    Copy(vocabulary=16, length=64): (0.08, 0.78, 0.94),
    Reversal(vocabulary=16, length=16): (0.05, 0.06, 0.01),
}


@pytest.mark.parametrize(("task", "levels"), CACHES.items(), ids=str)
def test_caches_of_copy_and_reversal(task, levels):
    sample = drawn(task, 48_000 // task.length)
    assert [ngram_cache(sample, order) for order in (1, 2, 3)] == pytest.approx(levels, abs=0.012)


def test_baselines_of_bits_and_counts():
    for length, always in ((16, 0.598), (64, 0.550)):
        task = Majority(length=length)
        assert unigram(drawn(task, 500, "fit"), drawn(task, 12_000)) == pytest.approx(always, abs=0.014)
    for length, first in ((15, 0.605), (63, 0.550)):
        task = Majority(length=length)
        assert position_only(drawn(task, 12_000, "fit"), drawn(task, 12_000)) == pytest.approx(first, abs=0.015)
    task = Counting()
    assert unigram(drawn(task, 12_000, "fit"), drawn(task, 12_000)) == pytest.approx(0.161, abs=0.01)
    assert SelectiveCopy().chance() == pytest.approx(1 / 14)
    parity = baselines(Parity(), drawn(Parity(), 5000, "fit"), drawn(Parity(), 5000))
    assert {name: value for name, value in parity.items() if value > 0.52 and name != "in_context_mode"} == {}


def test_every_baseline_against_a_loop():
    """All of them on small sequences, one answer at a time."""
    task = MultiQueryRecall(vocabulary=12, length=24, pairs=4, filler="uniform")
    fit, sample = drawn(task, 120, "fit"), drawn(task, 100)
    legal, rows = set(task.legal_answers().tolist()), sample.tokens.tolist()
    answers = [
        (row, place)
        for row, is_answer in zip(rows, sample.answers.tolist(), strict=True)
        for place in range(24)
        if is_answer[place]
    ]

    def share(guess):
        return sum(guess(row, place) == row[place] for row, place in answers) / len(answers)

    def cache(order):
        def guess(row, place):
            context = row[place - order : place]
            places = [i for i in range(order, place) if row[i - order : i] == context]
            return row[places[-1]] if places else None

        return guess

    def mode(row, place):
        seen = [token for token in row[:place] if token in legal]
        return max(sorted(set(seen)), key=seen.count, default=None)

    fitted = [
        (row, place)
        for row, is_answer in zip(fit.tokens.tolist(), fit.answers.tolist(), strict=True)
        for place in range(24)
        if is_answer[place]
    ]
    most = max(range(12), key=lambda token: sum(row[place] == token for row, place in fitted))

    def after(row, place):
        counts = [sum(r[p] == t and r[p - 1] == row[place - 1] for r, p in fitted) for t in range(12)]
        return counts.index(max(counts))

    def copied(row, place):
        held = [sum(p == place and r[u] == r[p] for r, p in fitted) for u in range(place)]
        return row[held.index(max(held))]

    wanted = {
        "unigram": share(lambda row, place: most),
        "bigram": share(after),
        "position_only": share(copied),
        "copy_last": share(lambda row, place: row[place - 1]),
        "most_recent_value": share(lambda row, place: next((t for t in row[:place][::-1] if t in legal), None)),
        "in_context_mode": share(mode),
        **{f"cache_{order}": share(cache(order)) for order in (1, 2, 3)},
        "uniform": task.chance(),
    }
    assert baselines(task, fit, sample) == pytest.approx(wanted)


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("sees", ["prompt", "others"])
def test_every_baseline_that_sees_both_sides_against_a_loop(sees, flipped):
    """The prompt alone, or all but the answer itself; one end, then the other, and the better of the two."""
    task = MadRecall(vocabulary=8, length=16)
    task = Reversed(of=task) if flipped else task
    fit, sample = drawn(task, 60, "fit"), drawn(task, 80)
    legal, size = set(task.legal_answers().tolist()), task.length_tokens

    def asked_of(part):
        """(what is seen: None elsewhere, place, answer) of every answer."""
        for row, marks in zip(part.tokens.tolist(), part.answers.tolist(), strict=True):
            for place in (place for place, mark in enumerate(marks) if mark):
                hidden = [mark if sees == "prompt" else at == place for at, mark in enumerate(marks)]
                yield [None if hide else token for token, hide in zip(row, hidden, strict=True)], place, row[place]

    def from_one_end(fit, sample):
        fitted, answers = list(asked_of(fit)), list(asked_of(sample))

        def share(guess):
            return sum(guess(seen, place) == answer for seen, place, answer in answers) / len(answers)

        def before(seen, place):
            return seen[place - 1] if place else None

        def cache(order):
            def guess(seen, place):
                context = seen[max(place - order, 0) : place]
                if len(context) < order or None in context:
                    return None
                places = [i for i in range(order, size) if seen[i] is not None and seen[i - order : i] == context]
                return seen[places[-1]] if places else None

            return guess

        def mode(seen, place):
            held = [token for token in seen if token in legal]
            return max(sorted(set(held)), key=held.count, default=None)

        def after(seen, place):
            counts = [sum(a == t and before(s, p) == before(seen, place) for s, p, a in fitted) for t in range(8)]
            return counts.index(max(counts)) if max(counts) else None

        def copied(seen, place):
            held = [sum(p == place and s[u] is not None and s[u] == a for s, p, a in fitted) for u in range(size)]
            return seen[held.index(max(held))] if max(held) else None

        most = max(range(8), key=lambda token: sum(a == token for _, _, a in fitted))
        return {
            "uniform": task.chance(),
            "unigram": share(lambda seen, place: most),
            "bigram": share(after),
            "position_only": share(copied),
            "copy_last": share(before),
            "most_recent_value": share(lambda seen, place: next((t for t in seen[:place][::-1] if t in legal), None)),
            "in_context_mode": share(mode),
            **{f"cache_{order}": share(cache(order)) for order in (1, 2, 3)},
        }

    one, other = from_one_end(fit, sample), from_one_end(fit.flipped(), sample.flipped())
    better, worse = (other, one) if flipped else (one, other)
    assert better["cache_1"] > worse["cache_1"] + 0.3
    assert baselines(task, fit, sample, sees) == pytest.approx({name: max(one[name], other[name]) for name in one})


SOLVED = {
    AssociativeRecall(): {"cache_1"},
    AssociativeRecall(key_tokens=2): {"cache_2"},
    InductionHead(): {"cache_1"},
    MultiQueryRecall(): {"cache_1"},
    MadRecall(): {"cache_1"},
    MadRecall(multi_query=False): {"cache_1"},
    MadNoisyRecall(): {"cache_1"},
    MadFuzzyRecall(): set(),
    SelectiveCopy(): set(),
    Compression(): {"position_only"},
    Compression(as_published=True): {"position_only"},
    Memorisation(): {"bigram"},
    Copy(): {"position_only"},
    Reversal(): {"position_only"},
    Parity(): set(),
    Majority(): {"in_context_mode"},
    Majority(length=15): {"in_context_mode"},
    Majority(cumulative=True): set(),
    Counting(): set(),
    Addition(): set(),
    XorLanguage(): set(),
    ProductLanguage(): set(),
}


@pytest.mark.parametrize(("task", "wanted"), SOLVED.items(), ids=str)
def test_what_solves_a_task_is_declared(task, wanted):
    """What gets every answer right is what the task says it is solved by; nothing else does, so a level is left to beat."""
    accuracies = baselines(task, drawn(task, 2000, "fit"), drawn(task, 400))
    perfect = {name for name, value in accuracies.items() if value > 0.9999}
    assert perfect == wanted
    assert wanted <= set(task.solved_by) <= set(accuracies)
    assert task.solved_by == Reversed(of=task).solved_by
    assert wanted or not task.solved_by


def test_very_many_answers_are_represented_by_the_first(monkeypatch):
    """What compares every answer with every token before it would take minutes at long sequences; the rest is counted in full."""
    task, rows = TASKS["mad-recall"](length=64), 3000
    fit, sample = drawn(task, rows, "fit"), drawn(task, rows)
    every = baselines(task, fit, sample)
    assert int(sample.answers.sum()) > 20_000
    monkeypatch.setattr(sys.modules[baselines.__module__], "MOST_COMPARED", 64 * 20_000)
    some = baselines(task, fit, sample)
    assert {name for name, value in some.items() if value != every[name]} >= {"in_context_mode", "cache_1"} - {
        name for name, value in every.items() if value == 1
    }
    assert some == pytest.approx(every, abs=4 * 0.5 / 20_000**0.5)


def test_the_places_of_very_long_sequences_need_no_square():
    task = AssociativeRecall(vocabulary=10, length=2**17)
    accuracy = position_only(drawn(task, 8, "fit"), drawn(task, 8))
    assert 0 <= accuracy <= 1
