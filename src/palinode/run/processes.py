"""One run on several processes, from spec to record: process 0 leads, and the others follow it.

The leader has the hold of the run's directory, decides and writes all files, as a run in one process does (`run/one.py`). Between
two steps the followers wait for its next order. They read the checkpoint that the leader goes on from, take their part of each
step, and give their part of the weights where the leader needs all. The leader evaluates and audits the whole weights.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NoReturn

from palinode.base.errors import ran_out_of_memory
from palinode.base.event import Event
from palinode.data.source import prepare
from palinode.models.base import LanguageModel
from palinode.results.holds import Hold
from palinode.results.record import Result
from palinode.results.rows import FROM_THE_START
from palinode.results.store import Store
from palinode.run.one import CHECKPOINTS, Attempt, Process, goes_on_from, new_training
from palinode.run.start import take_weights
from palinode.spec.load import load_run
from palinode.spec.run_spec import RunSpec
from palinode.train.checkpoint import load_checkpoint, tensors_of
from palinode.train.device import use_threads
from palinode.train.loop import DivergedError, StepReport, Training
from palinode.train.processes import Group, SharedTraining, joined
from palinode.train.recipe import Parallel

Order = Literal["step", "refresh", "gather", "leave"]


class OtherProcessFailed(Exception):
    """Another process of the run failed, with this reason."""


@dataclass
class Leader:
    """Process 0 of a run: it gives the orders, and takes part in what it orders.

    Attributes:
        shared: the training in this process; None before the run has begun.
        is_idle: whether the followers wait for an order. They do not while all compute, so a failure then ends them all.
    """

    # The process ends by `os._exit` while its leader is alive, see `joined`.

    group: Group
    parallel: Parallel
    shared: SharedTraining | None = None
    is_idle: bool = True

    @classmethod
    def joined(cls, parallel: Parallel) -> Leader:
        """Join the other processes as their leader."""
        return cls(joined(), parallel)

    def begin(self, training: Training, directory: Path, step: int) -> SharedTraining:
        """Let the followers prepare this run from its checkpoint of `step`, and share the training with them."""
        with self._all_work():
            self.group.told({"directory": str(directory), "step": step})
            self.shared = SharedTraining.of(training, self.group, self.parallel)
        return self.shared

    def take_step(self) -> StepReport:
        """Take one step with all processes.

        Raises:
            DivergedError: a loss or a gradient norm is not finite.
            OtherProcessFailed: another process failed, and gave a reason.
        """
        assert self.shared is not None
        with self._all_work():
            self._order("step")
            return self.shared.take_step()

    def refresh(self) -> LanguageModel:
        """The model with the whole weights of this step."""
        assert self.shared is not None
        with self._all_work():
            self._order("refresh")
            return self.shared.refresh()

    def gather(self) -> None:
        """Let the followers give their part of weights and optimizer state to the checkpoint that this process now makes."""
        if self.parallel == "fsdp2":
            self._order("gather")

    def leave(self) -> None:
        """Let the followers end."""
        if self.is_idle:
            self._order("leave")

    def _order(self, order: Order) -> None:
        self.group.told(order)

    @contextmanager
    def _all_work(self) -> Iterator[None]:
        """What every process does at the same time. A DivergedError comes to every process, so the followers go on waiting."""
        self.is_idle = False
        try:
            yield
        except DivergedError:
            self.is_idle = True
            raise
        except RuntimeError as error:  # a broken connection to a process that ended
            reason = self.group.reported_problem()
            if reason is None:
                raise
            raise (MemoryError if ran_out_of_memory(RuntimeError(reason)) else OtherProcessFailed)(reason) from error
        self.is_idle = True


def run_shared(
    spec: RunSpec,
    store: Store,
    leader: Leader,
    on_event: Callable[[Event], None],
    should_stop: Callable[[], bool],
    hold: Hold,
    process: Process,
) -> Result:
    """Train, evaluate and record one run as the leader of its processes. The arguments are those of `run_together`.

    Raises:
        BadInput: a part of the recipe or the model cannot be shared.
        OtherProcessFailed: another process failed, and gave a reason.
    """
    if (ended := store.ended(spec.run_id)) is not None:
        return ended
    attempt = SharedAttempt.begin(spec, store, on_event, hold, process=process)
    assert isinstance(attempt, SharedAttempt)
    try:
        is_finished = attempt.train(leader, should_stop)
        return attempt.finish() if is_finished else attempt.stop()
    except DivergedError as problem:
        return attempt.record("diverged", reason=str(problem))


@dataclass
class SharedAttempt(Attempt):
    """The leader's work on a run. Whole weights are gathered where a run in one process has them."""

    leader: Leader | None = field(default=None)

    def train(self, leader: Leader, should_stop: Callable[[], bool]) -> bool:
        """Take steps with all processes until the run is finished (True) or `should_stop` returns True (False)."""
        from_step = self.resume()
        shared = leader.begin(self.training, self.directory, from_step)
        self.trained, self.leader = replace(self.trained, model=shared.plain), leader
        self.worked_on = self.worked_on.with_(leader.group.count, leader.parallel)
        self.training.model.train()
        while not self.training.finished:
            if should_stop():
                return False
            self.after_step(leader.take_step())
        return True

    def whole_weights(self) -> LanguageModel:
        return self.leader.refresh() if self.leader is not None else super().whole_weights()

    def before_save(self) -> None:
        if self.leader is not None:
            self.leader.gather()


def follow(parallel: Parallel) -> NoReturn:
    """Do what the leader orders, and end this process when it says that the run has ended. The spec's user code is run."""
    group = joined()
    order = group.told()
    if isinstance(order, Mapping):
        try:
            shared = _prepared(Path(order["directory"]), int(order["step"]), group, parallel)
            while (order := group.told()) != "leave":
                _obey(order, shared)
        finally:
            if (error := sys.exception()) is not None:  # it goes on, to the worker
                group.report_problem(f"process {group.rank}: {type(error).__name__}: {error}")
    os._exit(0)  # see `joined`


def _prepared(directory: Path, step: int, group: Group, parallel: Parallel) -> SharedTraining:
    """The training of a follower: from the same spec and the same checkpoint as the leader's."""
    spec = load_run(directory, allow_code=True)  # the driver has decided which user code may run
    use_threads(spec.threads)
    training = new_training(spec, prepare(spec.data))
    if step == FROM_THE_START:
        take_weights(spec, Store(directory.parent), training.model)
    else:
        place = directory / CHECKPOINTS / f"step-{step}"
        goes_on_from(load_checkpoint(place, spec.run_id, training.model, training.optimizers), training)
    shared = SharedTraining.of(training, group, parallel)
    training.model.train()
    return shared


def _obey(order: Order, shared: SharedTraining) -> None:
    """Take part in one order of the leader."""
    if order == "step":
        try:
            shared.take_step()
        except DivergedError:  # the leader records it and lets this process end
            return
    elif order == "refresh":
        shared.refresh()
    else:
        tensors_of(shared.training.model, shared.training.optimizers)
