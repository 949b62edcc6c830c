"""The canary at the size of the audit's design (V 16, T 64, 32 rows, two blocks of width 64): how soon it alarms, how rarely
it may. Long: nightly."""

from functools import partial

import pytest
import torch
from planted_objectives import MaskedLm, Meap, PrefixLm, ShiftedLtr
from small_stacks import Attention, LongConv, ShortConvAttention, SmallStack, TimeMean, TimeNorm, read_by_mask
from test_planted_defects import next_power_of_two, published, without_flipping_back

from palinode.audit import CanarySettings, Subject, audit_subject
from palinode.base.example import SpecialTokens
from palinode.base.markov import asymmetric_chain, symmetric_chain
from palinode.base.visibility import Full
from palinode.checks.canary import Canary, Tiny
from palinode.checks.languages import ChainLanguage, UniformLanguage
from palinode.objectives.directional import LtrObjective, RtlObjective

pytestmark = pytest.mark.nightly

FULL = CanarySettings(rows=32, steps=200, learning_rate=3e-3, markov_steps=200, neighbour_steps=0)
SPECIALS = SpecialTokens(16)


class SeesAll(Meap):
    """Masked inputs read with full visibility."""

    def example(self, windows, draw, specials):
        example = super().example(windows, draw, specials)
        groups = tuple(type(group)(group.name, Full(), group.rows) for group in example.groups)
        return type(example)(**{**vars(example), "groups": groups})


def subject(
    objective=None, forward=read_by_mask, mixers=(Attention, Attention), tokens=64, seed=0, **options
) -> Subject:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = SmallStack(SPECIALS.vocab_size, list(mixers), width=64, **options)
    return Subject(
        name="full size",
        module=module,
        objective=objective or LtrObjective(),
        forward=forward,
        specials=SPECIALS,
        vocab_size=SPECIALS.vocab_size,
        window_tokens=tokens,
        evaluation_tokens=tokens,
        max_window_tokens=tokens,
        seed=seed,
    )


def updates_to_alarm(subject_now: Subject) -> int | None:
    tiny = Tiny.of(subject_now, FULL)
    trace = Canary(tiny, FULL, UniformLanguage(16), tiny.bank.groups[0]).train(FULL.steps)
    return trace.updates if trace.alarmed else None


TABLE = {  # planted fault: subject, step of the design's own measurement
    "flip(0) mask": (lambda: subject(published(64)), 26),
    "second block not causal": (lambda: subject(mixers=(Attention, partial(Attention, open_heads=2))), 29),
    "one head of two not causal": (lambda: subject(mixers=(partial(Attention, open_heads=1),)), 37),
    "rtl logits not flipped back": (lambda: subject(RtlObjective(), without_flipping_back), 21),
    "FFT padded to a power of two, T 48": (
        lambda: subject(mixers=(partial(LongConv, length_of=next_power_of_two),) * 2, tokens=48),
        32,
    ),
    "mean over time added": (lambda: subject(mixers=(partial(TimeMean, over="all"), Attention)), 32),
    "normalised over time": (lambda: subject(norm=TimeNorm), 25),
    "mask one step too wide": (lambda: subject(mixers=(partial(Attention, widen=1), Attention)), 10),
    "same-padded convolution": (lambda: subject(mixers=(partial(ShortConvAttention, same_padded=True), Attention)), 4),
    "circular FFT": (lambda: subject(mixers=(partial(LongConv, length_of=lambda slots: slots),) * 2), 8),
    "target is the own input": (lambda: subject(ShiftedLtr(shift=0)), 3),
    "masked LM scores shown tokens": (lambda: subject(MaskedLm(all_slots=True)), 3),
    "masked inputs, full visibility": (lambda: subject(SeesAll()), 23),
    "prefix scored": (lambda: subject(PrefixLm(scored_too_early=32)), 23),
}


@pytest.mark.parametrize("fault", TABLE)
def test_faults_alarm_about_as_soon_as_they_were_measured(fault):
    make, expected_updates = TABLE[fault]
    updates = updates_to_alarm(make())
    assert updates is not None
    assert updates <= max(2 * expected_updates, expected_updates + 15)


def test_clean_runs_stay_far_from_the_alarm():
    """Sixteen honest runs: the design's 160 reached ln E = 3.4 at most."""
    highest = []
    for seed in range(16):
        tiny = Tiny.of(subject(seed=seed), FULL)
        canary = Canary(tiny, FULL, UniformLanguage(16), "ltr")
        for _ in range(12):
            canary.train(10)
            highest.append(canary.trace.nats)
    assert max(highest) < 8


@pytest.mark.parametrize("chain", [symmetric_chain(), asymmetric_chain()], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize("objective", [LtrObjective(), RtlObjective()], ids=["ltr", "rtl"])
def test_honest_models_end_within_a_hundredth_of_the_chain_s_floor(chain, objective):
    tiny = Tiny.of(subject(objective), FULL)
    canary = Canary(tiny, FULL, ChainLanguage(chain))
    assert not canary.train(200, decay=True).alarmed
    frozen = canary.frozen(16_384)
    excess = torch.cat([scored.nats.double() - scored.floor_nats for scored in frozen])
    assert 0 < float(excess.mean()) < 0.012


def test_both_chains_belong_to_the_audit():
    settings = FULL.with_(steps=40, chains=("symmetric", "asymmetric"))
    report = audit_subject(subject(), checks=("C2",), canary=settings).findings
    assert [finding.check for finding in report].count("C2.markov-excess") == 2
    assert {finding.outcome for finding in report} == {"pass"}
