"""Trains one run on several processes: each process reads some micro-batches of a step, and all make the same update.

Process r of W reads the micro-batches r, r + W, .. of a step. Windows, decisions and dropout are functions of (seed, step,
micro-batch), so each micro-batch is the one that a single process would read. The loss of the batch is one sum over one sum: its
denominator is added up over all processes before the first backward pass. Sums of gradients are taken in another order than in one
process, so the bits differ, and the number of processes is part of the fingerprint.

`ddp` (torch's DistributedDataParallel) keeps the whole weights in every process. `fsdp2` (torch's `fully_shard`) cuts weights,
gradients and optimizer state over the processes, so each has 1/W of them between two steps.
Both hook `forward` of a module, but our models are read through `hidden` and `logits`. So reading and loss are one module here.
Legend: W processes.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import PrefixStore, Store
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from palinode.base import fsio
from palinode.base.errors import BadInput
from palinode.base.example import Example
from palinode.models.base import AuxiliaryTerm, LanguageModel
from palinode.models.direction import AsModule, read_and_terms
from palinode.models.stack import Stack
from palinode.objectives.loss import weighted_nats
from palinode.train.cut import cut_like, whole
from palinode.train.device import autocast
from palinode.train.loop import (
    Amounts,
    BatchLoss,
    StepReport,
    Training,
    batch_examples,
    batch_loss,
    seed_dropout,
    update,
    with_terms,
)
from palinode.train.optim import Optimizers, build_optimizers
from palinode.train.recipe import Parallel, refuse_sharing

# The longest wait for another process. A process waits while process 0 evaluates or audits alone, which may take hours.
WAIT = timedelta(days=7)
LEADER = 0  # the process that has the hold, writes all files, and says what all processes do next
PROBLEM = "problem"  # the key of the reason why a process failed
PID = "pid"  # the beginning of the key of the process id of a process
TICKS = "ticks"  # the beginning of the key of how often a process has got on
Json = Any


class Group:
    """The processes of one run, which exchange small values as JSON.

    Attributes:
        rank: the number of this process, from 0.
        count: the number W of processes.

    Args:
        notes: a table of texts that stays when a process ends, where a process that fails leaves its reason.
    """

    def __init__(self, notes: Store | None = None) -> None:
        self.rank, self.count = dist.get_rank(), dist.get_world_size()
        self._notes, self._ticks = notes, 0
        self._note(PID, os.getpid())

    @property
    def leads(self) -> bool:
        """Whether this is process 0, which has the hold of the run and writes its files."""
        return self.rank == LEADER

    def report_problem(self, reason: str) -> None:
        """Leave the reason why this process fails. The first reason stays."""
        if self._notes is not None and not self._notes.check([PROBLEM]):
            self._notes.set(PROBLEM, reason)

    def reported_problem(self) -> str | None:
        """The reason that another process left before it failed; None without one."""
        if self._notes is None or not self._notes.check([PROBLEM]):
            return None
        return bytes(self._notes.get(PROBLEM)).decode()

    def own(self, parts: int) -> range:
        """The numbers of the micro-batches, or of the batches of an evaluation, that this process reads."""
        return range(self.rank, parts, self.count)

    def tick(self) -> None:
        """Tell the other processes that this one gets on."""
        self._ticks += 1
        self._note(TICKS, self._ticks)

    def ticks(self) -> list[int]:
        """How often each process has got on; 0 for a process that has not begun."""
        return self._noted(TICKS)

    def has_lost_a_process(self) -> bool:
        """Whether a process of this group has ended. All of them are on this machine."""
        return any(pid and not fsio.is_alive(pid) for pid in self._noted(PID))

    def _note(self, name: str, number: int) -> None:
        if self._notes is not None:
            self._notes.set(f"{name} {self.rank}", str(number))

    def _noted(self, name: str) -> list[int]:
        """The numbers that all processes have noted; 0 for a process without one."""
        notes, keys = self._notes, [f"{name} {rank}" for rank in range(self.count)]
        return [int(notes.get(key)) if notes is not None and notes.check([key]) else 0 for key in keys]

    def told(self, value: Json = None) -> Json:
        """The value that process 0 gives to this call; the other processes wait for it."""
        text = json.dumps(value).encode() if self.leads else b""
        size = torch.tensor([len(text)])
        dist.broadcast(size, LEADER)
        content = torch.zeros(int(size), dtype=torch.uint8)
        if self.leads:
            content.copy_(torch.frombuffer(bytearray(text), dtype=torch.uint8))
        dist.broadcast(content, LEADER)
        return value if self.leads else json.loads(content.numpy().tobytes())

    def gathered(self, value: Json) -> list[Json]:
        """The values of all processes, in their order. Floats keep all their digits."""
        text = bytearray(json.dumps(value).encode())
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.count)]
        dist.all_gather(sizes, torch.tensor([len(text)]))
        longest = max(int(size) for size in sizes)
        padded = torch.zeros(longest, dtype=torch.uint8)
        padded[: len(text)] = torch.frombuffer(text, dtype=torch.uint8)
        contents = [torch.zeros_like(padded) for _ in range(self.count)]
        dist.all_gather(contents, padded)
        return [
            json.loads(content[: int(size)].numpy().tobytes()) for content, size in zip(contents, sizes, strict=True)
        ]

    def sent(self, value: Tensor, rank: int) -> Tensor:
        """The tensor of the process `rank`. The other processes hand in tensors of the same shape, which are overwritten."""
        dist.broadcast(value, rank)
        return value

    def in_order(self, own: Sequence[Json]) -> list[Json]:
        """One value for each part of all processes, in the order of the parts; `own` has those of this process."""
        of_ranks = self.gathered(list(own))
        count = sum(map(len, of_ranks))
        return [of_ranks[part % self.count][part // self.count] for part in range(count)]


def joined() -> Group:
    """Join the processes that torchrun started. On a GPU, each process takes the GPU of its number.

    The process has to end by `os._exit` while its group and what it shares are alive: torch once waited for ever in their
    destructors, with gloo and torch 2.13.
    """
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    store, rank, count = next(rendezvous("env://"))
    backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
    dist.init_process_group(backend, store=PrefixStore("run", store), rank=rank, world_size=count, timeout=WAIT)
    return Group(store)


@dataclass
class SharedTraining:
    """The training of one run in one of its processes.

    Attributes:
        training: the training, whose model and optimizers are cut over the processes with `fsdp2`.
        module: reading and loss as one module, wrapped by torch.
    """

    training: Training
    group: Group
    parallel: Parallel
    module: nn.Module
    _buffers: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, training: Training, group: Group, parallel: Parallel) -> SharedTraining:
        """Share a training that every process has prepared in the same way. Its model and optimizers must not be used before.

        Raises:
            BadInput: the recipe or the model has a part that cannot be cut over processes.
        """
        refuse_sharing(training.recipe, group.count, parallel)
        buffers = {name: buffer.clone() for name, buffer in training.model.named_buffers()}
        if parallel == "ddp":
            module: nn.Module = _distributed(_Reading(training), training.device)
        else:
            module = _sharded(training, group)
        return cls(training, group, parallel, module, buffers)

    def take_step(self) -> StepReport:
        """Take one optimizer step, which every process takes at the same time.

        Raises:
            DivergedError: a loss or a gradient norm is not finite, in every process alike.
            BadInput: a pass changed a buffer of the model, which every process would change in its own way.
        """
        started = time.perf_counter()
        training = self.training
        own = self.group.own(training.reads().parts)
        examples = batch_examples(training, own)
        loss = self.accumulate_gradients(own, examples)
        used = self.group.in_order(
            [(one.rows, one.slots, one.train_flops) for one in (Amounts.of(training, each) for each in examples)]
        )
        amounts = [Amounts(rows, slots, tuple(flops)) for rows, slots, flops in used]
        report = update(training, amounts, loss)
        self._refuse_changed_buffers()
        return replace(report, seconds=time.perf_counter() - started)

    def accumulate_gradients(self, own: Sequence[int], examples: Sequence[Example]) -> BatchLoss:
        """Compute the gradients of one weighted mean over the whole batch, from the own micro-batches of every process.

        Raises:
            DivergedError: the loss or an auxiliary term is not finite.
        """
        sums = self.group.in_order([(example.denominator, len(example.inputs)) for example in examples])
        denominator = sum(each for each, _ in sums) or 1.0
        rows = sum(each for _, each in sums)
        parts = []
        for part, example in zip(own, examples, strict=True):
            self.group.tick()
            seed_dropout(self.training, part)
            with self._exchanging(is_last=part == own[-1]):
                total, nats, scored, terms = self.module(example)
                torch.autograd.backward(self._scale() * with_terms(total / denominator, terms.values(), rows))
            parts.append(
                (nats, scored, {name: replace(term, value=term.value.detach()) for name, term in terms.items()})
            )
        return self._joined_loss(denominator, rows, self.group.in_order([_as_json(*part) for part in parts]))

    def called(self, function: Callable[[LanguageModel, Example], Tensor], example: Example) -> Tensor:
        """A function of the model and an Example. With `fsdp2`, torch gathers the weights, so every process makes this call."""
        module = self.module.module if isinstance(self.module, DistributedDataParallel) else self.module
        assert isinstance(module, _Reading)
        return module.called(function, example)

    def cut_again(self) -> None:
        """Cut the weights that torch keeps whole after a forward pass until the next backward pass."""
        for part in self.module.modules():
            if isinstance(part, FSDPModule):
                part.reshard()

    def fill(self, model: LanguageModel | None) -> None:
        """Fill a model of this process with the whole weights. Every process makes this call; None only gives its parts."""
        targets = dict(model.named_parameters()) if model is not None else {}
        with torch.no_grad():
            for name, parameter in self.training.model.named_parameters():
                values = whole(parameter.detach())
                if name in targets:
                    targets[name].copy_(values)

    def _scale(self) -> float:
        """The factor of the loss: DDP divides the sum of gradients by W; `fully_shard` is told not to divide."""
        return float(self.group.count) if self.parallel == "ddp" else 1.0

    @contextlib.contextmanager
    def _exchanging(self, *, is_last: bool) -> Iterator[None]:
        """Exchange gradients in the last micro-batch of a process only; the sums of the others wait in the process."""
        if isinstance(self.module, FSDPModule):
            self.module.set_requires_gradient_sync(is_last)
            yield
            return
        assert isinstance(self.module, DistributedDataParallel)
        with contextlib.nullcontext() if is_last else self.module.no_sync():
            yield

    def _joined_loss(self, denominator: float, rows: int, parts: Sequence[Json]) -> BatchLoss:
        """The loss of the batch, from what the micro-batches of all processes measured, in their order."""
        nats: dict[str, Tensor] = {}
        scored: dict[str, int] = {}
        terms: list[dict[str, AuxiliaryTerm]] = []
        for of_passes, counts, of_terms in parts:
            for name, total in of_passes.items():
                nats[name] = nats.get(name, _number(0.0)) + _number(total)
                scored[name] = scored.get(name, 0) + counts[name]
            terms.append(
                {
                    name: AuxiliaryTerm(
                        _number(value), coefficient, count, {k: _number(v) for k, v in measured.items()}
                    )
                    for name, (value, coefficient, count, measured) in of_terms.items()
                }
            )
        return batch_loss(self.training.step, denominator, rows, nats, scored, terms)

    def _refuse_changed_buffers(self) -> None:
        """Look once, after the first step of this process, whether the model changes its buffers."""
        for name, buffer in self.training.model.named_buffers():
            if name in self._buffers and not torch.equal(self._buffers[name], buffer):
                message = (
                    f"training changes the model's buffer {name!r}, and each process would change it in its own way"
                )
                raise BadInput(message, field="model", hint="train it with --processes 1")
        self._buffers = {}


class _Reading(AsModule):
    """Example -> (total, nats by pass, scored slots by pass, auxiliary terms) of a training's model."""

    def __init__(self, training: Training):
        def loss(model: LanguageModel, example: Example) -> tuple[Tensor, dict[str, Tensor], dict[str, int], Any]:
            with autocast(training.device, training.recipe.precision):
                hidden, added = read_and_terms(model, example)
            of_slots = weighted_nats(example, hidden, model.logits_map())
            return of_slots.total, of_slots.nats_by_group, of_slots.scored_by_group, added

        super().__init__(training.model, loss)

    def called(self, function: Callable[[LanguageModel, Example], Tensor], example: Example) -> Tensor:
        """A function of the model and an Example."""
        return function(self.model, example)


