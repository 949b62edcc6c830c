"""Synthetic tasks generated the straightforward way, one sequence and one draw at a time, as the published generators do.

The tests hold these loops and the vectorised tasks to one distribution; benchmarks/task_generation.py times both.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np


class NumpyDice:
    """One call of a NumPy generator for each draw, the form of the published generators."""

    def __init__(self, seed: int):
        self.rng = np.random.default_rng(seed)

    def below(self, high: int) -> int:
        return int(self.rng.choice(high))

    def uniform(self) -> float:
        return float(self.rng.random())


class PlainDice:
    """Python's own generator: the leanest call there is."""

    def __init__(self, seed: int):
        self.rng = random.Random(seed)

    def below(self, high: int) -> int:
        return int(self.rng.random() * high)

    def uniform(self) -> float:
        return self.rng.random()


Dice = NumpyDice | PlainDice
Loop = Callable[[Any, Dice], list[int]]


def associative_recall(task: Any, dice: Dice, query_by_frequency: bool = False) -> list[int]:
    """A map from all keys, pairs, and a key redrawn until it is one that was shown.

    Args:
        query_by_frequency: planted defect M45: the query is the key of a random pair, so that frequent keys are asked more often.
    """
    table = [dice.below(task.values) for _ in range(task.key_tuples)]
    tokens: list[int] = []
    shown: list[int] = []
    for _ in range(task.pairs):
        key = dice.below(task.key_tuples)
        shown.append(key)
        tokens += [*key_ids(task, key), 1 + task.keys + table[key]]
    if query_by_frequency:
        query = shown[dice.below(len(shown))]
    else:
        query = dice.below(task.key_tuples)
        while query not in shown and not task.allow_dot:
            query = dice.below(task.key_tuples)
    answer = 1 + task.keys + table[query] if query in shown else 0
    return [*tokens, task.vocabulary - 1, *key_ids(task, query), answer]


def key_ids(task: Any, key: int) -> list[int]:
    return [1 + key // task.keys**place % task.keys for place in range(task.key_tokens - 1, -1, -1)]


def induction_head(task: Any, dice: Dice) -> list[int]:
    trigger, after = task.vocabulary - 1, task.answer_tokens
    tokens = [1 + dice.below(task.content) for _ in range(task.length)]
    many = 1 if task.triggers == 1 or dice.uniform() < 0.5 else task.triggers
    places: list[int] = []
    for place in sorted(dice.below(task.length - 1 - after) for _ in range(many)):
        if not places or place > places[-1] + after:
            places.append(place)
    answer = tokens[places[0] + 1 : places[0] + 1 + after]
    for place in places:
        tokens[place : place + 1 + after] = [trigger, *answer]
    return [*tokens, trigger, *answer]


def mqar(task: Any, dice: Dice) -> list[int]:
    half = task.vocabulary // 2
    keys = some_of(range(1, half), task.pairs, dice)
    values = some_of(range(half, task.vocabulary), task.pairs, dice)
    shown = [token for key, value in zip(keys, values, strict=True) for token in (key, value)] * task.passes
    rest = [dice.below(task.vocabulary) if task.filler == "uniform" else 0 for _ in range(task.length - len(shown))]
    slots = list(range(len(rest) // 2))
    weights = [(slot + 1) ** (task.power - 1) for slot in slots]
    for key, value in zip(keys, values, strict=True):
        at = dice.uniform() * sum(weights)
        chosen = 0
        while at >= weights[chosen] and chosen < len(weights) - 1:
            at -= weights[chosen]
            chosen += 1
        weights.pop(chosen)
        slot = slots.pop(chosen)
        rest[2 * slot : 2 * slot + 2] = [key, value]
    return shown + rest


def some_of(pool: range, count: int, dice: Dice) -> list[int]:
    chosen: list[int] = []
    while len(chosen) < count:
        one = pool[dice.below(len(pool))]
        if one not in chosen:
            chosen.append(one)
    return chosen


def mad_recall(task: Any, dice: Dice) -> list[int]:
    pairs = task.length // 2 - 1
    protected = dice.below(pairs)
    table: dict[int, int] = {}
    tokens: list[int] = []
    for i in range(pairs):
        if task.noise and i != protected and dice.uniform() < task.noise:
            tokens += [task.vocabulary + dice.below(task.noise_vocabulary) for _ in range(2)]
            continue
        key = dice.below(task.keys)
        if key not in table:
            table[key] = task.keys + dice.below(task.values)
        tokens += [key, table[key]]
    key = list(table)[dice.below(len(table))]
    return [*tokens, *([] if task.multi_query else [task.vocabulary - 1]), key, table[key]]


def mad_fuzzy_recall(task: Any, dice: Dice) -> list[int]:
    letters = task.vocabulary - (1 if task.multi_query else 2)
    table: dict[tuple[int, ...], tuple[int, ...]] = {}

    def pair() -> list[int]:
        size = 1 + dice.below(task.most_tokens) if task.key_sizes == "mixed" else task.most_tokens
        key = tuple(some_of(range(task.keys), size, dice))
        if key not in table:
            table[key] = tuple(some_of(range(task.keys, letters), 1 + dice.below(task.most_tokens), dice))
        return [*key, *table[key]]

    planted = pair()
    pairs: list[list[int]] = []
    while sum(map(len, pairs)) < task.length - 2 * len(planted) - 2 * task.most_tokens:
        pairs.append(pair())
    pairs.insert(dice.below(len(pairs) + 1), planted)
    end = [*([] if task.multi_query else [task.vocabulary - 2]), *planted]
    tokens = [token for one in pairs for token in one] + end
    return [task.vocabulary - 1] * (task.length - len(tokens)) + tokens


def selective_copy(task: Any, dice: Dice) -> list[int]:
    blank = task.vocabulary - 2
    content = [dice.below(blank) for _ in range(task.content_tokens)]
    blanks = task.body - task.content_tokens
    if task.as_published:
        before = [dice.below(task.content_tokens) for _ in range(blanks)]
        body = [token for i, own in enumerate(content) for token in [blank] * before.count(i) + [own]]
    else:
        body = [blank] * task.body
        for place, own in zip(sorted(some_of(range(task.body), task.content_tokens, dice)), content, strict=True):
            body[place] = own
    return [*body, task.vocabulary - 1, *content]


LOOPS: dict[str, Loop] = {
    "associative-recall": associative_recall,
    "induction-head": induction_head,
    "mqar": mqar,
    "mad-recall": mad_recall,
    "mad-noisy-recall": mad_recall,
    "mad-fuzzy-recall": mad_fuzzy_recall,
    "mad-selective-copy": selective_copy,
}
