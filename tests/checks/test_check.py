"""`palinode.audit.check`: one call on any module, and one line for what cannot be audited."""

import json
from types import SimpleNamespace

import pytest
import torch
from planted_objectives import PrefixLm
from small_stacks import Attention, SmallStack, read_by_mask
from torch import nn

from palinode import audit
from palinode.audit import CanarySettings, CheckOptions, FlowSettings, StepwiseSettings
from palinode.base.config import decode, encode
from palinode.base.errors import BadInput
from palinode.base.example import SpecialTokens
from palinode.base.finding import AuditReport
from palinode.objectives.directional import LtrObjective, RtlObjective

FLOW = FlowSettings(lengths=(3,), gains=(), draws=2, draws_tokens=8, train_passes=1, picture_tokens=8)
CANARY = CanarySettings(steps=40, window_tokens=16, neighbour_steps=8, markov_steps=0, frozen_tokens=512)
QUICK = {"flow": FLOW, "canary": CANARY, "stepwise": StepwiseSettings(prompt_tokens=(1,), total_tokens=8)}


def plain(vocab_size=32, **options) -> nn.Module:
    return SmallStack(vocab_size, [Attention], **options)


def check(model, objective=None, *, vocab_size=32, checks=audit.CHECKS, name="model", **options):
    options = CheckOptions(**{**QUICK, **options})
    return audit.check(
        model, objective, vocab_size=vocab_size, window_tokens=16, checks=checks, name=name, options=options
    )


def test_a_plain_module_passes_every_check():
    report = check(plain(), name="plain")
    assert report.outcome == "pass"
    assert report.subject == "plain"
    assert {finding.check[:2] for finding in report.findings} == {"C1", "C2", "C6"}
    assert report.seconds > 0


def test_a_report_survives_its_file():
    report = check(plain(), checks=("C1",))
    assert decode(AuditReport, json.loads(json.dumps(encode(report)))) == report


@pytest.mark.parametrize(
    "wrap", [lambda logits: SimpleNamespace(logits=logits), lambda logits: (logits, None)], ids=["object", "tuple"]
)
def test_outputs_that_hold_logits_are_understood(wrap):
    class Wrapped(SmallStack):
        def forward(self, tokens, mask=None):
            return wrap(super().forward(tokens, mask))

    assert check(Wrapped(32, [Attention]), checks=("C1",)).outcome == "pass"


def test_rtl_is_read_flipped():
    assert check(plain(), RtlObjective(direction_token=False), checks=("C1", "C6")).outcome == "pass"


def test_special_tokens_take_the_room_that_the_vocabulary_has():
    report = check(plain(43), LtrObjective(), vocab_size=43, specials=SpecialTokens(32), checks=("C1",))
    assert report.outcome == "pass"
    with pytest.raises(BadInput, match="special id 32") as problem:
        check(plain(), LtrObjective())
    assert problem.value.field == "specials"


def test_a_pass_with_a_mask_needs_a_forward():
    options = {"vocab_size": 43, "specials": SpecialTokens(32), "checks": ("C1",)}
    with pytest.raises(BadInput, match="explicit mask"):
        check(plain(43), PrefixLm(), **options)
    assert check(plain(43), PrefixLm(), forward=read_by_mask, **options).outcome == "pass"


def test_a_forward_must_return_logits_for_every_slot():
    with pytest.raises(BadInput, match="logits of shape") as problem:
        check(plain(), forward=lambda module, example: torch.zeros(2, 3))
    assert problem.value.field == "forward"
    with pytest.raises(BadInput, match="not logits"):
        check(Text(), checks=("C1",))


@pytest.mark.parametrize(
    ("wrap", "hints"),
    [
        (lambda logits: logits[:, -1], ("the last slot alone", "forward=lambda model, example")),
        (lambda logits: logits[:, -1:], ("the last slot alone", "forward=lambda model, example")),
        (lambda logits: {"logits": logits}, ("forward=lambda model, example: model(example.inputs)['logits']",)),
        (lambda logits: {"scores": logits}, ("model(example.inputs)['scores']",)),
        (lambda logits: [logits], ("forward=",)),
    ],
)
def test_what_a_forward_returns_instead_of_logits_brings_a_hint(wrap, hints):
    class Wrapped(SmallStack):
        def forward(self, tokens, mask=None):
            return wrap(super().forward(tokens, mask))

    with pytest.raises(BadInput) as problem:
        check(Wrapped(32, [Attention]), checks=("C1",))
    for hint in hints:
        assert hint in str(problem.value)
    assert len(str(problem.value)) <= problem.value.longest_characters


class Text(nn.Module):
    def forward(self, tokens):
        return "hello"


def test_an_unknown_check_is_named_with_the_nearest():
    with pytest.raises(BadInput, match="unknown check 'C11'") as problem:
        check(plain(), checks=("C11",))
    assert "C1" in str(problem.value.hint)


def test_the_canary_of_a_rebuilt_model_has_its_own_size():
    requests = []

    def rebuild(vocab_size, slots, seed):
        requests.append((vocab_size, slots))
        return plain(vocab_size)

    report = check(plain(), rebuild=rebuild, checks=("C2",))
    assert report.outcome == "pass"
    assert requests == [(16 + 11, 15)]


def test_a_model_with_fewer_ids_than_a_canary_wants():
    assert check(plain(6), vocab_size=6, checks=("C1", "C2")).findings
