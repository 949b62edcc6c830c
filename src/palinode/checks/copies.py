"""Copies of a module for measurement: float64 in every operation, random weights that let information flow, no dropout.

A newly built model can hide a leak: a projection that starts at zero passes nothing on, and float32 rounding hides every effect
below 1e-6. So the checks measure a deep copy with new random weights in which every cast to a lower precision is undone.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from palinode.base.seeds import derive, generator

RAISED = {
    torch.float32: torch.float64,
    torch.bfloat16: torch.float64,
    torch.float16: torch.float64,
    torch.complex64: torch.complex128,
}
LOWERING_CALLS = frozenset((Tensor.float, Tensor.half, Tensor.bfloat16))
DROPOUT_NAMES = ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout")
DROPOUT_CALLS = frozenset((*(getattr(F, name) for name in DROPOUT_NAMES), torch.dropout))
# Two functions of PyTorch for mixtures of experts. The first function calls the second, and a torch function mode sees only the
# second.
GROUPED_PRODUCTS = (getattr(F, "grouped_mm", None), getattr(torch, "_grouped_mm", None))
# The relative change of each weight in `rounding_noise`. With float32 rounding the noise is 1e-7; with float64 it is below 1e-13.
PROBE_STEP = 1e-9


class Float64Throughout(TorchFunctionMode):
    """A mode of torch that replaces casts to a lower precision (common in norms, softmax and logits) by casts to float64.

    An operation that refuses float64 runs in float32. Its rounding is coarse, and `rounding_noise` detects this.

    `dropout`: False turns functional dropout off as well.
    """

    def __init__(self, dropout: bool):
        super().__init__()
        self.dropout = dropout

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = {name: _raised(value) for name, value in kwargs.items()} if kwargs else {}
        if func in LOWERING_CALLS:
            return args[0].double()
        if not self.dropout and func in DROPOUT_CALLS:
            return args[0]
        if not self.dropout and func is F.scaled_dot_product_attention:
            args, options = _without_attention_dropout(args, options)
        # An audit makes this call some 100,000 times, and few of the calls name a dtype.
        given = tuple(_raised(value) for value in args) if torch.dtype in map(type, args) else args
        try:
            return func(*given, **options)
        except RuntimeError as refusal:  # the operation exists in lower precisions only, such as grouped_mm
            if not _refuses_float64(refusal, given, options):
                raise
            if func in GROUPED_PRODUCTS and options.get("offs") is not None and given[1].dim() == 3:
                return _grouped_product(given[0], given[1], options["offs"])
            return _cast(func(*_cast(given, torch.float32), **_cast(options, torch.float32)), torch.float64)


@contextmanager
def exact_arithmetic(*, dropout: bool = False) -> Iterator[None]:
    """Use float64 for all operations in the `with` block, factory functions included. The default dtype is restored afterwards."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with Float64Throughout(dropout):
            yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def seeded_passes(seed: int, *position: int | str) -> Iterator[None]:
    """Set torch's own generators, which modules under audit may use (dropout), to a fixed state.

    The old state is restored afterwards.
    """
    devices = list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(devices=devices):
        torch.set_rng_state(generator(seed, "audit", *position).get_state())
        if devices:  # without a GPU the call would queue a seed, with a stack trace that takes .3 ms
            torch.cuda.manual_seed_all(derive(seed, "audit", *position))
        yield


def randomised_copy(module: nn.Module, gain: float, rng: Generator) -> nn.Module:
    """A float64 copy with random weights: matrices N(0, gain^2 / fan in), vectors 1 + 0.1 N(0, 1), embeddings N(0, 1).

    A submodule with a method `open_for_audit(gain, generator)` then sets its own parameters: for example, its long filters must not
    decay to zero.
    """
    copied = double_copy(module)
    tables = _table_parameters(copied)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.copy_(_open_weights(parameter, id(parameter) in tables, gain, rng))
        for part in copied.modules():
            if callable(fill := getattr(part, "open_for_audit", None)):
                fill(gain, rng)
    return copied


def double_copy(module: nn.Module) -> nn.Module:
    """A float64 deep copy with the same weights; all parameters require gradients. `exact_arithmetic` turns dropout off.

    This function removes only the dropout of `nn.MultiheadAttention`, which is inside a function that a torch function mode cannot
    see.
    """
    copied = copy.deepcopy(module).double().requires_grad_(True)
    for tensor in (*copied.parameters(), *copied.buffers()):
        if tensor.dtype == torch.complex64:
            tensor.data = tensor.data.to(torch.complex128)
    for part in copied.modules():
        if isinstance(part, nn.MultiheadAttention):
            part.dropout = 0.0
    return copied


