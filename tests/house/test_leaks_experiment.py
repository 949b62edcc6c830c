"""The planted defects of the leaks experiment: each mixer lets slots read later slots, and its twin does not."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from palinode.base.seeds import generator
from palinode.base.visibility import Ltr

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
SLOTS = 32


@pytest.fixture(scope="module")
def leaks():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXPERIMENTS)
        spec = importlib.util.spec_from_file_location("leaks", EXPERIMENTS / "leaks.py")
        module = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, "leaks", module)
        spec.loader.exec_module(module)
        yield module


def built(leaks, arm):
    settings = leaks.experiment.resolve("smoke").settings(arm, "base")
    model = settings.model.build(64, SLOTS, 0).eval()
    with torch.no_grad():  # some maps start at 0; filters keep their start, which decays slowly
        for number, (name, parameter) in enumerate(model.named_parameters()):
            if "filter" not in name:
                parameter.normal_(0.0, 0.2, generator=generator(0, "spread", number))
    return model


@pytest.mark.parametrize(
    ("arm", "reads_later"),
    [("long-conv", False), ("long-conv-uncut", True), ("hyena", False), ("hyena-blocks", True)],
)
def test_a_later_token_moves_earlier_states_in_the_planted_mixers_alone(leaks, arm, reads_later):
    model = built(leaks, arm)
    tokens = torch.randint(0, 64, (1, SLOTS), generator=generator(0, "tokens"))
    other = tokens.clone()
    other[0, SLOTS // 2 - 1] = (tokens[0, SLOTS // 2 - 1] + 1) % 64
    with torch.no_grad():
        moved = (model.hidden(tokens, Ltr()) - model.hidden(other, Ltr()))[0, : SLOTS // 2 - 1].abs().max()
    assert bool(moved > 1e-4) == reads_later


@pytest.mark.parametrize(("arm", "is_random"), [("dropout", False), ("dropout-in-evaluation", True)])
def test_dropout_stays_on_in_the_planted_attention_alone(leaks, arm, is_random):
    model = built(leaks, arm)
    tokens = torch.randint(0, 64, (1, SLOTS), generator=generator(0, "tokens"))
    with torch.no_grad():
        first, second = model.hidden(tokens, Ltr()), model.hidden(tokens, Ltr())
    assert bool((first != second).any()) == is_random
