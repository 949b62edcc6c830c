"""C9 without a model: targets copied from their own input, and random streams that are one stream."""

from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from torch import Generator, Tensor

from palinode.base.example import NO_SOURCE, Draw, SpecialTokens, one_pass
from palinode.base.seeds import generator
from palinode.base.visibility import Full, Ltr
from palinode.checks.labels import check_copies, check_streams
from palinode.objectives import BothObjective, ChooseObjective, LtrObjective, Objective, RtlObjective
from palinode.objectives.probability import Constant, StepAt

SPECIALS = SpecialTokens(64)
WINDOW = 24


class CopiesItsInput(Objective):
    """M05: targets are not shifted, and the sources admit it."""

    def example(self, windows: Tensor, draw: Draw, specials: SpecialTokens):
        index = torch.arange(windows.shape[1])
        return one_pass(windows, name="ltr", sees=Ltr(), input_source=index, target_source=index)


class CopiesAndLies(Objective):
    """M05 with sources that claim an honest shift: only the ids give it away."""

    def example(self, windows: Tensor, draw: Draw, specials: SpecialTokens):
        index = torch.arange(windows.shape[1])
        honest = one_pass(windows, name="ltr", sees=Ltr(), input_source=index - 1, target_source=index)
        return replace(honest, inputs=windows, targets=windows)


class MaskedTokens(Objective):
    """Masked LM: 30 % of the inputs are hidden and are the only targets. `all_slots` is M24, `keep` BERT's kept tenth."""

    all_slots: bool = False
    keep: float = 0.0

    def draw(self, batch: int, window_tokens: int, generator: Generator, progress) -> Draw:
        order = torch.rand(batch, window_tokens, generator=generator).argsort(1)
        return Draw({"hidden": order < round(0.3 * window_tokens), "kept": order < self.keep * window_tokens})

    def example(self, windows: Tensor, draw: Draw, specials: SpecialTokens):
        index = torch.arange(windows.shape[1]).expand(windows.shape)
        masked = draw["hidden"] & ~draw["kept"]
        return one_pass(
            windows,
            name="mlm",
            sees=Full(),
            input_source=torch.where(masked, NO_SOURCE, index),
            target_source=index,
            special_input=specials["[MASK]"],
            loss_weight=torch.ones(windows.shape) if self.all_slots else draw["hidden"],
        )

    def groups(self) -> tuple[str, ...]:
        return ("mlm",)


class KeptTokens(MaskedTokens):
    """The kept tenth, declared."""

    scores_itself: ClassVar[bool] = True
    keep: float = 0.1


@pytest.mark.parametrize(
    "objective",
    [
        LtrObjective(),
        LtrObjective(direction_token=False),
        RtlObjective(),
        BothObjective(p=Constant(p=0.05)),
        ChooseObjective(p=Constant(p=0.01)),
        BothObjective(p=StepAt(at_step=900, p_before=0.0, p_after=0.5)),
        MaskedTokens(),
        KeptTokens(),
    ],
    ids=lambda objective: type(objective).__name__,
)
def test_honest_objectives_pass(objective):
    finding = check_copies(objective, SPECIALS, WINDOW)
    assert finding.outcome == "pass", finding.message
    assert finding.numbers["planted_copies_seen"] == 1


@pytest.mark.parametrize("defect", [CopiesItsInput(), CopiesAndLies()])
def test_m05_unshifted_targets_fail(defect):
    finding = check_copies(defect, SPECIALS, WINDOW)
    assert finding.outcome == "fail"
    assert finding.numbers["share"] == 1.0


def test_m24_masked_lm_that_scores_shown_tokens_fails():
    finding = check_copies(MaskedTokens(all_slots=True), SPECIALS, WINDOW)
    assert finding.outcome == "fail"
    assert finding.numbers["share"] == pytest.approx(1 - round(0.3 * WINDOW) / WINDOW)


def test_m23_an_undeclared_kept_tenth_fails():
    assert check_copies(MaskedTokens(keep=0.1), SPECIALS, WINDOW).outcome == "fail"


def test_chance_is_one_over_the_vocabulary():
    finding = check_copies(LtrObjective(), SpecialTokens(4), WINDOW)
    assert finding.outcome == "pass"
    assert finding.numbers["expected_share"] == pytest.approx(1 / 4 * (WINDOW - 1) / WINDOW)
    assert finding.numbers["share_without_repeats"] is None  # 24 tokens of 4 kinds repeat


def test_a_pass_that_never_comes_cannot_tell():
    finding = check_copies(BothObjective(p=Constant(p=0.0)), SPECIALS, WINDOW)
    assert (finding.outcome, "never drawn: rtl" in finding.message) == ("could_not_tell", True)


def test_streams_of_one_run_are_apart():
    names = ("data", "objective", "evaluation", "audit")
    assert check_streams({name: generator(3, name, 0) for name in names}).outcome == "pass"


def test_shared_streams_are_named():
    streams = {"data": generator(3, "data"), "objective": generator(3, "data"), "evaluation": torch.default_generator}
    finding = check_streams(streams)
    assert finding.outcome == "fail"
    assert "data and objective" in finding.message
    assert "evaluation and torch's global stream" in finding.message


def test_streams_are_not_drawn_from():
    stream = generator(3, "data")
    before = stream.get_state()
    check_streams({"data": stream, "objective": generator(3, "objective")})
    assert torch.equal(stream.get_state(), before)
    assert check_streams({"data": stream}).outcome == "could_not_tell"
