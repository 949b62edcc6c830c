"""The audit: may this run be believed? Every check says pass, fail or could_not_tell, with its evidence.

`check(model, ...)` audits any torch module in one call; `audit_subject` audits an arm before it is trained.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import nn

from palinode.base.errors import BadInput, nearest
from palinode.base.example import SpecialTokens
from palinode.base.finding import AuditReport, Finding
from palinode.checks.canary import CanarySettings
from palinode.checks.check_canary import check_canary
from palinode.checks.draws import draw_bank
from palinode.checks.flow import FlowSettings, check_flow
from palinode.checks.stepwise import Step, StepwiseSettings, check_stepwise
from palinode.checks.subject import Forward, Rebuild, Subject, default_forward
from palinode.objectives import Objective
from palinode.objectives.directional import LtrObjective

CHECKS = ("C1", "C2", "C6")


def check(
    model: nn.Module,
    objective: Objective | None = None,
    *,
    vocab_size: int,
    window_tokens: int,
    evaluation_tokens: int | None = None,
    max_window_tokens: int | None = None,
    specials: SpecialTokens | None = None,
    reach_tokens: int | None = None,
    forward: Forward | None = None,
    rebuild: Rebuild | None = None,
    step: Step | None = None,
    checks: Sequence[str] = CHECKS,
    seed: int = 0,
    name: str = "model",
    flow: FlowSettings | None = None,
    canary: CanarySettings | None = None,
    stepwise: StepwiseSettings | None = None,
) -> AuditReport:
    """Can this model see its own answer? C1 information flow, C2 canary training, C6 step by step against one pass.

    The model is never changed: C1 measures float64 copies with redrawn weights, C2 trains a copy for some hundred steps, C6
    reads the weights as they are too. A model of a million parameters takes seconds on one core; audit a small configuration
    of a large one.

    Args:
        model: any module that maps (R, S) token ids to (R, S, V) logits, or to an object with `.logits`.
        objective: what it is trained on; default next-token prediction without a direction token.
        vocab_size: ids the model takes.
        window_tokens: tokens of a training window; `evaluation_tokens` of an evaluation window (default: the same).
        max_window_tokens: longest window the model takes (default: the longer of those two). Give it when the model can take
            more: C1 then also looks at lengths up to 129.
        specials: where special ids start, for objectives that use them; default: no special ids.
        reach_tokens: how many tokens back the model is meant to see, when that is less than the window.
        forward: reads an Example through the model, (module, example) -> (R, S, V); default: the module itself on the ids,
            flipped for passes that read from the end. Needed for objectives with explicit masks.
        rebuild: (vocab_size, slots, seed) -> a fresh model of the same kind; C2 then runs at its own small size.
        step: one step of generation with a cache, compared with one pass by C6; default: from the state that the model keeps,
            else recompute.
        checks: which of C1, C2, C6.
        seed: of every random number in the audit.
        name: what the report calls the model.
        flow, canary, stepwise: how much is measured.

    Raises:
        BadInput: unknown check, ids beyond the vocabulary, a forward that does not return logits.
    """
    evaluation = evaluation_tokens or window_tokens
    subject = Subject(
        name=name,
        module=model,
        objective=objective or LtrObjective(direction_token=False),
        forward=forward or default_forward(model),
        specials=specials or SpecialTokens(vocab_size),
        vocab_size=vocab_size,
        window_tokens=window_tokens,
        evaluation_tokens=evaluation,
        max_window_tokens=max_window_tokens or max(window_tokens, evaluation),
        reach_tokens=reach_tokens,
        rebuild=rebuild,
        seed=seed,
    )
    return audit_subject(subject, checks=checks, step=step, flow=flow, canary=canary, stepwise=stepwise)


def audit_subject(
    subject: Subject,
    *,
    checks: Sequence[str] = CHECKS,
    step: Step | None = None,
    flow: FlowSettings | None = None,
    canary: CanarySettings | None = None,
    stepwise: StepwiseSettings | None = None,
) -> AuditReport:
    """Run the chosen checks on one subject (see `check`)."""
    for chosen in checks:
        if chosen not in CHECKS:
            raise BadInput(f"unknown check {chosen!r}", field="checks", hint=nearest(chosen, CHECKS))
    _ids_fit(subject)
    started = time.perf_counter()
    findings: list[Finding] = []
    if "C1" in checks:
        findings += check_flow(subject, flow)
    if "C2" in checks:
        findings += check_canary(subject, canary)
    if "C6" in checks:
        findings += check_stepwise(subject, stepwise, step)
    return AuditReport(subject=subject.name, findings=tuple(findings), seconds=time.perf_counter() - started)


def _ids_fit(subject: Subject) -> None:
    """Every id that the objective makes must be one the model takes.

    Raises:
        BadInput: a special token lies beyond the vocabulary.
    """
    windows = torch.zeros(1, subject.window_tokens, dtype=torch.long)
    for entry in draw_bank(subject, subject.window_tokens, most_entries=8).covering(1):
        highest = int(subject.example(windows, entry.draw).inputs.amax())
        if highest >= subject.vocab_size:
            raise BadInput(
                f"the objective uses the special id {highest}, the model takes ids below {subject.vocab_size}",
                field="specials",
                hint="pass specials=SpecialTokens(first id) within the vocabulary, or direction_token=False",
            )
