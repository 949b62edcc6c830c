"""Every planted defect that C1, C2 or C6 must catch: the check named in the table fails and names the place; the clean twin passes.

The numbers M01.. are those of the audit's design. Each defect is one argument away from its twin.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import pytest
import torch
from planted_objectives import (
    BeliefPairs,
    BeliefStack,
    FalseProvenance,
    FillInTheMiddle,
    MaskedLm,
    Meap,
    MultiToken,
    ParityToken,
    PrefixLm,
    ShiftedLtr,
    SpanCorruption,
    TokenAtWrongEnd,
    TwoHeads,
    read_pairs,
    read_two_heads,
)
from small_stacks import (
    Attention,
    BatchNorm,
    BigramEmbedding,
    CrossAttention,
    LongConv,
    ShortConvAttention,
    SmallStack,
    SometimesOpen,
    TimeMean,
    TimeNorm,
    read_by_mask,
)
from torch import nn

from palinode.audit import CanarySettings, FlowSettings, StepwiseSettings, Subject, audit_subject
from palinode.base.example import SpecialTokens
from palinode.base.finding import AuditReport, Finding
from palinode.base.visibility import FlippedLowerTriangle
from palinode.objectives import Objective
from palinode.objectives.directional import ChooseObjective, LtrObjective, RtlObjective
from palinode.objectives.probability import Constant

SPECIALS = SpecialTokens(32)
WINDOW_TOKENS = 24
FLOW = FlowSettings(lengths=(1, 2, 3, 31, 32, 33, 65), draws_tokens=20, train_passes=8)
STEPWISE = StepwiseSettings(total_tokens=WINDOW_TOKENS + 1)
CANARY = CanarySettings(steps=100, markov_steps=0)
MARKOV = CanarySettings(steps=8, markov_steps=100)
ONLY_RTL = ChooseObjective(p=Constant(p=1.0))


def stack(*mixers: Callable[[int], nn.Module], **options: object) -> nn.Module:
    """A small stack with its own first weights, whatever was drawn before."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SmallStack(SPECIALS.vocab_size, list(mixers or (Attention, Attention)), **options)


def subject(
    module: nn.Module, objective: Objective | None = None, forward: object = read_by_mask, longest: int = 66
) -> Subject:
    return Subject(
        name="planted",
        module=module,
        objective=objective or LtrObjective(),
        forward=forward,
        specials=SPECIALS,
        vocab_size=SPECIALS.vocab_size,
        window_tokens=WINDOW_TOKENS,
        evaluation_tokens=WINDOW_TOKENS,
        max_window_tokens=longest,
    )


def without_flipping_back(module: nn.Module, example) -> torch.Tensor:
    return module(example.inputs.flip(1))


def next_power_of_two(slots: int) -> int:
    return 1 << (slots - 1).bit_length()


def published(size: int) -> Objective:
    return ONLY_RTL.with_(rtl_sees=FlippedLowerTriangle(size=size))


def two_heads() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        trunk = SmallStack(SPECIALS.vocab_size, [Attention, Attention])
        trunk.head = nn.Identity()
        return TwoHeads(trunk, 32, SPECIALS.vocab_size)


def belief_stack() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return BeliefStack(SPECIALS.vocab_size)


