"""C9 (i): sources that are not true, and Examples that depend on the ids, are named with their slot."""

from dataclasses import replace

import pytest
import torch
from torch import Generator, Tensor, nn

from palinode.base.example import NO_SOURCE, Draw, SpecialTokens, one_pass
from palinode.base.visibility import Ltr
from palinode.checks.bench import Bench
from palinode.checks.provenance import check_provenance
from palinode.checks.subject import Subject
from palinode.objectives import BothObjective, ChooseObjective, LtrObjective, Objective, RtlObjective
from palinode.objectives.probability import Constant

SPECIALS, WINDOW = SpecialTokens(16), 12


class MaskedInputs(Objective):
    """MEAP: next-token prediction with 15 % of the inputs masked; the targets stay."""

    def draw(self, batch: int, window_tokens: int, generator: Generator, progress) -> Draw:
        return Draw({"hidden": torch.rand(batch, window_tokens, generator=generator) < 0.15})

    def hidden(self, windows: Tensor, draw: Draw) -> Tensor:
        return draw["hidden"]

    def example(self, windows: Tensor, draw: Draw, specials: SpecialTokens):
        index = torch.arange(windows.shape[1])
        sources = torch.where(self.hidden(windows, draw), NO_SOURCE, index)
        begin = torch.full((len(windows), 1), NO_SOURCE)
        return one_pass(
            windows,
            name="ltr",
            sees=Ltr(),
            input_source=torch.cat([begin, sources[:, :-1]], 1),
            target_source=index,
            special_input=specials["[MASK]"],
        )

    def may_inform(self, source: Tensor, target: Tensor, group: str, draw: Draw) -> Tensor:
        return (source < target) & ~draw["hidden"][source]


class MasksTargetsToo(MaskedInputs):
    """M25: the masked ids are predicted as masks."""

    def example(self, windows: Tensor, draw: Draw, specials: SpecialTokens):
        made = super().example(windows, draw, specials)
        return replace(made, targets=torch.where(draw["hidden"], specials["[MASK]"], made.targets))


class HidesByTokenId(MaskedInputs):
    """M26: the hidden set is chosen from the ids (every fifth kind of token)."""

    def hidden(self, windows: Tensor, draw: Draw) -> Tensor:
        return windows % 5 == 0


class ShiftedSources(LtrObjective):
    """M33: the data are right, the claim is off by one."""

    def example(self, windows: Tensor, draw: Draw, specials: SpecialTokens):
        made = super().example(windows, draw, specials)
        return replace(made, input_source=(made.input_source + 1).clamp_max(windows.shape[1] - 1))


class ParityToken(RtlObjective):
    """M32: the direction token tells whether the last token is odd."""

    def example(self, windows: Tensor, draw: Draw, specials: SpecialTokens):
        made = super().example(windows, draw, specials)
        inputs = made.inputs.clone()
        inputs[:, -1] = torch.where(windows[:, -1] % 2 == 1, specials["[R]"], specials["[L]"])
        return replace(made, inputs=inputs)


class WeighsByContent(LtrObjective):
    """Rare tokens weigh double: the loss weight depends on the ids."""

    def example(self, windows: Tensor, draw: Draw, specials: SpecialTokens):
        made = super().example(windows, draw, specials)
        return replace(made, loss_weight=torch.where(windows > 12, 2.0, 1.0))


def provenance(objective):
    subject = Subject(
        name="labels",
        module=nn.Identity(),
        objective=objective,
        forward=lambda module, example: torch.zeros(()),
        specials=SPECIALS,
        vocab_size=SPECIALS.vocab_size,
        window_tokens=WINDOW,
        evaluation_tokens=WINDOW,
        max_window_tokens=WINDOW,
    )
    return {finding.check: finding for finding in check_provenance(Bench(subject))}


@pytest.mark.parametrize(
    "objective",
    [
        LtrObjective(),
        RtlObjective(direction_token=False),
        BothObjective(p=Constant(p=0.05)),
        ChooseObjective(p=Constant(p=0.5)),
        MaskedInputs(),
    ],
    ids=lambda objective: type(objective).__name__,
)
def test_true_sources_pass(objective):
    assert {check: finding.outcome for check, finding in provenance(objective).items()} == {
        "C1.provenance": "pass",
        "C1.identity": "pass",
    }


@pytest.mark.parametrize(
    ("defect", "check", "message"),
    [
        (MasksTargetsToo(), "C1.identity", "targets is not window[source] at slot"),
        (HidesByTokenId(), "C1.provenance", "changes input_source at slot"),
        (ShiftedSources(), "C1.identity", "inputs is not window[source] at slot 0 of pass ltr, which claims source 0"),
        (ShiftedSources(), "C1.provenance", "changes inputs at slot"),
        (ParityToken(), "C1.provenance", f"changes inputs at slot {WINDOW - 1} of pass rtl, which claims source -1"),
        (WeighsByContent(), "C1.provenance", "changes loss_weight at slot"),
    ],
    ids=["M25", "M26", "M33 identity", "M33 law c", "M32", "weights"],
)
def test_defects_are_named_with_their_slot(defect, check, message):
    finding = provenance(defect)[check]
    assert finding.outcome == "fail"
    assert message in finding.message
