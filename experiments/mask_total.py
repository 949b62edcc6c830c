"""Right to left beside left to right, at the same total of tokens read: what is read right to left is not read left to right.

The other half of `mask.py`, whose settings it takes: there, the arms get the same left-to-right tokens.
"""

from mask import ARMS, BASE, SCALES, STEP_TOKENS, STEPS, sizes
from palinode import Decision, Experiment

experiment = Experiment(
    name="mask_total",
    question="Does predicting right to left beside left to right change the left-to-right loss, at equal total tokens?",
    base=BASE.with_(recipe=BASE.recipe.with_(max_tokens_read=STEPS * STEP_TOKENS)),
    arms=ARMS,
    scales=SCALES,
    seeds=(1, 2, 3),
    decision=Decision(
        metric="validation.ltr.nats_per_token",
        baseline="ltr",
        better="lower",
        equal="tokens_read",
        smallest_effect=0.01,
    ),
    sizes=sizes("max_tokens_read"),
)
