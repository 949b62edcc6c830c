"""How far a run and a longer run of the same settings are the same run.

Two specs that differ only in `recipe.steps` take equal steps while both give the same factor of the learning rate and the same
probabilities of the passes. The checkpoint after these steps belongs to both runs, so the longer run may go on from it.
"""

from __future__ import annotations

from palinode.base.config import encode
from palinode.base.errors import BadInput
from palinode.base.objective import Progress
from palinode.spec.code import user_kinds
from palinode.spec.run_spec import RunSettings

LONGEST_STEPS = 10**9  # the most steps that a recipe may have
SECOND_PHASE = "start_from begins a second phase"


def shared_steps(settings: RunSettings, steps: int = LONGEST_STEPS) -> int:
    """The number of steps, from the first one on, that a run of `steps` steps has in common with a run of these settings.

    The result is 0 if the two have no more in common than the warm-up and the first step at the peak.
    """
    return _shared(settings, steps)[0]


def stable_step(settings: RunSettings) -> int:
    """The step of the checkpoint that a run keeps, because every longer run may go on from it; 0 if there is none.

    After its last step a run makes no evaluation in the middle of training. Where a longer run makes one there, the last checkpoint
    before it is taken.
    """
    recipe, shared = settings.recipe, shared_steps(settings)
    every, interval = recipe.evaluate_every_steps, recipe.checkpoint_interval_steps
    if shared == recipe.steps and every and shared % every == 0:
        return (shared - 1) // interval * interval
    return shared


def refuse_other_length(settings: RunSettings, steps: int) -> None:
    """Refuse settings of which no part is the beginning of a run of `steps` steps.

    Raises:
        BadInput: there are not more steps, or the run depends on the number of its steps from the start.
    """
    if steps <= settings.recipe.steps:
        raise BadInput(f"{steps} is not more than the {settings.recipe.steps} steps of a run", field="--steps")
    shared, why = _shared(settings, steps)
    if not shared:
        raise BadInput(f"{why} depends on the length", field="--steps", hint=SECOND_PHASE)


def _shared(settings: RunSettings, steps: int) -> tuple[int, str]:
    """The number of steps in common, and the name of what depends on the number of steps."""
    recipe, objective = settings.recipe, settings.objective
    if recipe.max_tokens_read is not None or recipe.max_ltr_tokens is not None:
        return 0, "a schedule with a token limit"
    if user_kinds(encode(objective)):
        return 0, f"{objective.kind_name()} is code of yours: it may be that it"
    schedule, state, most, why = recipe.schedule, objective.state(), min(recipe.steps, steps), ""
    for step in range(most):
        if schedule.factor(step, recipe.steps) != schedule.factor(step, steps):
            why = schedule.kind_name()
        elif objective.pass_probabilities(Progress(step, recipe.steps, state)) != objective.pass_probabilities(
            Progress(step, steps, state)
        ):
            why = f"p of {objective.kind_name()}"
        if why:
            return (step if step > schedule.warmup_steps + 1 else 0), why
    return most, why