STRICT = partial(Attention, strict=True, hidden=-1e4)
SUBJECTS: dict[str, Callable[[], Subject]] = {
    # whole
    "ltr": lambda: subject(stack()),
    "rtl": lambda: subject(stack(), RtlObjective()),
    "bare ltr": lambda: subject(stack(), ShiftedLtr()),
    "no residual": lambda: subject(stack(Attention, residual=False)),
    "short conv": lambda: subject(stack(partial(ShortConvAttention, same_padded=False), Attention)),
    "long conv": lambda: subject(stack(partial(LongConv, length_of=lambda slots: 2 * slots))),
    "causal mean": lambda: subject(stack(partial(TimeMean, over="seen"), Attention)),
    "strict": lambda: subject(stack(partial(STRICT, first_row=True))),
    "cross-attention": lambda: subject(stack(partial(CrossAttention, open_memory=False))),
    "mlm": lambda: subject(stack(), MaskedLm()),
    "meap": lambda: subject(stack(), Meap()),
    "prefix": lambda: subject(stack(), PrefixLm()),
    "fim": lambda: subject(stack(), FillInTheMiddle()),
    "span": lambda: subject(stack(), SpanCorruption()),
    "multi-token": lambda: subject(two_heads(), MultiToken(), read_two_heads),
    "pairs": lambda: subject(belief_stack(), BeliefPairs(), read_pairs),
    "constant token": lambda: subject(stack(), ParityToken(broken=False)),
    "true provenance": lambda: subject(stack(), FalseProvenance(broken=False)),
    "bigram": lambda: subject(stack(embedding=partial(BigramEmbedding, looks_ahead=False))),
    # broken
    "M01": lambda: subject(stack(), published(1024)),
    "M02": lambda: subject(stack(), published(WINDOW_TOKENS), longest=WINDOW_TOKENS),
    "M03": lambda: subject(stack(), RtlObjective(), without_flipping_back),
    "M04": lambda: subject(stack(), TokenAtWrongEnd()),
    "M05": lambda: subject(stack(), ShiftedLtr(shift=0)),
    "M06": lambda: subject(stack(), ShiftedLtr(shift=2)),
    "M07": lambda: subject(stack(partial(Attention, widen=1), Attention)),
    "M08": lambda: subject(stack(Attention, partial(Attention, open_heads=2))),
    "M09": lambda: subject(stack(partial(Attention, open_heads=1), Attention)),
    "M10": lambda: subject(stack(partial(Attention, strict=True, first_row=False), residual=False)),
    "M11": lambda: subject(stack(partial(ShortConvAttention, same_padded=True), Attention)),
    "M12": lambda: subject(stack(partial(LongConv, length_of=lambda slots: slots))),
    "M13": lambda: subject(stack(partial(LongConv, length_of=next_power_of_two))),
    "M14": lambda: subject(stack(norm=BatchNorm)),
    "M15": lambda: subject(stack(norm=TimeNorm)),
    "M16": lambda: subject(stack(partial(TimeMean, over="all"), Attention)),
    "M17": lambda: subject(stack(partial(Attention, hidden=-30.0), partial(Attention, hidden=-30.0))),
    "M18": lambda: subject(stack(partial(STRICT, first_row=False))),
    "M19": lambda: subject(stack(partial(CrossAttention, open_memory=True))),
    "M20": lambda: subject(stack(partial(TimeMean, over="seen, divided by all"), Attention)),
    "M21": lambda: subject(stack(Attention, partial(Attention, over_batch=True))),
    "M22": lambda: subject(stack(positions="from end")),
    "M23": lambda: subject(stack(), MaskedLm(kept=True)),
    "M24": lambda: subject(stack(), MaskedLm(all_slots=True)),
    "M25": lambda: subject(stack(), Meap(masked_targets=True)),
    "M26": lambda: subject(stack(), Meap(chosen_by_ids=True)),
    "M27": lambda: subject(stack(), PrefixLm(scored_too_early=1)),
    "M28": lambda: subject(stack(), FillInTheMiddle(broken=True)),
    "M29": lambda: subject(stack(), SpanCorruption(broken=True)),
    "M30": lambda: subject(two_heads(), MultiToken(broken=True), read_two_heads),
    "M31": lambda: subject(belief_stack(), BeliefPairs(broken=True), read_pairs),
    "M32": lambda: subject(stack(), ParityToken()),
    "M33": lambda: subject(stack(), FalseProvenance()),
    "M49": lambda: subject(stack(embedding=partial(BigramEmbedding, looks_ahead=True))),
    "sometimes open": lambda: subject(stack(SometimesOpen, Attention)),
}