def trainable_copy(module: nn.Module, vocab_size: int, rng: Generator) -> nn.Module:
    """A deep copy that learns quickly: linear maps N(0, 1 / fan in), lookup tables N(0, 1 / width), an untied output head zero.

    Small initial weights (0.02 is common) keep attention uniform for hundreds of steps, and this hides a leak: with the weights of
    this copy, C2 found the leak of the published mask at step 27; with the initial weights of GPT-2, not within 200 steps. With
    tables of N(0, 0.5^2), C2 needs twice as many steps, or ten times as many if the head is tied to the table.
    """
    copied = copy.deepcopy(module).requires_grad_(True)
    tables = _table_parameters(copied)
    with torch.no_grad():
        for name, parameter in copied.named_parameters():
            if parameter.dim() < 2 or not name.endswith("weight"):
                continue
            noise = torch.randn(parameter.shape, generator=rng, dtype=parameter.dtype)
            is_table = id(parameter) in tables
            is_head = not is_table and parameter.shape[0] == vocab_size
            parameter.copy_(noise * (0.0 if is_head else 1 / math.sqrt(parameter[0].numel())))
    return copied


def rounding_noise(logits_of: Callable[[nn.Module], Tensor], module: nn.Module, rng: Generator) -> float:
    """The size of a module's rounding errors: |f(2h) - 2 f(h) + f(0)| / std, where h is a tiny step of all weights.

    A smooth function in float64 gives 1e-14. A hidden cast to float32 gives 1e-7, whatever dtype the logits have. If the cast
    rounds the whole step away, the result is infinite.
    """
    base = logits_of(module)
    stepped = copy.deepcopy(module)
    steps = [
        PROBE_STEP * torch.randn(p.shape, generator=rng, dtype=p.dtype).to(p.device) * p for p in stepped.parameters()
    ]
    logits = []
    for _ in range(2):
        with torch.no_grad():
            for parameter, step in zip(stepped.parameters(), steps, strict=True):
                parameter.add_(step)
        logits.append(logits_of(stepped))
    if steps and torch.equal(logits[1], base):
        return math.inf
    bent = (logits[1] - 2 * logits[0] + base).abs()
    return float(torch.nan_to_num(bent).max()) / (float(base[base.isfinite()].std()) or 1.0)


def _table_parameters(module: nn.Module) -> set[int]:
    """The identities of the parameters of lookup tables, which are tables of token ids or of positions."""
    tables = (
        part
        for part in module.modules()
        if isinstance(part, nn.Embedding) or getattr(part, "role", None) in ("embedding", "position")
    )
    return {id(parameter) for part in tables for parameter in part.parameters(recurse=False)}


def _open_weights(parameter: Tensor, is_table: bool, gain: float, rng: Generator) -> Tensor:
    noise = torch.randn(parameter.shape, generator=rng, dtype=parameter.dtype)
    if parameter.dim() < 2:
        return 1 + 0.1 * noise
    return noise if is_table else noise * (gain / math.sqrt(parameter[0].numel()))


def _raised(value: Any) -> Any:
    return RAISED.get(value, value) if isinstance(value, torch.dtype) else value


def _refuses_float64(refusal: RuntimeError, args: Any, options: Any) -> bool:
    """Whether an operation got float64 values and its error message names that type."""
    flat = [value for value in (*args, *options.values()) if isinstance(value, Tensor)]
    return "double" in str(refusal).lower() and any(value.dtype == torch.float64 for value in flat)


def _grouped_product(rows: Tensor, matrices: Tensor, ends: Tensor) -> Tensor:
    """Products of (n, D) rows with (G, D, K) matrices: the rows of group g end before row ends[g]; the result is (n, K)."""
    starts = [0, *ends.tolist()]
    groups = [rows[first:last] @ matrix for first, last, matrix in zip(starts, starts[1:], matrices, strict=False)]
    return torch.cat([*groups, rows.new_zeros(len(rows) - starts[-1], matrices.shape[-1])])


def _cast(values: Any, to: torch.dtype) -> Any:
    """The same values, in which every floating-point tensor has another precision."""
    if isinstance(values, Tensor):
        return values.to(to) if values.is_floating_point() else values
    if isinstance(values, dict):
        return {name: _cast(value, to) for name, value in values.items()}
    if isinstance(values, (tuple, list)):
        return type(values)(_cast(value, to) for value in values)
    return values


def _without_attention_dropout(
    args: tuple[Any, ...], options: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of the call, with dropout_p (the fifth argument) set to 0."""
    if len(args) > 4:
        return (*args[:4], 0.0, *args[5:]), options
    return args, {**options, "dropout_p": 0.0}
