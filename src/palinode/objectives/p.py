"""Schedules of p, the probability of the rtl pass. Example: `BothObjective(p=palinode.p.Linear(p_start=0.0, p_end=0.1))`."""

from palinode.objectives.probability import Adaptive, Constant, Cooldown, Cosine, Linear, StepAt

__all__ = ["Adaptive", "Constant", "Cooldown", "Cosine", "Linear", "StepAt"]
