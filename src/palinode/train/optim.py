"""Optimizers, and the parameters that each moves. Every trainable parameter is in exactly one group, or building raises.

A parameter without `requires_grad` is frozen: no optimizer gets it, so no step and no weight decay changes it.

The model gives its parameters by role (`embedding`, `position`, `matrix`, `head`, `vector`, ...). An optimizer config maps roles
to learning rates. The role `matrix` holds the hidden two-dimensional weights, the only ones that Muon may orthogonalise. A mixer
may have roles of its own (`kernel`, `filter`). The table `ROLE_RATES` has the rate and the weight decay of a mixer's own
roles. `OptimizerConfig.rates` replaces entries of the table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import nn

from palinode.base.config import LATER, Config, Part
from palinode.base.errors import BadInput, Unfinished, nearest
from palinode.train.muon import Muon, Precision, newton_schulz_flops
from palinode.train.schedule import ExponentialDecay, PowerDecay, Schedule

Optimizers = list[torch.optim.Optimizer]
NamedParameters = list[tuple[str, nn.Parameter]]
Roles = Mapping[str, NamedParameters]


class RoleRate(Config):
    """The learning rate and weight decay of AdamW for the parameters of one role. The values replace the optimizer's own.

    Attributes:
        role: the name of a group in the model's `parameter_groups()`.
        learning_rate: the peak learning rate; None keeps the optimizer's usual peak for the role.
        most_learning_rate: the largest peak learning rate that is allowed.
        weight_decay: the weight decay of all parameters of the role, vectors included.
    """

    role: str
    learning_rate: float | None = Field(default=None, ge=0.0)
    most_learning_rate: float | None = Field(default=None, gt=0.0)
    weight_decay: float = Field(default=0.0, ge=0.0)

    def changed(self, usual: dict[str, Any]) -> dict[str, Any]:
        """The options of a parameter group, where this rate and decay replace the usual ones."""
        peak = usual["peak_lr"] if self.learning_rate is None else self.learning_rate
        peak = peak if self.most_learning_rate is None else min(peak, self.most_learning_rate)
        return {**usual, "lr": peak, "peak_lr": peak, "weight_decay": self.weight_decay}


ROLE_RATES: Mapping[str, RoleRate] = {
    rate.role: rate
    for rate in (
        RoleRate(role="kernel"),  # the taps of an explicit long convolution
        RoleRate(role="filter"),  # the map that computes an implicit kernel, and the map's frequency
        RoleRate(role="features", learning_rate=1e-5),  # position features that the map of an implicit kernel reads
        RoleRate(role="state", most_learning_rate=1e-3),  # the poles, steps and inputs of a state space
    )
}


class OptimizerConfig(Part):
    """Base class of optimizer configs. `build` gives the torch optimizers. Each parameter is in one group of one optimizer.

    Each parameter group has a `peak_lr`. The trainer sets `lr = peak_lr * schedule factor` before every step. A group with a
    `schedule` follows its own schedule and not the recipe's.

    Attributes:
        rates: the rate and weight decay of single roles; they override `ROLE_RATES` and the optimizer.
        rate_factor: the number that multiplies every peak rate, including the rates in `rates`. So one number can be tuned for
            models whose parameters have different roles.
    """

    weight_decay: float = Field(default=0.1, ge=0.0)
    rates: Annotated[tuple[RoleRate, ...], LATER] = ()
    rate_factor: Annotated[float, LATER] = Field(default=1.0, gt=0.0)

    def build(self, roles: Roles) -> Optimizers:
        """The optimizers for these parameters."""
        raise Unfinished(self, "must define build(roles)")

    def flops_per_step(self, roles: Roles) -> float:
        """The FLOPs of the matrix products of one step that moves all these parameters. By default there are none.

        Elementwise work is not counted. An optimizer of torch whose step multiplies matrices counts them in its own method
        `flops_per_step()`, for the parameters that have a gradient.
        """
        return 0.0

    def before_step(self, optimizers: Optimizers, last_loss_nats: float) -> None:
        """Change the options that depend on the loss of the previous step (0 before the first step). By default nothing changes."""

    def own_rates(self, roles: Roles) -> Mapping[str, RoleRate]:
        """Role -> the rate of this role, for the roles of the model that have a rate of their own.

        Raises:
            BadInput: `rates` names a role that the model does not have, or names a role twice.
        """
        given = {rate.role: rate for rate in self.rates}
        for rate in self.rates:
            if rate.role not in roles or given[rate.role] is not rate:
                why = "it is named twice" if rate.role in roles else f"the model has {', '.join(roles)}"
                raise BadInput(f"no rate for role {rate.role!r}: {why}", field="rates", hint=nearest(rate.role, roles))
        return {role: rate for role, rate in {**ROLE_RATES, **given}.items() if roles.get(role)}

    def role_groups(self, roles: Roles, usual: Callable[[str], dict[str, Any]]) -> list[dict[str, Any]]:
        """One parameter group for each role that has parameters: `usual(role)`, changed by the role's own rate if there is one."""
        own = self.own_rates(roles)
        groups = {role: {"params": members(roles, role), **usual(role)} for role, named in roles.items() if named}
        return [own[role].changed(group) if role in own else group for role, group in groups.items()]


