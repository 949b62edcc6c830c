"""Does the learning rate explain X1? The rtl losses of `exchange.py` again, each model at the rate that is best for its rtl loss.

In `exchange.py` a model that reads both ways has the rate that is best for its ltr loss, and a model that reads right to left only
has the rate that is best for its rtl loss. So a part of what the ltr tokens cost the rtl pass may come from the rate. Here every
arm has the rate with the lowest rtl loss in its trials. In `exchange.py` three arms had theirs at the lowest rate that was tried,
so a lower one is tried too.

Text, models, recipe and seeds are those of `exchange.py`, and so are the runs of the arms for which both ways to choose give the
same rate. The predictions are the differences of its trials, which take half of the steps.
"""

from exchange import GRANULARITIES, SEEDS, SHARES, percent, ratio
from mask import BASE, DECISION, ON_NOVELS, SCALES, both, rtl_alone, sizes, tuning
from palinode import Claim, Experiment, Size

# Share -> rtl loss over that of `rtl-P` less 1 in the trials of `exchange.py`, at the best rate of each, by row and by batch.
IN_TRIALS = {
    0.02: (0.077, 0.208),
    0.05: (0.024, 0.079),
    0.1: (0.029, 0.043),
    0.25: (0.045, 0.053),
    0.5: (0.039, 0.044),
}
X1_AT_ITS_BEST = (
    "Tokens read left to right help the rtl pass, each model at the rate that is best for its rtl loss: {} by {}."
)


def claims() -> tuple[Claim, ...]:
    """X1 for every share and coin."""
    return tuple(
        ratio(
            "X1",
            X1_AT_ITS_BEST.format(f"{share:.0%}", granularity),
            both(share, granularity).name,
            f"rtl-{percent(share)}",
            "rtl",
            expect="below",
            predicted=predicted,
        )
        for share in SHARES
        for granularity, predicted in zip(GRANULARITIES, IN_TRIALS[share], strict=True)
    )


experiment = Experiment(
    name="exchange_rates",
    question="Do tokens read left to right help the rtl pass where each model has the rate that is best for its rtl loss?",
    about=(
        "One model can learn to guess the next character and the previous one. In exchange, what such a model reads forwards made "
        "it worse backwards, but its learning rate had been chosen for the forward loss. This page asks the same with the rate "
        "that is best for the backward loss. Models that are compared read equally much backwards. P in the name of an arm is "
        "the share, in percent, that is read backwards."
    ),
    base=BASE,
    arms=(
        *(both(share, granularity) for share in SHARES for granularity in GRANULARITIES),
        *(rtl_alone(share) for share in SHARES),
    ),
    scales=SCALES,
    seeds=SEEDS,
    decision=DECISION.with_(
        metric="validation.rtl.nats_per_token",
        baseline=both(SHARES[-1], "row").name,
    ),
    sizes={
        "smoke": sizes()["smoke"].with_(arms=("both-50-row", "rtl-50"), scales=("2x32",)),
        "laptop": Size(change=ON_NOVELS, scales=("2x64",), tuning=tuning(lower=(0.125,)).with_(by_own_pass=False)),
    },
    claims=claims(),
)
