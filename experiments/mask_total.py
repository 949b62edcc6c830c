"""Right to left beside left to right, at the same total of tokens read: what is read right to left is not read left to right.

The other half of `mask.py`, whose settings it takes, and whose runs of `ltr` serve both.
"""

from mask import BASE, DECISION, SCALES, arms, claims, sizes
from palinode import Experiment

experiment = Experiment(
    name="mask_total",
    question="Does predicting right to left beside left to right change the left-to-right loss, at equal total tokens?",
    base=BASE,
    arms=arms({}),
    scales=SCALES,
    seeds=(1, 2, 3),
    decision=DECISION.with_(equal="tokens_read"),
    sizes=sizes(),
    claims=claims(),
)