class AdamW(OptimizerConfig):
    """AdamW for all parameters. Weight decay applies to tensors of two or more dimensions (embeddings and positions included)."""

    kind: ClassVar[str] = "adamw"
    learning_rate: float = Field(default=1e-3, gt=0.0)
    beta1: float = Field(default=0.9, ge=0.0, lt=1.0)
    beta2: float = Field(default=0.99, ge=0.0, lt=1.0)
    epsilon: float = Field(default=1e-8, gt=0.0)

    def build(self, roles: Roles) -> Optimizers:
        own = self.own_rates(roles)
        named = all_parameters({role: members for role, members in roles.items() if role not in own})
        decayed = [parameter for _, parameter in named if parameter.dim() >= 2]
        plain = [parameter for _, parameter in named if parameter.dim() < 2]
        usual = {"lr": self.learning_rate, "peak_lr": self.learning_rate}
        groups = [
            {"params": parameters, "weight_decay": decay, **usual}
            for parameters, decay in ((decayed, self.weight_decay), (plain, 0.0))
            if parameters
        ]
        groups += [rate.changed({"params": members(roles, role), **usual}) for role, rate in own.items()]
        return [adamw(groups, betas=(self.beta1, self.beta2), eps=self.epsilon)]


class MuonAdamW(OptimizerConfig):
    """Muon (orthogonalised momentum) for hidden matrices, and AdamW with a rate per role for the other parameters.

    The form is that of modded-nanogpt's track-3 recipe (03-models 4.2). The published rates are for 124 million parameters; no
    published rates are for fewer than 80 million. The defaults here were tuned at 0.1 to 0.9 million (see docs/benchmarks.md).
    Compared with the published recipe, the defaults have twice the matrix and head rates, a third of the vector rate, less
    momentum, and Jordan's five Newton-Schulz steps instead of twelve.

    Attributes:
        newton_schulz_precision: the precision of the Newton-Schulz steps on a CPU; on a GPU it is always bfloat16. bfloat16 is
            faster for widths of 128 and more on a CPU that has bfloat16 arithmetic, and much slower on a CPU without it.
    """

    kind: ClassVar[str] = "muon+adamw"
    matrix_learning_rate: float = Field(default=0.05, gt=0.0)
    momentum: float = Field(default=0.85, ge=0.0, lt=1.0)
    newton_schulz_steps: int = Field(default=5, ge=1, lt=100)
    weight_decay: float = Field(default=0.05, ge=0.0)
    embedding_learning_rate: float = Field(default=0.7, gt=0.0)
    head_learning_rate: float = Field(default=0.008, gt=0.0)
    vector_learning_rate: float = Field(default=0.005, gt=0.0)
    beta1: float = Field(default=0.8, ge=0.0, lt=1.0)
    beta2: float = Field(default=0.95, ge=0.0, lt=1.0)
    epsilon: float = Field(default=1e-10, gt=0.0)
    other_weight_decay: float = Field(default=0.001, ge=0.0)
    newton_schulz_precision: Annotated[Precision, LATER] = "float32"

    def own_rates(self, roles: Roles) -> Mapping[str, RoleRate]:
        if any(rate.role == "matrix" for rate in self.rates):
            raise BadInput("the rate of Muon's matrices is matrix_learning_rate", field="rates")
        return super().own_rates(roles)

    def flops_per_step(self, roles: Roles) -> float:
        steps, precision = self.newton_schulz_steps, self.newton_schulz_precision
        return sum(newton_schulz_flops(one.shape, steps, precision) for one in members(roles, "matrix"))

    def build(self, roles: Roles) -> Optimizers:
        rates = {"embedding": self.embedding_learning_rate, "head": self.head_learning_rate}

        def usual(role: str) -> dict[str, Any]:
            rate = rates.get(role, self.vector_learning_rate)
            return {"lr": rate, "peak_lr": rate}

        groups = self.role_groups({role: named for role, named in roles.items() if role != "matrix"}, usual)
        matrices = members(roles, "matrix")
        optimizers: Optimizers = []
        if groups:
            betas = (self.beta1, self.beta2)
            optimizers.append(adamw(groups, betas=betas, eps=self.epsilon, weight_decay=self.other_weight_decay))
        if matrices:
            muon = Muon(
                [{"params": matrices, "peak_lr": self.matrix_learning_rate}],
                lr=self.matrix_learning_rate,
                weight_decay=self.weight_decay,
                momentum=self.momentum,
                ns_steps=self.newton_schulz_steps,
            )
            muon.newton_schulz_precision = self.newton_schulz_precision
            optimizers.append(muon)
        return optimizers


