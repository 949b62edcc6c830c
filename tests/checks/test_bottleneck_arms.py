"""The bottleneck under audit: honest arms pass, and what goes round the token before the answers is planted and caught.

Whether a token informs an answer through that token or past it makes no difference to the ordinary contract, which allows both.
The sealed form does not allow the second, and shows it.
"""

from dataclasses import replace

import pytest
import torch

from palinode.audit import CanarySettings, FlowSettings, Subject, audit_subject, subject_of_config
from palinode.audit.arms import audit_arm
from palinode.base.finding import AuditReport
from palinode.base.visibility import Bottleneck, Ltr
from palinode.data.task_store import TaskData
from palinode.data.tasks import Compression
from palinode.models import DecoderConfig, EncoderDecoderConfig
from palinode.models.mixers.attention import Attention
from palinode.objectives import BottleneckObjective
from palinode.spec.run_spec import EvaluationConfig, RunSettings
from palinode.train.recipe import Gpt2AdamW

FLOW = FlowSettings(lengths=(1, 2, 3, 17, 33), train_passes=2, draws=2)
CANARY = CanarySettings(steps=60, window_tokens=16, markov_steps=0, frozen_tokens=2048)
SMALL = {"layers": 2, "width": 32, "heads": 2}
MODELS = {
    "learned": DecoderConfig(**SMALL),
    "rotary": DecoderConfig(**SMALL, position="rotary"),
    "alibi": DecoderConfig(**SMALL, position="alibi"),
    "encoder-decoder": EncoderDecoderConfig(encoder_layers=1, decoder_layers=1, width=32, heads=2),
}
PASSED = dict.fromkeys(
    ["C1.provenance", "C1.identity", "C1.perturbation", "C1.two-sided", "C1.neighbours", "C1.memory", "C1.gradient"],
    "pass",
)
TASK = Compression(vocabulary=16, length=8)


class RoundIt(Bottleneck):
    """A plain causal mask but for the narrow slot, which reads what a bottleneck's would."""

    def mask(self, length):
        mask = Ltr().mask(length)
        mask[self.slot] = super().mask(length)[self.slot]
        return mask


class PlainCausal(BottleneckObjective):
    """The answers' slots read every slot before them."""

    def example(self, windows, draw, specials):
        example = super().example(windows, draw, specials)
        [group] = example.groups
        sees = RoundIt(slot=group.sees.slot, sealed=self.sealed)
        return replace(example, groups=(replace(group, sees=sees),))


class EarlierAnswers(BottleneckObjective):
    """The slot of an answer holds the answer before it."""

    def example(self, windows, draw, specials):
        example = super().example(windows, draw, specials)
        hidden = draw["answers"] & draw["answers"].roll(1, 1)
        inputs = torch.where(hidden, windows.roll(1, 1), example.inputs)
        sources = torch.where(hidden, torch.arange(windows.shape[1]) - 1, example.input_source)
        return replace(example, inputs=inputs, input_source=sources)


class OwnAnswers(BottleneckObjective):
    """Nothing is hidden: an autoencoder without a bottleneck."""

    def example(self, windows, draw, specials):
        example = super().example(windows, draw, specials)
        return replace(example, inputs=example.targets, input_source=example.target_source)


class IgnoresMasks(Attention):
    """Causal, whatever mask it is handed."""

    def forward(self, x, reading):
        return super().forward(x, replace(reading, native="causal", mask=None))


def arm(objective, model="learned") -> Subject:
    config = MODELS[model] if isinstance(model, str) else model
    return subject_of_config(config, objective, tokenizer_vocab=TASK.vocab_size, window_tokens=TASK.length_tokens)


def flow(subject: Subject) -> AuditReport:
    return audit_subject(subject, checks=("C1", "C6"), flow=FLOW)


def outcomes(report: AuditReport) -> dict[str, str]:
    return {finding.check: finding.outcome for finding in report.findings}


def failed(report: AuditReport) -> dict[str, str]:
    return {finding.check: finding.message for finding in report.findings if finding.outcome == "fail"}


@pytest.mark.parametrize("sealed", [pytest.param(False, marks=pytest.mark.nightly), True])
@pytest.mark.parametrize("model", MODELS)
def test_honest_arms_pass(model, sealed):
    assert outcomes(flow(arm(BottleneckObjective(sealed=sealed), model))) == PASSED


def test_a_plain_causal_mask_goes_round_the_bottleneck():
    report = flow(arm(PlainCausal(sealed=True)))
    assert set(failed(report)) == {"C1.perturbation", "C1.gradient"}
    [leak] = [finding for finding in report.findings if finding.check == "C1.perturbation"]
    assert leak.reproduce["source"] < leak.reproduce["target"]
    seen, allowed = leak.pictures["bottleneck influence"], leak.pictures["bottleneck allowed"]
    answer, narrow = len(seen) - 1, len(seen) - len(seen) // 2 - 1
    assert all(seen[answer][source] > 0 for source in range(narrow + 1))
    assert [source for source in range(len(seen)) if allowed[answer][source]] == [narrow]


def test_the_ordinary_contract_cannot_see_that():
    """Both forms tell an answer the same tokens."""
    assert outcomes(flow(arm(PlainCausal()))) == PASSED


def test_a_mixer_that_ignores_the_mask_is_caught():
    subject = arm(BottleneckObjective(sealed=True))
    subject.module.blocks[1].mixer.__class__ = IgnoresMasks
    assert "C1.perturbation" in failed(flow(replace(subject, rebuild=None)))


@pytest.mark.parametrize(
    ("objective", "message"), [(EarlierAnswers(), "see a token they may not"), (OwnAnswers(), "targets see themselves")]
)
def test_answers_in_the_inputs_are_a_leak(objective, message):
    report = flow(arm(objective))
    assert message in failed(report)["C1.perturbation"]
    assert set(failed(report)) == {"C1.perturbation", "C1.gradient"}


def test_one_layer_passes_nothing_on_and_the_control_says_so():
    report = flow(arm(BottleneckObjective(), DecoderConfig(**SMALL | {"layers": 1})))
    outcome_of = outcomes(report)
    assert outcome_of["C1.perturbation"] == "pass"
    assert outcome_of["C1.two-sided"] == "could_not_tell"
    [control] = [finding for finding in report.findings if finding.check == "C1.two-sided"]
    assert "does not see the allowed token" in control.message


@pytest.mark.parametrize(("objective", "outcome"), [(BottleneckObjective(), "pass"), (OwnAnswers(), "fail")])
def test_the_canary(objective, outcome):
    outcome_of = outcomes(audit_subject(arm(objective), checks=("C2",), canary=CANARY))
    clean = dict.fromkeys(["C2.canary", "C2.frozen", "C2.neighbours"], outcome)
    assert outcome_of == (clean if outcome == "pass" else {"C2.canary": "fail"})


@pytest.mark.nightly
def test_a_whole_arm_on_the_task_passes():
    settings = RunSettings(
        data=TaskData(task=TASK, validation_sequences=50, test_sequences=50, tuning_sequences=50),
        model=MODELS["learned"],
        objective=BottleneckObjective(),
        recipe=Gpt2AdamW(steps=200, batch_windows=8, micro_batches=1),
        labels="answer",
        evaluation=EvaluationConfig(labels="answer"),
    )
    report = audit_arm(settings, name="bottleneck").report
    assert {f.check: f.message for f in report.findings if f.outcome != "pass"} == {}
