"""C3: an evaluation gives the same numbers twice, changes nothing it touches, and does not depend on how it is batched.

The evaluation and the training under audit are handed in as functions, so any trainer can be checked; nothing is imported
from the rooms that are being judged.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from palinode.base.finding import Finding
from palinode.base.measures import CheckOutcome

BATCHING_TOLERANCE = 1e-6  # relative, float32: sums of another order differ by a few 1e-7
WINDOW_TOLERANCE = 1e-5  # of the mean window: the sum of one window averages over fewer rounding errors
TRAINING_STEPS = 6
SHOWN = 5
SAME_EVERYWHERE = "but these windows look alike to this model: use at least three, and a head that is not zero"


class PassSums(Protocol):
    """The sums of one evaluated pass."""

    @property
    def tokens_scored(self) -> int: ...
    @property
    def nats_sum(self) -> float: ...


class Evaluated(Protocol):
    """What one evaluation returns: sums by pass, and the nats of every window in the order they were read."""

    @property
    def scores(self) -> Mapping[str, PassSums]: ...
    @property
    def window_nats(self) -> Mapping[str, Sequence[float]]: ...


# (windows in a batch or None for all at once, order of the windows or None for the split's own) -> result. Same split every time.
Evaluate = Callable[[int | None, Sequence[int] | None], Evaluated]
# (steps, evaluate after every step?) -> a hash for each of the weights, the optimizer and the next batch, from a fresh start.
Train = Callable[[int, bool], Mapping[str, str]]


def check_determinism(
    evaluate: Evaluate, model: nn.Module, optimizers: Iterable[torch.optim.Optimizer] = (), train: Train | None = None
) -> tuple[Finding, ...]:
    """C3 i to v; (iii) only when `train` is given."""
    findings = [check_repeats(evaluate), check_leaves_no_trace(evaluate, model, optimizers)]
    if train is not None:
        findings.append(check_training_undisturbed(train))
    return (*findings, check_batching(evaluate))


def check_repeats(evaluate: Evaluate) -> Finding:
    """C3 i: two evaluations of the same weights are equal in every bit.

    Positive control: the last bit of a sum is compared, and the model does not give every window the same loss (a zero head
    does, and would hide dropout, masks and another order).
    """
    first, second = evaluate(None, None), evaluate(None, None)
    different = _different(_bits(first), _bits(second))
    nudge_seen = bool(_different(_bits(first), _nudged(_bits(first))))
    apart = _tells_windows_apart(first)
    same = f"every one of {len(_bits(first))} sums is the same twice"
    return _finding(
        "repeats",
        "two evaluations of the same weights give the same bits",
        different,
        same if apart else f"{same}, {SAME_EVERYWHERE}",
        control=nudge_seen and apart,
        numbers={"values_compared": len(_bits(first)), "values_different": len(different)},
    )


def check_leaves_no_trace(
    evaluate: Evaluate, model: nn.Module, optimizers: Iterable[torch.optim.Optimizer] = ()
) -> Finding:
    """C3 ii: random generators, parameters, optimizer state and train/eval flags are the same before and after.

    Positive control: one number drawn from every generator and one flipped flag are seen, and undone.
    """
    held = list(optimizers)
    with _flags_put_back(model):
        model.train()  # a model left in eval mode afterwards would train without dropout
        before = state_hashes(model, held)
        evaluate(None, None)
        after = state_hashes(model, held)
        with _generators_put_back():
            unseen = _disturb(model, after, held)
    different = _different(before, after)
    return _finding(
        "leaves_no_trace",
        "evaluation changes no parameter, no optimizer state, no mode flag and no random generator",
        different,
        f"all {len(before)} states are as before",
        control=not unseen,
        numbers={"states_compared": len(before), "states_changed": len(different)},
    )


def check_training_undisturbed(train: Train, steps: int = TRAINING_STEPS) -> Finding:
    """C3 iii: training with an evaluation after every step ends with the same bits as training without.

    Positive control: one step fewer ends elsewhere.
    """
    without, with_evaluation, shorter = train(steps, False), train(steps, True), train(steps - 1, False)
    different = _different(without, with_evaluation)
    return _finding(
        "training_undisturbed",
        "evaluating after every step changes neither the weights nor the next batch",
        different,
        f"after {steps} steps all {len(without)} states are the same with and without evaluation",
        control=bool(_different(without, shorter)),
        numbers={"steps": steps, "states_changed": len(different)},
    )


def check_batching(evaluate: Evaluate, batch_sizes: Sequence[int] = (1, 7), seed: int = 0) -> Finding:
    """C3 iv and v: batches of 1, 7 and all, and windows in another order, give the same sums (last short window included).

    Positive control: leaving one window out would have been seen, and the windows have different losses.
    """
    whole = evaluate(None, None)
    windows = max((len(nats) for nats in whole.window_nats.values()), default=0)
    order = list(range(windows))
    random.Random(seed).shuffle(order)  # noqa: S311  a fixed permutation, no secret
    told = [
        (relative, limit, f"{place} with {name}")
        for name, other in _rebatched(evaluate, batch_sizes, order)
        for place, relative, limit in _differences(whole, other)
    ]
    nothing = (0.0, BATCHING_TOLERANCE, "nothing was scored")
    relative, limit, place = max(told, key=lambda difference: difference[0] / difference[1], default=nothing)
    control = _tells_windows_apart(whole) and _without_a_window_differs(whole)
    outcome: CheckOutcome = "fail" if relative > limit else "pass" if control else "could_not_tell"
    message = f"largest relative difference {relative:.1e} ({place}), allowed {limit:.0e}"
    return Finding(
        check="C3.batching",
        outcome=outcome,
        law="the loss does not depend on the batch size or on the order of the windows",
        message=message if control else f"{message}, {SAME_EVERYWHERE}",
        numbers={"relative_difference": min(relative, 1e300), "windows": windows, "dropped_window_seen": int(control)},
        threshold=limit,
        reproduce={"batch_windows": [*batch_sizes, "all"], "permutation_seed": seed},
    )


def state_hashes(model: nn.Module, optimizers: Iterable[torch.optim.Optimizer] = ()) -> dict[str, str]:
    """SHA-256 of everything an evaluation could change, by name: generators, parameters, buffers, optimizer state, flags."""
    hashes = {
        "generator.torch": _sha256(torch.get_rng_state()),
        "generator.numpy": _sha256(np.random.get_state(legacy=False)),
        "generator.python": _sha256(random.getstate()),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        hashes["generator.cuda"] = _sha256(torch.cuda.get_rng_state_all())
    hashes |= {f"model.{name}": _sha256(tensor) for name, tensor in model.state_dict().items()}
    hashes |= {f"training flag of {name or 'model'}": str(module.training) for name, module in model.named_modules()}
    for i, optimizer in enumerate(optimizers):
        hashes |= {f"optimizer{i}.{name}": _sha256(state) for name, state in optimizer.state_dict().items()}
    return hashes


def _finding(
    name: str, law: str, different: list[str], fine: str, *, control: bool, numbers: Mapping[str, float | int]
) -> Finding:
    outcome: CheckOutcome = "fail" if different else "pass" if control else "could_not_tell"
    message = f"{len(different)} differ, first {', '.join(different[:SHOWN])}" if different else fine
    if not different and not control:
        message += "; the positive control did not show"
    return Finding(
        check=f"C3.{name}",
        outcome=outcome,
        law=law,
        message=message,
        numbers=dict(numbers) | {"planted_change_seen": int(control)},
        threshold=0.0,
    )


def _bits(result: Evaluated) -> dict[str, str]:
    """Every number of an evaluation as exact text."""
    bits: dict[str, str] = {}
    for name, sums in result.scores.items():
        bits[f"{name} nats_sum"] = float(sums.nats_sum).hex()
        bits[f"{name} tokens_scored"] = str(sums.tokens_scored)
    for name, nats in result.window_nats.items():
        bits |= {f"{name} window {i}": float(value).hex() for i, value in enumerate(nats)}
    return bits


def _nudged(bits: Mapping[str, str]) -> dict[str, str]:
    """The positive control: one sum moved by its last bit."""
    name = next((name for name in bits if name.endswith("nats_sum")), None)
    if name is None:
        return dict(bits)
    return {**bits, name: math.nextafter(float.fromhex(bits[name]), math.inf).hex()}


def _different(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    names = [*before, *(name for name in after if name not in before)]
    return [name for name in names if before.get(name) != after.get(name)]


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
    """Draw from every generator and flip the mode; returns the planted changes that the hashes did not show."""
    torch.rand(1)
    np.random.random()
    random.random()  # noqa: S311  disturbed on purpose
    model.train(not model.training)
    planted = {"generator.torch", "generator.numpy", "generator.python", "training flag of model"}
    return planted - set(_different(before, state_hashes(model, optimizers)))


def _rebatched(evaluate: Evaluate, sizes: Sequence[int], order: list[int]) -> Iterator[tuple[str, Evaluated]]:
    for size in sizes:
        yield f"batches of {size}", evaluate(size, None)
    yield "permuted windows", _put_back(evaluate(None, order), order)


def _put_back(result: Evaluated, order: list[int]) -> Evaluated:
    """A result on permuted windows, with its per-window nats in the split's order again."""
    window_nats = {}
    for name, nats in result.window_nats.items():
        back = [0.0] * len(nats)
        for value, window in zip(nats, order, strict=False):
            back[window] = value
        window_nats[name] = back
    return _Result(result.scores, window_nats)


