"""The machine's own rate on the matrix products of a model, and the share of this rate that training reaches.

A training step multiplies its rows by each weight matrix W of the model: y = X W^T in the forward pass, dX = dY W and dW = dY^T X
in the backward pass. A step that did nothing else would run at the product rate. A share well below 1 says that a step spends its
time on other work: small operations, memory, calls.

The rate is measured on tensors of its own. No weight and no random stream is touched. The results go into buffers that are kept
from round to round, so that no time goes into taking memory from the kernel.
Letters: B rows, T slots.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from palinode.models.base import LanguageModel
from palinode.models.cost import TRAINING_FACTOR
from palinode.train.loop import Counters, Training
from palinode.train.recipe import Precision

# A round multiplies as many slots as fit into so many FLOPs (75 ms on one core of 2023), but at least so many slots. The rate at
# 256 slots was within 3 % of the rate at 1024, and at 64 slots 20 % below it.
ROUND_FLOPS, LEAST_SLOTS = 6e9, 256
MOST_SIDE = 1024  # a longer side of a matrix is cut to this length; sides of 1024 to 8192 had 64 to 72 GFLOP a second
LEAST_ROUNDS, MOST_ROUNDS = 3, 200
MOST_SECONDS = 0.15  # no further round begins after this time
# The largest share of the FLOPs of a run that the measurement takes, so about this share of its time.
SHARE_OF_RUN = 0.01

Clock = Callable[[], float]


@dataclass(frozen=True)
class LinearMap:
    """The weight of a linear map: (outputs, inputs), and the number format that its products are computed in."""

    outputs: int
    inputs: int
    dtype: torch.dtype

    @property
    def flops_per_slot(self) -> int:
        """The FLOPs for one slot, forward and backward."""
        return TRAINING_FACTOR * 2 * self.outputs * self.inputs

    def cut(self) -> LinearMap:
        """The map with sides of at most MOST_SIDE."""
        return LinearMap(min(self.outputs, MOST_SIDE), min(self.inputs, MOST_SIDE), self.dtype)


def linear_maps(model: LanguageModel, precision: Precision = "float32") -> Counter[LinearMap]:
    """How often a model has each linear map that every slot goes through.

    These are the 2-D parameters of the groups `matrix` and `head`, and the token table if it is also the head. The head computes
    in the format of its weight, because autocast ends before it. In a model with an encoder, all maps count as if every slot went
    through them.
    """
    groups = model.parameter_groups()
    heads: dict[int, Tensor] = {id(weight): weight for _, weight in groups.get("head", ())}
    if (head := model.linear_head()) is not None:
        heads[id(head.weight)] = head.weight
    inner = [weight for _, weight in groups.get("matrix", ()) if id(weight) not in heads]
    formats = [(weight, weight.dtype) for weight in heads.values()]
    formats += [(weight, torch.bfloat16 if precision == "bfloat16" else weight.dtype) for weight in inner]
    return Counter(LinearMap(weight.shape[0], weight.shape[1], dtype) for weight, dtype in formats if weight.ndim == 2)


class Products:
    """The products of all linear maps of a model, ready to be timed.

    Attributes:
        slots: the number of slots that a round multiplies: B*T, or fewer for a large model.
        round_flops: the FLOPs that a round computes. Each distinct map is computed once.
    """

    def __init__(self, maps: Mapping[LinearMap, int], slots: int, device: torch.device):
        """Make the buffers.

        Args:
            maps: at least one linear map, and how often the model has each.
            slots: the number of slots B*T that a step multiplies at once.
        """
        cut = {linear_map: linear_map.cut() for linear_map in maps}
        flops_per_slot = sum(one.flops_per_slot for one in cut.values())
        self.slots = max(1, min(slots, max(LEAST_SLOTS, int(ROUND_FLOPS / flops_per_slot))))
        self.round_flops = float(self.slots * flops_per_slot)
        self._weights = [count * linear_map.flops_per_slot for linear_map, count in maps.items()]
        self._products = [_Product(one, self.slots, device) for one in cut.values()]
        self._device = device

    def rate(self, clock: Clock = time.perf_counter) -> float:
        """Compute one round. The result is the FLOPs a second of the model's maps, each weighted by its FLOPs in a step."""
        seconds_per_flop = [self._seconds(product, clock) / product.flops for product in self._products]
        seconds = sum(weight * each for weight, each in zip(self._weights, seconds_per_flop, strict=True))
        return sum(self._weights) / max(seconds, 1e-12)

    def _seconds(self, product: _Product, clock: Clock) -> float:
        self._wait()
        began = clock()
        product.compute()
        self._wait()
        return clock() - began

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


