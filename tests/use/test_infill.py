"""Infilling against enumeration: every middle of a small vocabulary, with its exact probability given both sides."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from palinode import Gpt2AdamW, RunSpec
from palinode.base.errors import BadInput
from palinode.base.example import SpecialTokens
from palinode.base.seeds import generator
from palinode.base.visibility import Full
from palinode.data.task_store import TaskData
from palinode.data.tasks import Copy
from palinode.evaluate.sliding import SlidingContext, pass_of
from palinode.models import gpt2
from palinode.objectives import BothObjective, BottleneckObjective, LtrObjective, MaskedObjective, RtlObjective
from palinode.spec.trained import Trained
from palinode.use import infill
from palinode.use.infill import Gap, Middles, infill_ids

V, M = 4, 3
SPECIALS = SpecialTokens(V)
GAP = Gap((1, 2), (3, 0, 1), M)
EVERY = list(itertools.product(range(V), repeat=M))
BOTH = BothObjective(p=0.5)


def trained(objective, spread=0.6):
    spec = RunSpec(
        data=TaskData(task=Copy(length=4)),
        model=gpt2(layers=1, width=16, heads=2),
        objective=objective,
        recipe=Gpt2AdamW(),
        seed=0,
    )
    model = gpt2(layers=1, width=16, heads=2).build(SPECIALS.vocab_size, spec.data.window_tokens, 0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0.0, spread, generator=generator(0, "w", name))
    return Trained(spec, model.eval(), SPECIALS, SimpleNamespace())


def exact(subject, direction):
    """{middle: p(middle | before, after)} and {middle: p(middle and the side that is read last | the other side)}."""
    spec = subject.spec
    window = spec.data.window_tokens
    own = pass_of(spec.objective, direction)
    nats = SlidingContext(subject.model, SPECIALS, own, direction, window, window, 4096, only_text=True).nats(
        [GAP.filled(one) for one in EVERY]
    )
    part = slice(len(GAP.before), None) if direction == "ltr" else slice(None, len(GAP.before) + M)
    joint = np.exp([-one[part].sum() for one in nats])
    return dict(zip(EVERY, joint / joint.sum(), strict=True)), dict(zip(EVERY, joint, strict=True))


def variation(found: Middles, truth) -> float:
    shares = {one.ids: one.share for one in found.middles}
    return sum(abs(shares.get(one, 0.0) - truth[one]) for one in EVERY) / 2


def resampled(subject, directions, candidates=4000, **options):
    return infill_ids(subject, GAP, 1, directions=directions, candidates=candidates, **options)


WAYS = {
    "ltr": (LtrObjective(), ("ltr",)),
    "rtl": (RtlObjective(), ("rtl",)),
    "both, ltr counts": (BOTH, ("ltr", "rtl")),
    "both, rtl counts": (BOTH, ("rtl", "ltr")),
}


@pytest.mark.parametrize("way", WAYS)
def test_resampling_comes_to_the_probability_given_both_sides(way):
    objective, directions = WAYS[way]
    subject = trained(objective)
    truth, joint = exact(subject, directions[0])
    found = resampled(subject, directions)
    assert (found.by, found.direction) == ("resample", directions[0])
    assert variation(found, truth) < 0.06
    # they are ranked by p(middle, other side | one side), which is exact whatever was drawn
    assert [joint[one.ids] for one in found.middles] == sorted((joint[one.ids] for one in found.middles), reverse=True)
    for one in found.middles[:10]:
        assert one.nats == pytest.approx(-np.log(truth[one.ids]), abs=0.06)


def test_without_the_side_that_is_read_last_the_answer_is_another():
    """The test above can fail: what the model writes ltr, without a weight for the text after the gap, is far from the truth."""
    subject = trained(LtrObjective())
    truth, _ = exact(subject, "ltr")
    written = infill._written(subject, GAP, "ltr", 4000, 1)
    shares = {one: written.count(one) / len(written) for one in EVERY}
    assert sum(abs(shares[one] - truth[one]) for one in EVERY) / 2 > 0.15


def test_one_of_equal_candidates_at_its_own_weight_would_be_wrong():
    """Why the weights of duplicates are added: 4000 draws of 64 middles would give each middle the share of p / q."""
    subject = trained(LtrObjective())
    truth, _ = exact(subject, "ltr")
    found = resampled(subject, ("ltr",))
    own, whole = infill._log_probabilities(subject, GAP, [one.ids for one in found.middles], "ltr")
    weights = np.exp(whole - own)
    once = Middles(
        "resample",
        "ltr",
        tuple(
            infill.Middle(one.ids, one.nats, weight)
            for one, weight in zip(found.middles, weights / weights.sum(), strict=True)
        ),
        0,
        (),
    )
    assert variation(once, truth) > 0.15


def test_drawn_middles_follow_their_shares():
    subject = trained(BOTH)
    found = resampled(subject, ("ltr", "rtl"), candidates=200, rows=20_000)
    counted = np.bincount(found.drawn, minlength=len(found.middles)) / 20_000
    assert np.abs(counted - [one.share for one in found.middles]).sum() / 2 < 0.03


def test_in_order_fills_the_gap_as_the_chain_rule_says():
    subject = trained(MaskedObjective(hide_answers=False, rate=0.3))
    truth = {}
    for one in EVERY:
        row, p = GAP.filled([SPECIALS["[MASK]"]] * M), 1.0
        for place, token in enumerate(one):
            with torch.no_grad():
                states = subject.model.hidden(torch.tensor([row]), Full())[:, len(GAP.before) + place]
                p *= float(subject.model.logits(states)[0, :V].double().softmax(-1)[token])
            row[len(GAP.before) + place] = token
        truth[one] = p
    assert sum(truth.values()) == pytest.approx(1)
    found = resampled(subject, ())
    assert (found.by, found.direction) == ("order", None)
    assert variation(found, truth) < 0.06
    for one in found.middles:
        assert one.nats == pytest.approx(-np.log(truth[one.ids]), abs=1e-5)
    assert found.effective == pytest.approx(4000)


def test_the_same_seed_gives_the_same_middles_and_no_global_stream_is_used():
    subject, state = trained(BOTH), torch.get_rng_state()
    first, again, other = (
        infill_ids(subject, GAP, seed, directions=("ltr", "rtl"), candidates=40, rows=3) for seed in (5, 5, 6)
    )
    assert first == again
    assert first != other
    assert torch.equal(torch.get_rng_state(), state)


def test_few_effective_candidates_give_a_warning():
    subject = trained(LtrObjective(), spread=3.0)
    with pytest.warns(UserWarning, match="candidates count: ask for more"):
        infill_ids(subject, GAP, 1, directions=("ltr",), candidates=3)


def test_both_sides_are_cut_to_fit_a_window():
    long = Gap(tuple(range(10)), tuple(range(10, 20)), 3)
    assert long.within(9) == Gap((7, 8, 9), (10, 11, 12), 3)
    assert long.within(8) == Gap((7, 8, 9), (10, 11), 3)
    assert Gap((1,), tuple(range(10)), 2).within(8) == Gap((1,), (0, 1, 2, 3, 4), 2)
    assert Gap(tuple(range(10)), (7,), 2).within(8) == Gap((5, 6, 7, 8, 9), (7,), 2)
    assert long.within(100) == long
    for tokens in (0, 8):
        with pytest.raises(BadInput, match="tokens: must be from 1 to 7"):
            Gap((), (), tokens).within(8)


@pytest.mark.parametrize(
    ("objective", "directions", "options", "message"),
    [
        (LtrObjective(), ("ltr",), {"by": "order"}, "by: this model was trained on 'ltr'; it has resample"),
        (LtrObjective(), ("ltr",), {"by": "resampel"}, "did you mean 'resample'"),
        (MaskedObjective(hide_answers=False, rate=0.1), (), {"by": "resample"}, "it has order"),
        (BottleneckObjective(), (), {}, "fills no gap"),
        (LtrObjective(), ("ltr",), {"candidates": 0}, "candidates: must be at least 1"),
        (LtrObjective(), ("ltr",), {"rows": 0}, "rows: must be at least 1"),
    ],
)
def test_what_cannot_be_filled_is_refused(objective, directions, options, message):
    with pytest.raises(BadInput, match=message):
        infill_ids(trained(objective), GAP, 1, directions=directions, **options)