@dataclass(frozen=True)
class Planted:
    """A defect: its clean twin, and the checks that must fail with what their message must say."""

    broken: str
    clean: str
    places: dict[str, str]

    @property
    def canary(self) -> dict[str, str]:
        return {check: place for check, place in self.places.items() if check.startswith("C2")}

    @property
    def flow(self) -> dict[str, str]:
        return {check: place for check, place in self.places.items() if not check.startswith("C2")}


SELF = "targets see themselves"
PLANTED = [
    Planted("M01", "rtl", {"C1.perturbation": SELF, "C1.prefix": "rtl", "C2.canary": "rtl: predicts"}),
    Planted("M02", "rtl", {"C1.perturbation": SELF, "C1.prefix": "rtl", "C2.canary": "rtl: predicts"}),
    Planted("M03", "rtl", {"C1.perturbation": SELF, "C2.canary": "rtl: predicts"}),
    Planted("M04", "rtl", {"C1.perturbation": SELF, "C2.canary": "rtl: predicts"}),
    Planted("M05", "bare ltr", {"C1.perturbation": SELF, "C2.canary": "ltr: predicts"}),
    Planted("M06", "bare ltr", {"C1.two-sided": "nearest allowed token", "C2.markov-excess": "does not use"}),
    Planted(
        "M07",
        "ltr",
        {"C1.perturbation": SELF, "C6.generation": "ltr", "C2.canary": "ltr: predicts"},
    ),
    Planted("M08", "ltr", {"C1.perturbation": SELF, "C1.gradient": "ltr", "C2.canary": "ltr: predicts"}),
    Planted("M09", "ltr", {"C1.perturbation": SELF, "C1.gradient": "ltr", "C2.canary": "ltr: predicts"}),
    Planted("M10", "no residual", {"C1.two-sided": "nearest allowed token", "C2.markov-excess": "does not use"}),
    Planted("M11", "short conv", {"C1.perturbation": SELF, "C2.canary": "ltr: predicts"}),
    Planted(
        "M12",
        "long conv",
        {
            "C1.perturbation": "leaks at length 2",
            "C6.generation": "ltr",
            "C2.canary": "ltr: predicts",
        },
    ),
    Planted("M13", "long conv", {"C1.perturbation": "33, 48, 65", "C1.prefix": "ltr", "C6.generation": "ltr"}),
    Planted("M14", "ltr", {"C1.neighbours": "train mode"}),
    Planted("M15", "ltr", {"C1.perturbation": SELF, "C2.canary": "ltr: predicts"}),
    Planted("M16", "causal mean", {"C1.perturbation": SELF, "C2.canary": "ltr: predicts"}),
    Planted("M17", "ltr", {"C1.perturbation": "gain"}),
    Planted("M18", "strict", {"C1.perturbation": "target 0 is seen from source 0"}),
    Planted("M19", "cross-attention", {"C1.perturbation": SELF, "C2.canary": "ltr: predicts"}),
    Planted("M20", "causal mean", {"C1.prefix": "tokens", "C6.generation": "ltr"}),
    Planted("M21", "ltr", {"C1.neighbours": "influence each other", "C2.neighbours": "ltr: predicts"}),
    Planted("M22", "ltr", {"C1.prefix": "tokens", "C6.generation": "ltr"}),
    Planted("M23", "mlm", {"C1.perturbation": SELF, "C2.canary": "mlm: predicts"}),
    Planted("M24", "mlm", {"C1.perturbation": SELF, "C2.canary": "mlm: predicts"}),
    Planted("M25", "meap", {"C1.identity": "targets is not window[source]"}),
    Planted("M26", "meap", {"C1.provenance": "changes input_source at slot"}),
    Planted("M27", "prefix", {"C1.perturbation": "1 of 9 targets see themselves"}),
    Planted("M28", "fim", {"C1.perturbation": SELF, "C2.canary": "predicts again"}),
    Planted("M29", "span", {"C1.perturbation": SELF, "C2.canary": "span: predicts"}),
    Planted("M30", "multi-token", {"C1.perturbation": "head 2: target"}),
    Planted("M31", "pairs", {"C1.perturbation": SELF, "C2.canary": "pairs: predicts"}),
    Planted("M32", "constant token", {"C1.provenance": "changes inputs at slot 0", "C1.perturbation": "source 15"}),
    Planted("M33", "true provenance", {"C1.identity": "inputs is not window[source] at slot 1"}),
    Planted("M49", "bigram", {"C1.perturbation": SELF, "C2.canary": "ltr: predicts"}),
    Planted("sometimes open", "ltr", {"C1.perturbation": "train mode"}),
]
WITH_CANARY = [planted for planted in PLANTED if planted.canary]
CLEAN = sorted({planted.clean for planted in PLANTED})