class _Product:
    """The three products of one linear map, with their buffers. The values are ones: their size does not change the time."""

    def __init__(self, linear_map: LinearMap, slots: int, device: torch.device):
        outputs, inputs = linear_map.outputs, linear_map.inputs

        def ones(rows: int, columns: int) -> Tensor:
            return torch.ones(rows, columns, dtype=linear_map.dtype, device=device)

        self.flops = float(slots * linear_map.flops_per_slot)
        self._x, self._weight, self._dy = ones(slots, inputs), ones(outputs, inputs), ones(slots, outputs)
        self._y, self._dx, self._dw = ones(slots, outputs), ones(slots, inputs), ones(outputs, inputs)

    def compute(self) -> None:
        torch.mm(self._x, self._weight.t(), out=self._y)
        torch.mm(self._dy, self._weight, out=self._dx)
        torch.mm(self._dy.t(), self._x, out=self._dw)


def products_of(training: Training) -> Products | None:
    """The products of the model that is trained, at the slots of a micro-batch; None for a model without linear maps."""
    maps = linear_maps(training.model, training.recipe.precision)
    return Products(maps, micro_batch_slots(training), training.device) if maps else None


def micro_batch_slots(training: Training) -> int:
    """B*T of one micro-batch, with the mean number of passes of the steps so far."""
    recipe, counters = training.recipe, training.counters
    tokens = recipe.batch_windows // recipe.micro_batches * training.windows.window_tokens
    return max(1, round(tokens * counters.tokens_read / max(1, counters.window_tokens)))


def product_rate(products: Products, most_rounds: int = MOST_ROUNDS) -> float:
    """The median rate of a few rounds in FLOPs a second, after a round that warms up.

    Args:
        most_rounds: at least 1. Fewer rounds are made when MOST_SECONDS are over, but not fewer than LEAST_ROUNDS.
    """
    products.rate()
    rates, began = list[float](), time.perf_counter()
    while len(rates) < most_rounds:
        if len(rates) >= LEAST_ROUNDS and time.perf_counter() - began > MOST_SECONDS:
            break
        rates.append(products.rate())
    return median(rates)


def counted_flops(counters: Counters) -> float:
    """The FLOPs of model and optimizer."""
    return counters.train_flops + counters.optimizer_flops


def rates_of_run(training: Training, train_seconds: float, processes: int = 1) -> dict[str, float]:
    """`product_flops_per_second`, measured now, and `product_share`, the share of it that this run reached in all its steps.

    The result is empty for a model without linear maps, and for a run that is so short that the measurement would take more than
    1 % of its FLOPs.

    Args:
        train_seconds: the seconds of all training steps of the run.
        processes: the number of processes that share each step. The rate is that of one process; the share is of the rate of all.
    """
    flops = counted_flops(training.counters)
    if train_seconds <= 0 or (products := products_of(training)) is None:
        return {}
    rounds = int(SHARE_OF_RUN * flops / products.round_flops) - 1  # one round warms up
    if rounds < LEAST_ROUNDS:
        return {}
    rate = product_rate(products, min(rounds, MOST_ROUNDS))
    return {"product_flops_per_second": rate, "product_share": flops / train_seconds / rate / processes}