def _distributed(module: nn.Module, device: torch.device) -> DistributedDataParallel:
    """The module under DDP. A parameter that no process reached has no gradient, as in one process."""
    devices = [torch.cuda.current_device()] if device.type == "cuda" else None
    # Each process prepared the same buffers, so they are not sent before each pass.
    return DistributedDataParallel(module, device_ids=devices, find_unused_parameters=True, forward_sync_buffers=False)


def _sharded(training: Training, group: Group) -> nn.Module:
    """The module with its weights and optimizer state cut over the processes; `training` has the cut ones afterwards."""
    model, module = training.model, _Reading(training)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 0:
            raise BadInput(f"fsdp2 cannot cut the single number {name!r}", field="model", hint="use --parallel ddp")
    states = {name: dict(state) for name, state in _states(model, training.optimizers)}
    mesh = init_device_mesh(training.device.type, (group.count,))
    for block in _blocks(model):
        fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)
    register_fsdp_forward_method(module, "called")
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)  # without it, gloo refuses a factor of float32 gradients
    training.optimizers = build_optimizers(training.recipe.optimizer, model, model.parameter_groups())
    _cut_states(model, training.optimizers, states)
    return module


def _blocks(model: LanguageModel) -> list[nn.Module]:
    """The blocks of a built-in model that share no parameter with the rest; another model is cut as one piece."""
    if not isinstance(model, Stack):
        return []
    lists = [part for part in model.children() if isinstance(part, nn.ModuleList)]
    uses: dict[int, int] = {}
    for part in model.modules():
        for parameter in part.parameters(recurse=False):
            uses[id(parameter)] = uses.get(id(parameter), 0) + 1
    blocks = [block for some in lists for block in some]
    return [block for block in blocks if all(uses[id(parameter)] == 1 for parameter in block.parameters())]


