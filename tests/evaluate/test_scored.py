"""What a sum of nats is about: scored tokens, given tokens and kind, for windows whose answer is known."""

from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch

from palinode.base.example import SpecialTokens, Windows, joined, one_pass
from palinode.base.objective import Objective
from palinode.base.seeds import generator
from palinode.base.visibility import Full
from palinode.evaluate.losses import Scoring, evaluation_passes
from palinode.evaluate.scored import ScoredTextOf
from palinode.objectives import (
    BothObjective,
    BottleneckObjective,
    LtrObjective,
    MaskedInputObjective,
    MaskedObjective,
    RtlObjective,
)
from palinode.results.record import Result
from palinode.results.scored import comparable

WINDOW, WINDOWS = 16, 6
SPECIALS = SpecialTokens(20)
SCORING = Scoring(SPECIALS, np.ones(20, dtype=np.int64), seed=0)


def some_windows(seed=0, count=WINDOWS, answers=False):
    tokens = torch.randint(0, 20, (count, WINDOW), generator=generator(seed, "windows"))
    marked = (torch.arange(WINDOW) >= WINDOW - 4).expand(count, WINDOW) if answers else None
    return [Windows(tokens, marked)]


def about(objective, windows=None, scoring=SCORING):
    collector = ScoredTextOf(objective)
    for batch in scoring.batches(windows or some_windows(), {"own": objective}):
        collector.add(batch)
    return collector.result()


class ShownTwice(LtrObjective):
    """Each token is scored by an ltr pass and by an rtl pass of the same window."""

    kind = ""

    def example(self, windows, draw, specials):
        return joined([LtrObjective().reading(windows, specials), RtlObjective().reading(windows, specials)])

    def may_inform(self, source, target, group, draw):
        return source < target if group == "ltr" else source > target


class Uneven(LtrObjective):
    """The loss weights of a window differ."""

    kind = ""

    def example(self, windows, draw, specials):
        whole = super().example(windows, draw, specials)
        return replace(whole, loss_weight=whole.loss_weight * torch.linspace(0.5, 1, WINDOW))


class EverythingButItself(Objective):
    """Each token is predicted from all other tokens: a pseudo-likelihood."""

    def example(self, windows, draw, specials):
        index = torch.arange(windows.shape[1])
        return one_pass(windows, name="all", sees=Full(), input_source=index, target_source=index)

    def may_inform(self, source, target, group, draw):
        return source != target


class Copies(EverythingButItself):
    scores_itself: ClassVar[bool] = True


class ByOrder(Objective):
    """N rows for a window; row t scores token t from the tokens before it."""

    def example(self, windows, draw, specials):
        count, length = windows.shape
        index = torch.arange(length)
        row = index.repeat(count)[:, None]
        shown = torch.where(index[None] < row, index[None], -1)
        rows = torch.arange(count).repeat_interleave(length)
        weight = (index[None] == row).float()
        return one_pass(
            windows,
            name="by order",
            sees=Full(),
            input_source=shown,
            target_source=index,
            loss_weight=weight,
            window_row=rows,
        )

    def may_inform(self, source, target, group, draw):
        return source < target


HIDDEN = MaskedObjective(hide_answers=False, rate=0.25)
EXPECTED = {
    "ltr": (LtrObjective(), "likelihood", WINDOW, 0),
    "rtl": (RtlObjective(), "likelihood", WINDOW, 0),
    "ltr without a direction token": (LtrObjective(direction_token=False), "likelihood", WINDOW - 1, 1),
    "a fixed hidden set": (HIDDEN, "likelihood", 4, WINDOW - 4),
    "by order": (ByOrder(), "likelihood", WINDOW, 0),
    "scored twice": (ShownTwice(), "pseudo", WINDOW, 0),
    "uneven weights": (Uneven(), "pseudo", WINDOW, 0),
    "all others": (EverythingButItself(), "pseudo", WINDOW, 0),
    "itself": (Copies(), "reconstruction", WINDOW, 0),
    "hidden inputs": (MaskedInputObjective(rate=0.25), "likelihood", WINDOW, 0),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_tokens_given_and_kind(name):
    objective, kind, tokens, given = EXPECTED[name]
    scored = about(objective)
    assert (scored.kind, scored.tokens, scored.given, scored.windows) == (kind, tokens, given, WINDOWS)


def test_the_answers_of_a_task_are_the_scored_tokens():
    windows, answers = some_windows(answers=True), replace(SCORING, labels="answer")
    scored = about(LtrObjective(), windows, answers)
    assert (scored.kind, scored.tokens, scored.given) == ("likelihood", 4, WINDOW - 4)
    for objective in (MaskedObjective(), BottleneckObjective()):
        scored = about(objective, windows)
        assert (scored.kind, scored.tokens, scored.given) == ("likelihood", 4, WINDOW - 4)


def test_every_window_of_a_random_pass_has_its_own_hidden_tokens():
    first, again = about(HIDDEN), about(HIDDEN)
    other_seed = about(HIDDEN, scoring=replace(SCORING, seed=1))
    assert first == again
    assert other_seed.windows_sha256 == first.windows_sha256
    assert other_seed.tokens_sha256 != first.tokens_sha256


def test_batches_and_a_short_last_window_do_not_matter():
    [whole] = some_windows()
    short = Windows(whole.tokens[:1, :5])
    parts = [Windows(whole.tokens[:2]), Windows(whole.tokens[2:])]
    for objective in (LtrObjective(), HIDDEN):
        assert about(objective, [whole, short]) == about(objective, [*parts, short])
    assert about(LtrObjective(), [whole, short]).tokens == WINDOW


def test_the_definition_is_asked_once_for_windows_that_are_alike(monkeypatch):
    calls = []
    honest = LtrObjective.may_inform
    monkeypatch.setattr(LtrObjective, "may_inform", lambda *given: calls.append(1) or honest(*given))
    about(LtrObjective(), [*some_windows(0, 50), *some_windows(1, 50)])
    assert len(calls) == 1


def result(**passes):
    return Result(run_id="r", outcome="done", scored={"validation": passes})


def test_only_sums_about_the_same_tokens_and_givens_are_comparable():
    ltr, masked = about(LtrObjective()), about(HIDDEN)
    both = evaluation_passes(BothObjective(), ("ltr", "rtl"))
    one = result(ltr=ltr, rtl=about(both["rtl"]), masked=masked, other=about(LtrObjective(), some_windows(1)))

    def why(first, second, other=one):
        return comparable(one, other, "validation", first, second)

    assert why("ltr", "rtl") is None
    assert why("masked", "ltr") == "not comparable: masked scores 4 tokens given 12, ltr 16 given none"
    assert why("ltr", "other") == "not comparable: ltr and other score other windows"
    moved = about(HIDDEN, scoring=replace(SCORING, seed=1))
    assert "score other tokens of the same windows" in why("masked", "masked", result(masked=moved))
    pseudo = result(all=about(EverythingButItself()))
    assert why("ltr", "all", pseudo) == "not comparable: ltr is a likelihood, all is a pseudo-likelihood"
    assert why("ltr", "ltr", Result(run_id="r", outcome="done")) is None
    assert comparable(one, one, "test", "ltr", "masked") is None


def test_a_window_that_is_too_long_is_not_judged(monkeypatch):
    monkeypatch.setattr("palinode.evaluate.scored.LONGEST_WINDOW_TOKENS", WINDOW - 1)
    assert about(LtrObjective()) is None