class HlbAdamW(OptimizerConfig):
    """The AdamW of hlb-gpt: rates from the number of parameters P, four groups, weight decay driven by the loss (03-models 3.4).

    With l = ln P the rate is 2.62 * 9e7 / l^8.8, unless `learning_rate` gives it. Slopes (the learned position biases) have 100
    times that rate on the schedule .995^step. Vectors, embedding and position tables have 32 times that rate on the recipe's
    schedule. The head has 2 times that rate on the schedule (step + 1)^-.2, with beta1 .6. Matrices have that rate on the recipe's
    schedule, with weight decay `weight_decay` * b^-loss, b = .007 (.01 l)^-4, which is strong while the loss is low. The loss is
    that of the previous step, in nats per scored token (the published loss is a sum over passes that is already divided by the
    parts).
    """

    kind: ClassVar[str] = "hlb-adamw"
    weight_decay: float = Field(default=16.0, ge=0.0)
    learning_rate: float | None = Field(default=None, gt=0.0)
    slope_factor: float = Field(default=100.0, gt=0.0)
    vector_factor: float = Field(default=32.0, gt=0.0)
    head_factor: float = Field(default=2.0, gt=0.0)
    beta1: float = Field(default=0.9, ge=0.0, lt=1.0)
    head_beta1: float = Field(default=0.6, ge=0.0, lt=1.0)
    beta2: float = Field(default=0.95, ge=0.0, lt=1.0)
    epsilon: float = Field(default=1e-9, gt=0.0)

    def build(self, roles: Roles) -> Optimizers:
        size = sum(parameter.numel() for _, parameter in all_parameters(roles))
        rate = self.learning_rate or hlb_learning_rate(size)
        usual, head = (self.beta1, self.beta2), (self.head_beta1, self.beta2)
        laws: dict[str, dict[str, Any]] = {
            "slope": {"peak_lr": rate * self.slope_factor, "betas": usual, "schedule": ExponentialDecay()},
            "head": {
                "peak_lr": rate * self.head_factor,
                "betas": head,
                "schedule": PowerDecay(warmup_steps=0, exponent=0.2),
            },
            "matrix": {"peak_lr": rate, "betas": usual, "decay_base": hlb_decay_base(size)},
        }
        others = {"peak_lr": rate * self.vector_factor, "betas": usual}
        groups = self.role_groups(roles, lambda role: {"weight_decay": 0.0, **laws.get(role, others)})
        return [adamw(groups, betas=usual, eps=self.epsilon)]

    def before_step(self, optimizers: Optimizers, last_loss_nats: float) -> None:
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                if "decay_base" in group:
                    group["weight_decay"] = self.weight_decay * group["decay_base"] ** -last_loss_nats