@cache
def flow_report(name: str, checks: tuple[str, ...] = ("C1", "C6")) -> AuditReport:
    return audit_subject(SUBJECTS[name](), checks=checks, flow=FLOW, stepwise=STEPWISE)


def failures(report: AuditReport) -> dict[str, list[Finding]]:
    failed: dict[str, list[Finding]] = {}
    for finding in report.findings:
        if finding.outcome == "fail":
            failed.setdefault(finding.check, []).append(finding)
    return failed


def assert_found(report: AuditReport, places: dict[str, str]) -> None:
    failed = failures(report)
    for check, place in places.items():
        assert any(place in finding.message for finding in failed.get(check, [])), {
            f.check: (f.outcome, f.message) for f in report.findings
        }


@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted.broken)
def test_flow_and_stepwise_name_the_place(planted):
    checks = tuple(sorted({check.partition(".")[0] for check in planted.flow}))
    assert_found(flow_report(planted.broken, checks), planted.flow)


# A third of the twins by day, and all by night. The arms of every mixer and objective pass the same checks by day.
@pytest.mark.parametrize(
    "name", [one if place % 3 == 1 else pytest.param(one, marks=pytest.mark.nightly) for place, one in enumerate(CLEAN)]
)
def test_flow_and_stepwise_pass_the_clean_twin(name):
    report = flow_report(name)
    assert {finding.check: finding.message for finding in report.findings if finding.outcome != "pass"} == {}


def canary_settings(planted: Planted) -> CanarySettings:
    return MARKOV if "C2.markov-excess" in planted.canary else CANARY


@cache
def canary_report(name: str, settings: CanarySettings) -> AuditReport:
    return audit_subject(SUBJECTS[name](), checks=("C2",), canary=settings)


# Flow catches each of these defects by day. The canary trains by day on one defect of each objective and of each of its checks.
CANARIES_BY_DAY = {"M01", "M06", "M21", "M29"}


@pytest.mark.parametrize(
    "planted",
    [one if one.broken in CANARIES_BY_DAY else pytest.param(one, marks=pytest.mark.nightly) for one in WITH_CANARY],
    ids=lambda planted: planted.broken,
)
def test_the_canary_names_the_place(planted):
    assert_found(canary_report(planted.broken, canary_settings(planted)), planted.canary)


CLEAN_CANARIES = list({planted.clean: planted for planted in WITH_CANARY}.values())


# A clean twin trains to the end. The first is trained by day, all by night.
@pytest.mark.parametrize(
    "planted",
    [one if place == 0 else pytest.param(one, marks=pytest.mark.nightly) for place, one in enumerate(CLEAN_CANARIES)],
    ids=lambda planted: planted.clean,
)
def test_the_canary_passes_the_clean_twin(planted):
    report = canary_report(planted.clean, canary_settings(planted))
    wanted = {"C2.canary", "C2.frozen", "C2.neighbours"} if canary_settings(planted) is CANARY else {"C2.markov-excess"}
    assert wanted <= {finding.check for finding in report.findings}
    assert {f.check: f.message for f in report.findings if f.check in wanted and f.outcome != "pass"} == {}
