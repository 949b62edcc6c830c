"""C3: two evaluations give the same numbers; an evaluation changes no state; the batching does not change the result.

The caller gives the evaluation and the training under audit as functions, so that any trainer can be checked.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from palinode.base.finding import Finding
from palinode.checks.aggregation import Sums
from palinode.checks.laws import finding, outcome_of

BATCHING_TOLERANCE = 1e-6  # relative difference in float32: sums in another order differ by a few 1e-7
WINDOW_TOLERANCE = 1e-5  # as a share of the mean loss of a window: within a single window, fewer rounding errors cancel
TRAINING_STEPS = 6
SHOWN = 5
SAME_EVERYWHERE = "but these windows look alike to this model: use at least three, and a head that is not zero"


class Evaluated(Protocol):
    """The result of one evaluation: sums by pass, and the loss of every window in nats, in the order of reading."""

    @property
    def scores(self) -> Mapping[str, Sums]: ...
    @property
    def window_nats(self) -> Mapping[str, Sequence[float]]: ...


# A function: (windows in a batch, or None for all at once; order of the windows, or None for the order of the split) -> the result.
Evaluate = Callable[[int | None, Sequence[int] | None], Evaluated]
# A function: (steps, evaluate after every step?) -> hashes of the weights, the optimizer and the next batch, after training from
# scratch.
Train = Callable[[int, bool], Mapping[str, str]]


def check_determinism(
    evaluate: Evaluate, model: nn.Module, optimizers: Iterable[torch.optim.Optimizer] = (), train: Train | None = None
) -> tuple[Finding, ...]:
    """Run all checks of C3. C3.training_undisturbed runs only when the caller gives `train`."""
    findings = [check_repeats(evaluate), check_leaves_no_trace(evaluate, model, optimizers)]
    if train is not None:
        findings.append(check_training_undisturbed(train))
    return (*findings, check_batching(evaluate))


def check_repeats(evaluate: Evaluate) -> Finding:
    """C3.repeats: two evaluations of the same weights are equal in every bit.

    Positive control: the check sees a change of the last bit of a sum, and the model does not give every window the same loss. (A
    model with a zero head gives every window the same loss, even if dropout, a mask or the order of windows is wrong.)
    """
    first, second = evaluate(None, None), evaluate(None, None)
    bits = _bits(first)
    different = _different(bits, _bits(second))
    losses_differ = _losses_differ(first)
    same = f"every one of {len(bits)} sums is the same twice"
    return _finding(
        "C3.repeats",
        different,
        same if losses_differ else f"{same}, {SAME_EVERYWHERE}",
        control=bool(_different(bits, _with_last_bit_changed(bits))) and losses_differ,
        numbers={"values_compared": len(bits), "values_different": len(different)},
    )


def check_leaves_no_trace(
    evaluate: Evaluate, model: nn.Module, optimizers: Iterable[torch.optim.Optimizer] = ()
) -> Finding:
    """C3.leaves_no_trace: generators, parameters, optimizer state and train/eval flags are the same before and after an evaluation.

    Positive control: the check draws one number from every generator and flips one flag; it must see these changes, and it undoes
    them.
    """
    optimizer_list = list(optimizers)
    with _flags_put_back(model):
        model.train()  # the check must see an evaluation that leaves the model in eval mode
        before = state_hashes(model, optimizer_list)
        evaluate(None, None)
        after = state_hashes(model, optimizer_list)
        with _generators_put_back():
            unseen = _disturb(model, after, optimizer_list)
    different = _different(before, after)
    return _finding(
        "C3.leaves_no_trace",
        different,
        f"all {len(before)} states are as before",
        control=not unseen,
        numbers={"states_compared": len(before), "states_changed": len(different)},
    )


def check_training_undisturbed(train: Train, steps: int = TRAINING_STEPS) -> Finding:
    """C3.training_undisturbed: training with an evaluation after every step ends with the same bits as training without
    evaluations.

    Positive control: a training of one step fewer ends with other bits.
    """
    without, with_evaluation, shorter = train(steps, False), train(steps, True), train(steps - 1, False)
    different = _different(without, with_evaluation)
    return _finding(
        "C3.training_undisturbed",
        different,
        f"after {steps} steps all {len(without)} states are the same with and without evaluation",
        control=bool(_different(without, shorter)),
        numbers={"steps": steps, "states_changed": len(different)},
    )


def check_batching(evaluate: Evaluate, batch_sizes: Sequence[int] = (1, 7), seed: int = 0) -> Finding:
    """C3.batching: batches of 1, of 7 and of all windows, and windows in another order, give the same sums (a last short window
    included).

    Positive control: the check would notice a missing window, and the windows have different losses.
    """
    whole = evaluate(None, None)
    windows = max((len(nats) for nats in whole.window_nats.values()), default=0)
    order = list(range(windows))
    random.Random(seed).shuffle(order)  # noqa: S311  a fixed permutation, no secret
    differences = [
        (relative, limit, f"{place} with {name}")
        for name, other in _rebatched(evaluate, batch_sizes, order)
        for place, relative, limit in _differences(whole, other)
    ]
    nothing = (0.0, BATCHING_TOLERANCE, "nothing was scored")
    relative, limit, place = max(differences, key=lambda one: one[0] / one[1], default=nothing)
    control = _losses_differ(whole) and _missing_window_shows(whole)
    message = f"largest relative difference {relative:.1e} ({place}), allowed {limit:.0e}"
    return finding(
        "C3.batching",
        outcome_of(wrong=relative > limit, can_tell=control),
        message if control else f"{message}, {SAME_EVERYWHERE}",
        {"relative_difference": min(relative, 1e300), "windows": windows, "dropped_window_seen": int(control)},
        limit,
        reproduce={"batch_windows": [*batch_sizes, "all"], "permutation_seed": seed},
    )


def state_hashes(model: nn.Module, optimizers: Iterable[torch.optim.Optimizer] = ()) -> dict[str, str]:
    """SHA-256 of all state that an evaluation could change, by name: generators, parameters, buffers, optimizer state, flags."""
    hashes = {
        "generator.torch": _sha256(torch.get_rng_state()),
        "generator.numpy": _sha256(np.random.get_state(legacy=False)),
        "generator.python": _sha256(random.getstate()),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        hashes["generator.cuda"] = _sha256(torch.cuda.get_rng_state_all())
    states = {"model": model.state_dict()} | {f"optimizer{i}": each.state_dict() for i, each in enumerate(optimizers)}
    for owner, named in states.items():
        hashes |= {f"{owner}.{name}": _sha256(state) for name, state in named.items()}
    return hashes | {
        f"training flag of {name or 'model'}": str(module.training) for name, module in model.named_modules()
    }


def _finding(
    check: str, different: list[str], fine: str, *, control: bool, numbers: Mapping[str, float | int]
) -> Finding:
    message = f"{len(different)} differ, first {', '.join(different[:SHOWN])}" if different else fine
    if not different and not control:
        message += "; the positive control did not show"
    return finding(
        check,
        outcome_of(wrong=different, can_tell=control),
        message,
        {**numbers, "planted_change_seen": int(control)},
        0.0,
    )


def _bits(result: Evaluated) -> dict[str, str]:
    """All numbers of an evaluation as texts that keep every bit."""
    bits: dict[str, str] = {}
    for name, sums in result.scores.items():
        bits[f"{name} nats_sum"] = float(sums.nats_sum).hex()
        bits[f"{name} tokens_scored"] = str(sums.tokens_scored)
    for name, nats in result.window_nats.items():
        bits |= {f"{name} window {i}": float(value).hex() for i, value in enumerate(nats)}
    return bits


def _with_last_bit_changed(bits: Mapping[str, str]) -> dict[str, str]:
    """The texts that `_bits` gives, with the last bit of one sum changed, for the positive control."""
    names = [name for name in bits if name.endswith("nats_sum")][:1]
    return {**bits, **{name: math.nextafter(float.fromhex(bits[name]), math.inf).hex() for name in names}}


def _different(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    return [name for name in dict.fromkeys([*before, *after]) if before.get(name) != after.get(name)]


@contextmanager
def _flags_put_back(model: nn.Module) -> Iterator[None]:
    flags = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in flags:
            module.training = training


@contextmanager
def _generators_put_back() -> Iterator[None]:
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])


def _disturb(model: nn.Module, before: Mapping[str, str], optimizers: list[torch.optim.Optimizer]) -> set[str]:
    """Draw from every generator and flip the train/eval mode. The result lists the planted changes that the hashes did not show."""
    torch.rand(1)
    np.random.random()
    random.random()  # noqa: S311  the check disturbs the generator on purpose
    model.train(not model.training)
    planted = {"generator.torch", "generator.numpy", "generator.python", "training flag of model"}
    return planted - set(_different(before, state_hashes(model, optimizers)))


@dataclass(frozen=True)
class _Result:
    scores: Mapping[str, Sums]
    window_nats: Mapping[str, Sequence[float]]


def _rebatched(evaluate: Evaluate, sizes: Sequence[int], order: list[int]) -> Iterator[tuple[str, Evaluated]]:
    for size in sizes:
        yield f"batches of {size}", evaluate(size, None)
    permuted = evaluate(None, order)
    in_split_order = {
        name: [nats[place] for place in np.argsort(order[: len(nats)])] for name, nats in permuted.window_nats.items()
    }
    yield "permuted windows", _Result(permuted.scores, in_split_order)


def _differences(one: Evaluated, other: Evaluated) -> Iterator[tuple[str, float, float]]:
    """Yield (place, relative difference, allowed difference) for each pair of numbers from the two evaluations.

    A different number of tokens or windows is an infinite difference.
    """
    for name in dict.fromkeys([*one.scores, *other.scores]):
        if name not in one.scores or name not in other.scores:
            yield f"{name} is missing", math.inf, BATCHING_TOLERANCE
            continue
        a, b = one.scores[name], other.scores[name]
        nats, others = np.asarray(one.window_nats.get(name, ())), np.asarray(other.window_nats.get(name, ()))
        same_count = a.tokens_scored == b.tokens_scored and len(nats) == len(others)
        if not same_count:
            counts = f"{a.tokens_scored} and {b.tokens_scored} tokens of {len(nats)} and {len(others)} windows"
            yield f"{name}: {counts}", math.inf, BATCHING_TOLERANCE
        yield f"{name} loss", _relative(a.nats_sum, b.nats_sum), BATCHING_TOLERANCE
        if same_count and len(nats):
            apart = np.abs(nats - others)
            worst = int(apart.argmax())
            yield f"{name} window {worst}", float(apart[worst] / max(nats.mean(), 1e-300)), WINDOW_TOLERANCE


def _losses_differ(whole: Evaluated) -> bool:
    """Whether the windows of every pass have more than two different losses. (Two different losses may be those of full windows and
    of a short last window.)
    """
    kinds = [len({f"{value:.6g}" for value in nats}) for nats in whole.window_nats.values()]
    return bool(kinds) and min(kinds) > 2


def _missing_window_shows(whole: Evaluated) -> bool:
    sums = {name: float(np.sum(nats)) for name, nats in whole.window_nats.items()}
    return all(
        _relative(sums[name], sums[name] - nats[-1]) > BATCHING_TOLERANCE for name, nats in whole.window_nats.items()
    )


def _relative(a: float, b: float) -> float:
    scale = max(abs(a), abs(b))
    return 0.0 if a == b else abs(a - b) / scale if math.isfinite(scale) else math.inf


def _sha256(value: Any) -> str:
    return hashlib.sha256(b"".join(_pieces(value))).hexdigest()


def _pieces(value: Any) -> Iterator[bytes]:
    """Bytes that identify a nested value exactly: the content of tensors and arrays, and the text of all other values."""
    if isinstance(value, Tensor):
        yield f"{value.dtype}{tuple(value.shape)}".encode()
        yield value.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()
    elif isinstance(value, np.ndarray):
        yield f"{value.dtype}{value.shape}".encode()
        yield value.tobytes()
    elif isinstance(value, (Mapping, list, tuple)):
        for item in value.items() if isinstance(value, Mapping) else value:
            yield from _pieces(item)
    else:
        yield repr(value).encode()