def _states(model: nn.Module, optimizers: Optimizers) -> Iterator[tuple[str, dict[str, Any]]]:
    """The optimizer state of each parameter that has one, by the parameter's name."""
    for name, parameter in model.named_parameters():
        for optimizer in optimizers:
            if parameter in optimizer.state:
                yield name, optimizer.state[parameter]


def _cut_states(model: nn.Module, optimizers: Optimizers, states: dict[str, dict[str, Any]]) -> None:
    """Give each parameter its state: tensors of the parameter's shape are cut as the parameter is, others stay whole."""
    owner = {
        parameter: optimizer
        for optimizer in optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    for name, parameter in model.named_parameters():
        for key, value in states.get(name, {}).items():
            is_alike = isinstance(value, Tensor) and value.shape == parameter.shape
            owner[parameter].state[parameter][key] = cut_like(value, parameter) if is_alike else value


def _as_json(nats: dict[str, Tensor], scored: dict[str, int], terms: dict[str, AuxiliaryTerm]) -> Json:
    """What a micro-batch measured, as JSON."""
    of_terms = {
        name: (float(term.value), term.coefficient, term.rows, {key: float(one) for key, one in term.measured.items()})
        for name, term in terms.items()
    }
    return {name: float(total) for name, total in nats.items()}, scored, of_terms


def _number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)