def hlb_learning_rate(parameters: int) -> float:
    """The learning rate 2.62 * 9e7 / (ln P)^8.8. At 46 million parameters it is 2.526e-3."""
    return float(2.62 * 9e7 / math.log(parameters) ** 8.8)


def hlb_decay_base(parameters: int) -> float:
    """The base of the weight decay, .007 (.01 ln P)^-4. At 46 million parameters it is 7.222."""
    return float(0.007 * (0.01 * math.log(parameters)) ** -4)


def adamw(
    groups: list[dict[str, Any]], *, betas: tuple[float, float], eps: float, weight_decay: float = 0.0
) -> torch.optim.AdamW:
    """The AdamW of torch. On the CPU its fused kernel saves 1.5 ms a step for 0.8 million parameters."""
    on_cpu = all(parameter.device.type == "cpu" for group in groups for parameter in group["params"])
    return torch.optim.AdamW(groups, betas=betas, eps=eps, weight_decay=weight_decay, fused=True if on_cpu else None)


OPTIMIZERS: Mapping[str, type[OptimizerConfig]] = {cls.kind: cls for cls in (AdamW, MuonAdamW, HlbAdamW)}


def build_optimizers(config: OptimizerConfig, model: nn.Module, roles: Roles) -> Optimizers:
    """The optimizers of a config, after a check that the roles cover the model's trainable parameters exactly once.

    Raises:
        ValueError: a parameter is in no group or in two, or the model has no parameter to train.
    """
    optimizers = config.build(trainable(roles))
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    for group in groups:
        group["peak_lr"] *= config.rate_factor
        group["lr"] = group["peak_lr"]
    _check_covered(model, [parameter for group in groups for parameter in group["params"]])
    return optimizers


def check_optimizers(config: OptimizerConfig, model: nn.Module, roles: Roles) -> None:
    """Raise the error that `build_optimizers` would raise.

    The first optimizer of torch that is built imports torch's compiler, which takes 1.5 s. So for a built-in config only the roles
    are checked, because a built-in config moves every parameter of every role.
    """
    if type(config) in OPTIMIZERS.values():
        moved = trainable(roles)
        config.own_rates(moved)
        _check_covered(model, [parameter for _, parameter in all_parameters(moved)])
    else:
        build_optimizers(config, model, roles)


def _check_covered(model: nn.Module, parameters: Sequence[nn.Parameter]) -> None:
    owned = [id(parameter) for parameter in parameters]
    wanted = {id(parameter): name for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not wanted:
        raise ValueError("the model has no trainable parameters")
    missing = [name for key, name in wanted.items() if key not in owned]
    if missing or len(owned) != len(set(owned)) or len(owned) != len(wanted):
        raise ValueError(f"optimizer groups do not cover the model exactly once; missing: {missing}")


def set_learning_rates(optimizers: Optimizers, schedule: Schedule, step: int, steps: int) -> None:
    """Set the rate of every group for this step: the peak times the factor of the group's schedule, or of the recipe's."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * group.get("schedule", schedule).factor(step, steps)


def optimizer_flops(optimizers: Optimizers) -> float:
    """The FLOPs of the next step of these optimizers, as their methods `flops_per_step` count them; 0 without such a method."""
    counts = [getattr(optimizer, "flops_per_step", None) for optimizer in optimizers]
    return sum(float(count()) for count in counts if callable(count))


def trainable(roles: Roles) -> Roles:
    """The roles with their trainable parameters alone. A role whose parameters are all frozen stays, and is empty."""
    return {role: [(name, one) for name, one in named if one.requires_grad] for role, named in roles.items()}


def members(roles: Roles, role: str) -> list[nn.Parameter]:
    """The parameters of one role as a list without names."""
    return [parameter for _, parameter in roles.get(role, [])]


def all_parameters(roles: Roles) -> NamedParameters:
    """Every named parameter of every role, in order."""
    return [named for group in roles.values() for named in group]
