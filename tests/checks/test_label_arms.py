"""C1 and C6 on tasks read in every direction under every label mask: each outcome as it must be, none merely "not a failure".

A mask leaves fewer targets to be judged. Where the only one left is read first there is nothing that it might see: the audit then
says that it could not tell, and where even that one is not scored the settings are refused.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

from palinode import EvaluationConfig, Gpt2AdamW, RunSettings, TaskData
from palinode.audit import FlowSettings, StepwiseSettings, audit_subject, subject_of_config
from palinode.base.errors import BadInput
from palinode.base.example import Draw, Windows
from palinode.base.seeds import generator
from palinode.base.visibility import Full
from palinode.data.tasks import AssociativeRecall, Copy, MultiQueryRecall, Task
from palinode.models import DecoderConfig
from palinode.objectives import LtrObjective, MaskedObjective, Objective, RtlObjective
from palinode.objectives.label_mask import chosen_tokens, masked

MODEL = DecoderConfig(layers=1, width=16, heads=2, position="rotary")
TASKS: dict[str, Task] = {
    "recall": AssociativeRecall(vocabulary=8, length=8),
    "mqar": MultiQueryRecall(vocabulary=12, length=12, pairs=2),
    "copy": Copy(vocabulary=6, length=5),
}
DIRECTIONS: dict[str, Objective] = {
    "ltr": LtrObjective(),
    "rtl": RtlObjective(),
    "bare ltr": LtrObjective(direction_token=False),
    "bare rtl": RtlObjective(direction_token=False),
    "masked": MaskedObjective(),
}
LABELS = ("all", "answer", "last")
REFUSED = {("recall", "answer"), ("recall", "last"), ("copy", "last")}  # bare rtl: the last token is all that is left
ALWAYS = (
    "C1.provenance",
    "C1.identity",
    "C1.perturbation",
    "C1.two-sided",
    "C1.neighbours",
    "C1.memory",
    "C1.gradient",
)
NOTHING_TO_SEE = ("C1.perturbation", "C1.two-sided", "C1.gradient")
ARMS = [
    pytest.param(task, direction, labels, marks=[] if task == "recall" else pytest.mark.nightly)
    for task in TASKS
    for direction in DIRECTIONS
    for labels in LABELS
    if direction != "bare rtl" or (task, labels) not in REFUSED
]


class Labelled(Objective):
    """An objective whose loss is on some tokens of one sequence of a task.

    Shorter windows are the part of it that is read first, so that reading on changes no label.

    Attributes:
        direction: which objective.
        labels: which tokens of the sequence are scored.
        answers: of the sequence.
    """

    direction: str
    labels: str
    answers: tuple[bool, ...]

    @property
    def of(self) -> Objective:
        return DIRECTIONS[self.direction]

    def kept(self) -> Tensor:
        """(1, N) the tokens that the labels leave, in window order."""
        answers = torch.tensor([self.answers])
        return chosen_tokens(Windows(answers.long(), answers), self.labels)

    def part(self, tokens: Tensor, length: int) -> Tensor:
        """What is read first of (1, N), without what lies beyond."""
        beyond = torch.zeros(1, max(0, length - tokens.shape[1]), dtype=torch.bool)
        reads_from_end = "rtl" in self.direction
        return (
            torch.cat([beyond, tokens], 1)[:, -length:]
            if reads_from_end
            else torch.cat([tokens, beyond], 1)[:, :length]
        )

    def draw(self, batch, window_tokens, generator, progress):
        drawn = self.of.draw(batch, window_tokens, generator, progress).decisions
        marked = self.part(torch.tensor([self.answers]), window_tokens).expand(batch, -1)
        return Draw({name: marked if name == "answers" else decision for name, decision in drawn.items()})

    def example(self, windows, draw, specials):
        kept = self.part(self.kept(), windows.shape[1]).expand(windows.shape)
        return masked(self.of.example(windows, draw, specials), Windows(windows, kept), "answer")

    def may_inform(self, source, target, group, draw):
        return self.of.may_inform(source, target, group, draw)

    def groups(self):
        return self.of.groups()


@cache
def answers_of(task: str) -> tuple[bool, ...]:
    return tuple(TASKS[task].sample(1, generator(0, "answers")).answers[0].tolist())


def labelled(task: str, direction: str, labels: str, kind: type[Labelled] = Labelled) -> Labelled:
    return kind(direction=direction, labels=labels, answers=answers_of(task))


def read_at(objective: Labelled) -> list[int]:
    """When the scored tokens are read, from 0; a bare reading does not score the first."""
    kept = objective.kept()[0]
    order = kept.flip(0) if "rtl" in objective.direction else kept
    return [place for place in order.nonzero().flatten().tolist() if place or "bare" not in objective.direction]


def expected_flow(task: str, objective: Labelled) -> dict[str, str]:
    if objective.direction == "masked":
        return dict.fromkeys(ALWAYS, "pass")
    places = read_at(objective)
    expected = dict.fromkeys(ALWAYS, "pass")
    if min(places) < TASKS[task].length_tokens - 1:  # a shorter text has something to compare with
        expected["C1.prefix"] = "pass"
    return expected | (dict.fromkeys(NOTHING_TO_SEE, "could_not_tell") if max(places) == 0 else {})


def expected_steps(task: str, objective: Labelled) -> dict[str, str]:
    """Without a direction nothing is generated; a state is read on where every token after the first is scored."""
    if objective.direction == "masked":
        return {}
    whole = {*range(1, TASKS[task].length_tokens)} <= {*read_at(objective)}
    return dict.fromkeys(["C6.generation", "C6.nats", *(["C6.state"] if whole else [])], "pass")


def outcomes(task: str, objective: Labelled, check: str) -> dict[str, str]:
    length = TASKS[task].length_tokens
    flow = FlowSettings(
        lengths=(),
        gains=(4.0,),
        picture_tokens=length,
        small_tokens=length,
        draws=1,
        draws_tokens=length,
        train_passes=1,
        beyond=False,  # the answers stand at fixed slots of a whole sequence
        ids_tokens=0,
    )
    subject = subject_of_config(MODEL, objective, tokenizer_vocab=64, window_tokens=length)
    report = audit_subject(subject, checks=(check,), flow=flow, stepwise=StepwiseSettings(total_tokens=length))
    return {finding.check: finding.outcome for finding in report.findings}


@pytest.mark.parametrize(("task", "direction", "labels"), ARMS)
def test_flow_and_stepwise(task, direction, labels):
    objective = labelled(task, direction, labels)
    assert outcomes(task, objective, "C1") == expected_flow(task, objective)
    assert outcomes(task, objective, "C6") == expected_steps(task, objective)


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("task", TASKS)
def test_what_is_audited_is_what_is_trained_on(task, labels):
    """On a whole sequence the weights are those of the label mask itself."""
    sample = TASKS[task].sample(1, generator(0, "answers"))
    windows = Windows(sample.tokens, sample.answers)
    for direction, objective in DIRECTIONS.items():
        ours = labelled(task, direction, labels)
        draw = ours.draw(1, sample.tokens.shape[1], generator(0, "draw"), None)
        subject = subject_of_config(MODEL, ours, tokenizer_vocab=64, window_tokens=sample.tokens.shape[1])
        trained = masked(objective.example(windows.tokens, windows.decisions(draw), subject.specials), windows, labels)
        audited = subject.example(windows.tokens, draw)
        assert torch.equal(audited.loss_weight, trained.loss_weight)
        assert torch.equal(audited.inputs, trained.inputs)


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("task", TASKS)
def test_settings_that_score_nothing_are_refused_before_anything_is_audited(task, labels):
    def settings() -> RunSettings:
        return RunSettings(
            data=TaskData(task=TASKS[task]),
            model=MODEL,
            objective=RtlObjective(direction_token=False),
            recipe=Gpt2AdamW(),
            evaluation=EvaluationConfig(directions=("ltr",)),
            labels=labels,
        )

    if (task, labels) in REFUSED:
        with pytest.raises(BadInput, match="nothing is left to score"):
            settings()
    else:
        assert settings().labels == labels


class SeesAnswers(Labelled):
    """Planted: read with full visibility, whatever the direction."""

    def example(self, windows, draw, specials):
        made = super().example(windows, draw, specials)
        return replace(made, groups=tuple(replace(group, sees=Full()) for group in made.groups))


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("direction", ["ltr", "rtl"])
@pytest.mark.parametrize("task", [pytest.param("mqar", marks=pytest.mark.nightly), "copy"])
def test_a_leak_is_seen_through_every_label_mask_that_leaves_one(task, direction, labels):
    """The last token of all stands in no input of ltr: where it alone is scored, to see everything is no leak."""
    outcome_of = outcomes(task, labelled(task, direction, labels, SeesAnswers), "C1")
    outcome = "pass" if (task, direction, labels) == ("copy", "ltr", "last") else "fail"
    assert (outcome_of["C1.perturbation"], outcome_of["C1.gradient"]) == (outcome, outcome)
