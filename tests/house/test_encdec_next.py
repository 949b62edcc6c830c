"""The next steps of the encoder-decoder: what an arm says of itself, it is."""

import importlib.util
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from palinode.base.seeds import generator
from palinode.base.visibility import Ltr
from palinode.models.encoder_decoder import EMBEDDING_LOSS

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
ROWS = 8
SAME_PULL = 1.3  # how far two pulls may be apart


@pytest.fixture(scope="module")
def following():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXPERIMENTS)
        spec = importlib.util.spec_from_file_location("encdec_next", EXPERIMENTS / "encdec_next.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module.experiment.resolve("laptop")


def started(resolved, arm: str):
    """The model of an arm as training starts it, and what it makes of random tokens: states, terms and their targets."""
    settings = resolved.settings(arm, resolved.scales[0])
    slots = settings.data.window_tokens
    model = settings.model.build(2048, slots, 0).train()
    tokens = torch.randint(0, 2048, (ROWS, slots + 1), generator=generator(0, "pull"))
    hidden, terms = model.hidden_and_terms(tokens[:, :-1], Ltr())
    return model, hidden, terms, tokens[:, 1:]


def pull(resolved, arm: str) -> float:
    """How hard the term pulls at the embeddings, by how hard the cross-entropy does."""
    model, hidden, terms, targets = started(resolved, arm)
    nats = F.cross_entropy(model.logits(hidden).flatten(0, 1), targets.flatten())
    term = terms[EMBEDDING_LOSS].coefficient * terms[EMBEDDING_LOSS].value
    own, theirs = (
        torch.autograd.grad(loss, model.embedding.weight, retain_graph=True)[0].norm() for loss in (term, nats)
    )
    return float(own / theirs)


def test_every_score_starts_with_the_pull_of_the_mse(following):
    wanted = pull(following, "combined")
    scores = [arm.name for arm in following.arms if arm.name.startswith(("score-", "aggregate-"))]
    assert len(scores) == 6
    for arm in scores:
        assert 1 / SAME_PULL < pull(following, arm) / wanted < SAME_PULL, arm


def test_every_weight_of_the_learned_sides_is_learned(following):
    """Once the gates are open: each block weighs as many states as there are blocks before it."""
    model, *_ = started(following, "sides-learned")
    with torch.no_grad():
        for block in model.blocks:
            block.cross.gate.fill_(0.5)
    tokens = torch.randint(0, 2048, (2, 32), generator=generator(0, "weights"))
    model.logits(model.hidden(tokens, Ltr())).logsumexp(-1).sum().backward()
    for below, block in enumerate(model.blocks):
        assert block.memory.logits.shape == (1 + below,)
        assert below == 0 or bool((block.memory.logits.grad != 0).all())


def test_arms_beside_each_other_differ_in_one_thing(following):
    def model(arm):
        return following.settings(arm, following.scales[0]).model

    assert model("decoder").with_(subtract_position="plain") == model("decoder-sub")
    assert model("rotary").with_(subtract_position="plain", subtract_table="separate") == model("rotary-sub")
    assert model("combined").with_(subtract_table="separate") == model("sub-separate")
    assert following.decision.metric == "validation.own.nats_per_token"
