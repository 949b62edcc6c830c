"""Rates and decay of single roles: the table of built-in ones, what a user gives, and what is refused."""

import pytest
import torch

from palinode.base.config import decode, encode, identity
from palinode.base.errors import BadInput
from palinode.train.optim import ROLE_RATES, AdamW, HlbAdamW, MuonAdamW, RoleRate, build_optimizers

OPTIMIZERS = (AdamW(), MuonAdamW(), HlbAdamW())


class Odd(torch.nn.Module):
    def __init__(self):
        super().__init__()
        for name, shape in (
            ("matrix", (3, 3)),
            ("gain", (3,)),
            ("kernel", (2, 3, 4)),
            ("features", (4, 5)),
            ("own", (2, 2)),
        ):
            self.register_parameter(name, torch.nn.Parameter(torch.zeros(shape)))


ROLES = {"matrix": "matrix", "gain": "vector", "kernel": "kernel", "features": "features", "own": "mine"}


def group_of(config, role: str):
    model = Odd()
    named = dict(model.named_parameters())
    roles = {"embedding": [], **{ROLES[name]: [(name, named[name])] for name in named}}
    groups = [group for one in build_optimizers(config, model, roles) for group in one.param_groups]
    wanted = id(roles[role][0][1])
    return next(group for group in groups if wanted in {id(parameter) for parameter in group["params"]})


@pytest.mark.parametrize("config", OPTIMIZERS, ids=lambda config: config.kind)
def test_built_in_roles_have_their_own_rate_and_no_decay(config):
    usual = group_of(config, "vector")["peak_lr"]
    assert group_of(config, "kernel")["weight_decay"] == 0.0
    assert group_of(config, "kernel")["peak_lr"] == usual
    assert group_of(config, "features")["peak_lr"] == 1e-5
    assert ROLE_RATES["state"].changed({"peak_lr": 5e-3})["peak_lr"] == 1e-3
    assert ROLE_RATES["state"].changed({"peak_lr": 5e-4})["peak_lr"] == 5e-4


@pytest.mark.parametrize("config", OPTIMIZERS, ids=lambda config: config.kind)
def test_a_user_may_give_any_role_a_rate(config):
    rates = (RoleRate(role="kernel", learning_rate=0.5, weight_decay=0.1), RoleRate(role="mine", learning_rate=0.25))
    changed = config.with_(rates=rates)
    assert (group_of(changed, "kernel")["peak_lr"], group_of(changed, "kernel")["weight_decay"]) == (0.5, 0.1)
    assert (group_of(changed, "mine")["lr"], group_of(changed, "mine")["weight_decay"]) == (0.25, 0.0)
    assert group_of(changed, "vector")["peak_lr"] == group_of(config, "vector")["peak_lr"]
    assert decode(type(config), {k: v for k, v in encode(changed).items() if k != "kind"}) == changed
    assert "rates" not in identity(config)


@pytest.mark.parametrize("config", OPTIMIZERS, ids=lambda config: config.kind)
def test_one_factor_multiplies_the_rates_of_every_role(config):
    given = config.with_(rates=(RoleRate(role="mine", learning_rate=0.25),))
    for role in ("matrix", "vector", "kernel", "features", "mine"):
        peak = group_of(given, role)["peak_lr"]
        tripled = group_of(given.with_(rate_factor=3.0), role)
        assert tripled["peak_lr"] == tripled["lr"] == pytest.approx(3 * peak)
    assert "rate_factor" not in identity(config)


def test_the_usual_rule_holds_for_roles_that_no_rate_names():
    assert group_of(AdamW(), "mine")["weight_decay"] == AdamW().weight_decay
    assert group_of(AdamW(), "vector")["weight_decay"] == 0.0


def test_a_rate_for_nothing_is_refused():
    with pytest.raises(BadInput, match="no rate for role 'kernle'") as caught:
        group_of(AdamW(rates=(RoleRate(role="kernle"),)), "vector")
    assert "kernel" in str(caught.value.hint)
    twice = (RoleRate(role="mine"), RoleRate(role="mine", learning_rate=1.0))
    with pytest.raises(BadInput, match="named twice"):
        group_of(AdamW(rates=twice), "mine")
    with pytest.raises(BadInput, match="matrix_learning_rate"):
        group_of(MuonAdamW(rates=(RoleRate(role="matrix"),)), "matrix")
