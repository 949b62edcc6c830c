"""Training right to left as well, at the same total of tokens: each token read right to left replaces one read left to right.

Settings come from `mask.py`, which asks the question at equal left-to-right tokens; the `ltr` runs are the same in both.
"""

from mask import BASE, DECISION, SCALES, arms, claims, sizes
from palinode import Experiment

experiment = Experiment(
    name="mask_total",
    question="Does predicting right to left as well change the left-to-right loss, at equal total tokens?",
    about=(
        "The question of mask, when every arm reads the same amount of text in all: text that is read backwards then "
        "takes the place of text that is read forwards. The loss says how badly a model guesses the next character: "
        "lower is better."
    ),
    base=BASE,
    arms=arms({}),
    scales=SCALES,
    seeds=(1, 2, 3),
    decision=DECISION.with_(equal="tokens_read"),
    sizes=sizes(),
    claims=claims(),
)
