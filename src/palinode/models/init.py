"""The first weights of a model: each parameter is drawn from its own random stream of the run's seed, `init` / parameter name.

So two arms of an experiment with the same seed start with equal values in each parameter that has the same name and shape in both
arms, even if other parameters differ. The global random generator is not used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor, nn

from palinode.base.errors import BadInput
from palinode.base.seeds import generator
from palinode.models.parts.linear import BlockLinear, Linear, Norm, OwnStart, Role, Table

SchemeName = Literal["gpt2", "fan_in", "nanochat"]
GPT2_STD = 0.02


@dataclass(frozen=True)
class InitRule:
    """The rule for the first values of the weights.

    Attributes:
        scheme: the name of a scheme, or a model's own table with the standard deviation of each role. `gpt2`: all weights
            N(0, .02^2), but maps into the residual stream N(0, (.02 / sqrt(2 layers))^2). `fan_in`: embeddings N(0, 1), maps
            N(0, .33 / fan in). `nanochat`: embeddings N(0, .8^2), head N(0, .001^2), maps uniform with standard deviation
            1 / sqrt(fan in), or .4 / sqrt(fan in) for the first map of an MLP. In every named scheme learned positions start as
            N(0, .02^2), gains at 1, biases and shifts at 0.
        layers: the number L of blocks of the stack.
        zero_residual: whether maps that write into the residual stream start at 0, so that a block starts as the identity.
        zero_head: whether the head starts at 0, so that the first loss is ln V.
    """

    scheme: SchemeName | Mapping[Role, float]
    layers: int
    zero_residual: bool
    zero_head: bool


def initialise(model: nn.Module, rule: InitRule, seed: int, parts: Mapping[str, InitRule] | None = None) -> None:
    """Fill every parameter of the model with its first values, in place.

    Args:
        parts: the rules of some children of the model, by child name; a child with its own rule does not use `rule`.

    Raises:
        BadInput: no rule of this file gives some parameter its first values.
    """
    own_rules = parts or {}
    with torch.no_grad():
        for module_name, module in model.named_modules():
            chosen = own_rules.get(module_name.partition(".")[0], rule)
            for name, parameter in module.named_parameters(recurse=False):
                rng = generator(seed, "init", f"{module_name}.{name}")
                _start(module, name, parameter, chosen, rng)


def _start(module: nn.Module, name: str, parameter: Tensor, rule: InitRule, rng: Generator) -> None:
    if isinstance(module, Norm):
        parameter.fill_(1.0 if name == "gain" else 0.0)
    elif isinstance(module, (Linear, Table)):
        _start_weight(module, name, parameter, rule, rng)
    elif isinstance(module, BlockLinear):
        _start_blocks(module, name, parameter, rule, rng)
    elif isinstance(module, OwnStart):
        module.start(name, parameter, rng)
    else:
        hint = "use palinode.models.parts.linear, or give its module a start(name, parameter, rng)"
        raise BadInput(f"no rule gives {name} of {type(module).__name__} its first values", field="model", hint=hint)


def _start_weight(module: Linear | Table, name: str, weight: Tensor, rule: InitRule, rng: Generator) -> None:
    role = module.role
    # A weight on the meta device has no values; random numbers on this device would load PyTorch's compiler, which takes 3 s.
    if weight.is_meta:
        return
    if name == "bias" or (role == "residual" and rule.zero_residual) or (role == "head" and rule.zero_head):
        weight.zero_()
    elif rule.scheme == "nanochat" and role in ("inner", "mlp_in", "residual"):
        bound = math.sqrt(3 / weight.shape[1]) * (0.4 if role == "mlp_in" else 1.0)
        weight.uniform_(-bound, bound, generator=rng)
    else:
        weight.normal_(0.0, _std(role, weight.shape[1], rule), generator=rng)


def _start_blocks(module: BlockLinear, name: str, parameter: Tensor, rule: InitRule, rng: Generator) -> None:
    """Fill a block-diagonal map in every scheme: uniform in +-1 / sqrt(a block's input width), the bias in +-1 / sqrt(out_width).

    With `zero_residual`, a map that writes into the residual stream starts at 0.
    """
    bound = (module.weight.shape[2] if name == "weight" else len(parameter)) ** -0.5
    if rule.zero_residual and module.role == "residual":
        parameter.zero_()
    else:
        parameter.uniform_(-bound, bound, generator=rng)


def _std(role: Role, fan_in: int, rule: InitRule) -> float:
    """The standard deviation of the normal distribution from which a weight of this role is drawn."""
    if not isinstance(rule.scheme, str):
        return rule.scheme[role]
    if rule.scheme == "gpt2" or role == "position":
        return GPT2_STD / math.sqrt(2 * rule.layers) if role == "residual" else GPT2_STD
    if rule.scheme == "nanochat":
        return {"embedding": 0.8, "head": 0.001}[role]
    return 1.0 if role == "embedding" else math.sqrt(0.33 / fan_in)
