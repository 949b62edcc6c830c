"""One call for any model: can the model see its own answer? `check` audits a torch module, `audit_subject` audits a `Subject`.

Every check says pass, fail or could_not_tell, and gives its evidence.
Legend: B rows, T slots, V vocabulary.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from palinode.audit.palinode_models import palinode_subject
from palinode.base.errors import BadInput, nearest
from palinode.base.example import SpecialTokens
from palinode.base.finding import AuditReport, Finding
from palinode.base.objective import Objective
from palinode.checks.canary import CanarySettings, check_canary
from palinode.checks.draws import draw_bank
from palinode.checks.flow import QUICK_FLOW, FlowSettings, check_flow
from palinode.checks.stepwise import Step, StepwiseSettings, check_stepwise
from palinode.checks.subject import Forward, Rebuild, Subject, plain_forward
from palinode.objectives import LtrObjective

CHECKS = ("C1", "C2", "C6")
PROGRESS = {
    "C1": "C1: what each slot reads",
    "C2": "C2: training on a canary",
    "C6": "C6: reading step by step, compared with one pass",
}


@dataclass(frozen=True)
class CheckOptions:
    """The options of `check`: how an unusual model is read, and how much of it is measured.

    The model:
        evaluation_tokens: the length of an evaluation window; default: the length of a training window.
        max_window_tokens: the length of the longest window that the model takes; default: the longer of the two lengths above. Give
            it when the model can take more: C1 then also tries lengths up to 129.
        specials: the object that says where special ids start, for objectives that use them; default: no special ids.
        reach_tokens: the number of tokens back that the model is meant to see, when that is less than the window.
        forward: the function (module, example) -> (B, T, V) that reads an Example through the model; default: the module itself on
            the ids, flipped for passes that read from the end. Objectives with explicit masks need a `forward`.
        rebuild: the function (vocab_size, slots, seed) -> a new model of the same kind; C2 then runs at its own small size.
        step: the function that makes one step of generation with a cache, which C6 compares with one pass; default: a step from the
            state that one of Palinode's models keeps; for a model without a state each step reads everything again.
        trigger_ids: the ids that may change how a row is read, such as the id that ends a document. C1 always tries these ids, and
            the ids that a `config` of the model names (bos, eos, pad, mask and others).

    The amount:
        flow: the settings of C1.
        canary: the settings of C2.
        stepwise: the settings of C6.
        seed: the seed of every random number in the audit.
    """

    evaluation_tokens: int | None = None
    max_window_tokens: int | None = None
    specials: SpecialTokens | None = None
    reach_tokens: int | None = None
    forward: Forward | None = None
    rebuild: Rebuild | None = None
    step: Step | None = None
    trigger_ids: tuple[int, ...] = ()
    flow: FlowSettings | None = None
    canary: CanarySettings | None = None
    stepwise: StepwiseSettings | None = None
    seed: int = 0


# The quick audit runs only C1 and C6, and only at the length of a training window. It takes about a second on one core for a
# model of two small blocks.
QUICK_CHECKS = ("C1", "C6")
QUICK = CheckOptions(
    flow=QUICK_FLOW,
    stepwise=StepwiseSettings(prompt_tokens=(1, 5), total_tokens=13),
)


def check(
    model: nn.Module,
    objective: Objective | None = None,
    *,
    vocab_size: int,
    window_tokens: int,
    checks: Sequence[str] = CHECKS,
    name: str = "model",
    options: CheckOptions | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> AuditReport:
    """Can this model see its own answer? The checks are C1 information flow, C2 canary training and C6 reading step by step.

    The model is never changed: C1 measures float64 copies with new random weights, C2 trains a copy for some hundred steps, C6 also
    reads the weights as they are. The audit of a model of a million parameters takes seconds on one core. For a large model, audit
    a small configuration of it.

    Args:
        model: any module that maps (B, T) token ids to (B, T, V) logits, or to an object with `.logits`.
        objective: the objective that the model is trained on; default: next-token prediction without a direction token.
        vocab_size: V, the number of ids that the model takes.
        window_tokens: the number of tokens of a training window.
        checks: the codes of the checks to run, of C1, C2 and C6.
        name: the name of the model in the report.
        options: the options that only an unusual model needs.
        on_progress: the function that gets a text before each check; default: the text goes to stderr when that is a terminal.

    Raises:
        BadInput: an unknown check, ids beyond the vocabulary, a forward that does not return logits.
    """
    options = options or CheckOptions()
    evaluation = options.evaluation_tokens or window_tokens
    subject = Subject(
        name=name,
        module=model,
        objective=objective or LtrObjective(direction_token=False),
        specials=options.specials or SpecialTokens(vocab_size),
        vocab_size=vocab_size,
        window_tokens=window_tokens,
        evaluation_tokens=evaluation,
        max_window_tokens=options.max_window_tokens or max(window_tokens, evaluation),
        forward=options.forward or plain_forward,
        reach_tokens=options.reach_tokens,
        rebuild=options.rebuild,
        trigger_ids=options.trigger_ids,
        seed=options.seed,
    )
    return audit_subject(
        palinode_subject(subject),
        checks=checks,
        step=options.step,
        flow=options.flow,
        canary=options.canary,
        stepwise=options.stepwise,
        on_progress=on_progress or _to_the_terminal,
    )


def audit_subject(
    subject: Subject,
    *,
    checks: Sequence[str] = CHECKS,
    step: Step | None = None,
    flow: FlowSettings | None = None,
    canary: CanarySettings | None = None,
    stepwise: StepwiseSettings | None = None,
    on_progress: Callable[[str], None] = lambda text: None,
) -> AuditReport:
    """Run the chosen checks on one subject. The arguments are those of `check`."""
    for chosen in checks:
        if chosen not in CHECKS:
            raise BadInput(f"unknown check {chosen!r}", field="checks", hint=nearest(chosen, CHECKS))
    _require_ids_within_vocabulary(subject)
    started = time.perf_counter()
    measure = {
        "C1": lambda: check_flow(subject, flow),
        "C2": lambda: check_canary(subject, canary),
        "C6": lambda: check_stepwise(subject, stepwise, step),
    }
    findings: list[Finding] = []
    for chosen in CHECKS:
        if chosen in checks:
            on_progress(PROGRESS[chosen])
            findings += measure[chosen]()
    return AuditReport(subject=subject.name, findings=tuple(findings), seconds=time.perf_counter() - started)


def _to_the_terminal(text: str) -> None:
    """Write a line to stderr when stderr is a terminal."""
    if sys.stderr.isatty():
        sys.stderr.write(f"{text}\n")


def _require_ids_within_vocabulary(subject: Subject) -> None:
    """Raise an error for an objective that makes ids which the model does not take.

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
                hint="pass options=CheckOptions(specials=SpecialTokens(first id)) within the vocabulary, or direction_token=False",
            )
