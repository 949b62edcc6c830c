"""Frozen parameters: no step moves them, the record counts them apart, and the FLOPs of training leave their gradients out."""

import pytest
import torch
from tiny_training import make_training
from torch.utils.flop_counter import FlopCounterMode

from palinode.base.visibility import Ltr
from palinode.run.one import trainable_count
from palinode.train.loop import take_step
from palinode.train.optim import AdamW, HlbAdamW, MuonAdamW, build_optimizers, check_optimizers, trainable

CONFIGS = (AdamW(weight_decay=0.5), MuonAdamW(weight_decay=0.5), HlbAdamW())


def frozen_training(config, names):
    """The tiny training with some parameters frozen and this optimizer."""
    training = make_training("speedrun")
    for name, parameter in training.model.named_parameters():
        parameter.requires_grad_(not name.startswith(names))
    roles = training.model.parameter_groups()
    check_optimizers(config, training.model, roles)
    training.optimizers = build_optimizers(config, training.model, roles)
    return training


@pytest.mark.parametrize("config", CONFIGS, ids=lambda one: one.kind)
def test_no_step_moves_a_frozen_parameter(config):
    training = frozen_training(config, ("embedding", "blocks.0"))
    before = {name: value.clone() for name, value in training.model.state_dict().items()}
    for _ in range(3):
        take_step(training)
    moved = {name for name, value in training.model.state_dict().items() if not torch.equal(value, before[name])}
    frozen = {name for name, one in training.model.named_parameters() if not one.requires_grad}
    assert frozen
    assert moved == set(before) - frozen


def test_without_a_trainable_parameter_nothing_is_built():
    training = make_training("speedrun")
    training.model.requires_grad_(False)
    with pytest.raises(ValueError, match="no trainable parameters"):
        check_optimizers(CONFIGS[0], training.model, training.model.parameter_groups())


def test_the_record_counts_what_training_may_change():
    training = frozen_training(CONFIGS[0], ("embedding",))
    total = training.model.embedding.weight.numel()
    assert trainable_count(training.model) == {
        "trainable": sum(one.numel() for one in training.model.parameters()) - total
    }
    assert trainable_count(make_training("speedrun").model) == {}


def test_a_role_that_is_frozen_stays_and_is_empty():
    training = frozen_training(CONFIGS[0], ("embedding",))
    roles = trainable(training.model.parameter_groups())
    assert roles["embedding"] == []
    assert roles["matrix"]


@pytest.mark.parametrize("frozen", [("blocks.1",), ("head",), ("blocks.0.mlp", "head")])
def test_flops_of_training_are_those_of_torch(frozen):
    """The difference that freezing makes in PyTorch's own count of forward and backward pass is the difference in ours."""
    slots = 16

    def counts(names):
        model = frozen_training(CONFIGS[0], names).model
        tokens = torch.zeros(1, slots, dtype=torch.long)
        with FlopCounterMode(display=False) as counter:
            model.logits(model.hidden(tokens, Ltr())).sum().backward()
        return counter.get_total_flops(), model.cost(slots, Ltr()).train_flops(slots)

    (torch_all, ours_all), (torch_frozen, ours_frozen) = counts(("nothing",)), counts(frozen)
    assert torch_all - torch_frozen == ours_all - ours_frozen > 0