class _Result:
    def __init__(self, scores: Mapping[str, PassSums], window_nats: Mapping[str, Sequence[float]]):
        self.scores = scores
        self.window_nats = window_nats


def _differences(one: Evaluated, other: Evaluated) -> Iterator[tuple[str, float, float]]:
    """(place, relative difference, what is allowed); another number of tokens or windows is an infinite difference."""
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


def _tells_windows_apart(whole: Evaluated) -> bool:
    """Whether every pass has windows of more than two losses (two may be: full windows and a short one)."""
    kinds = [len({f"{value:.6g}" for value in nats}) for nats in whole.window_nats.values()]
    return bool(kinds) and min(kinds) > 2


def _without_a_window_differs(whole: Evaluated) -> bool:
    sums = {name: float(np.sum(nats)) for name, nats in whole.window_nats.items()}
    return all(
        _relative(sums[name], sums[name] - nats[-1]) > BATCHING_TOLERANCE for name, nats in whole.window_nats.items()
    )


def _relative(a: float, b: float) -> float:
    scale = max(abs(a), abs(b))
    if a == b:
        return 0.0
    return abs(a - b) / scale if math.isfinite(scale) else math.inf


def _sha256(value: Any) -> str:
    digest = hashlib.sha256()
    for piece in _pieces(value):
        digest.update(piece)
    return digest.hexdigest()


def _pieces(value: Any) -> Iterator[bytes]:
    """Bytes that name a nested value exactly: tensors and arrays by content, the rest by its text."""
    if isinstance(value, Tensor):
        yield f"{value.dtype}{tuple(value.shape)}".encode()
        yield value.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()
    elif isinstance(value, np.ndarray):
        yield f"{value.dtype}{value.shape}".encode()
        yield value.tobytes()
    elif isinstance(value, Mapping):
        for key in value:
            yield str(key).encode()
            yield from _pieces(value[key])
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _pieces(item)
    else:
        yield repr(value).encode()
