"""One run on several processes, from spec to record: process 0 leads, and the others follow it.

The leader has the hold of the run's directory, decides and writes all files, as a run in one process does (`run/one.py`). Between
two steps the followers wait for its next order. They read the checkpoint that the leader goes on from, take their part of each
step, score their part of an evaluation, and give their part of the weights where the leader needs all. The leader alone audits the
run, with the whole weights.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, NoReturn, cast

from palinode.audit import audit_trained
from palinode.base.errors import ran_out_of_memory
from palinode.base.event import END_OF_SHARED_RUN, Event
from palinode.base.finding import AuditReport
from palinode.data.config import Split
from palinode.evaluate.losses import Evaluation
from palinode.models.base import LanguageModel
from palinode.results.holds import Hold
from palinode.results.record import Result
from palinode.results.rows import FROM_THE_START
from palinode.results.store import Store
from palinode.run.measure import MEASUREMENTS, Measurement, Rows, Snapshot
from palinode.run.one import Attempt, Process, build_model, goes_on_from, new_training
from palinode.run.shared_data import prepare_shared
from palinode.run.shared_scoring import scored_by
from palinode.run.start import take_weights
from palinode.spec.load import load_run
from palinode.spec.run_spec import RunSpec
from palinode.spec.trained import Trained
from palinode.train.checkpoint import CHECKPOINTS, Saved, give_parts, load_checkpoint, weights_sha256
from palinode.train.device import free_memory_bytes, use_threads
from palinode.train.loop import DivergedError, StepReport, Training
from palinode.train.processes import Group, SharedTraining, joined
from palinode.train.recipe import AUDIT_BYTES, Parallel

SILENCE_SECONDS = 1800.0  # processes that get on no further for so long are ended
LOOK_SECONDS = 10.0  # from one look at the processes to the next, at most
DEATH_SECONDS = 2.0  # how long the system may take to end a process that was killed


class OtherProcessFailed(Exception):
    """Another process of the run failed, with this reason."""


@dataclass
class Leader:
    """Process 0 of a run: it gives the orders, and takes part in what it orders.

    Attributes:
        silence_seconds: how long all processes may get on no further before they are ended.
        shared: the training in this process; None before the run has begun.
        is_idle: whether the followers wait for an order. They do not while all compute, so a failure then ends them all.
    """

    # The process ends by `os._exit` while its leader is alive, see `joined`.

    group: Group
    parallel: Parallel
    silence_seconds: float = SILENCE_SECONDS
    shared: SharedTraining | None = None
    is_idle: bool = True

    @classmethod
    def joined(cls, parallel: Parallel, silence_seconds: float = SILENCE_SECONDS) -> Leader:
        """Join the other processes as their leader."""
        leader = cls(joined(), parallel, silence_seconds)
        threading.Thread(target=leader._watch, daemon=True).start()
        return leader

    def begin(self, training: Training, directory: Path, step: int) -> SharedTraining:
        """Let the followers prepare this run from its checkpoint of `step`, and share the training with them."""
        with self._all_work("begin", str(directory), step):
            self.shared = SharedTraining.of(training, self.group, self.parallel)
        return self.shared

    def take_step(self) -> StepReport:
        """Take one step with all processes.

        Raises:
            DivergedError: a loss or a gradient norm is not finite.
            OtherProcessFailed: another process failed, and gave a reason.
        """
        assert self.shared is not None
        with self._all_work("step"):
            return self.shared.take_step()

    def curve_evaluation(self, snapshot: Snapshot, split: Split) -> Evaluation:
        """Score a split in the middle of training with all processes."""
        with self._all_work("evaluate", split):
            return snapshot.curve_evaluation(split)

    def rows_of(self, measurement: Measurement, snapshot: Snapshot) -> Rows:
        """The rows of a measurement that reads the model by scoring batches alone; all processes score them."""
        with self._all_work("measure", measurement.event):
            return iter(list(measurement.rows(snapshot)))  # the followers are through before a row is written

    def fill(self, model: LanguageModel) -> None:
        """Fill a model of this process with the whole weights of this step."""
        assert self.shared is not None
        with self._all_work("give weights"):
            self.shared.fill(model)

    @contextmanager
    def gathering(self, what: Literal["hash", "checkpoint"]) -> Iterator[None]:
        """While this process reads all weights in a stream, the followers give their parts of them."""
        with self._all_work(what) if self.parallel == "fsdp2" else nullcontext():
            yield

    def leave(self) -> None:
        """Let the followers end."""
        if self.is_idle:
            self.group.told(["leave"])

    def end_if_alone(self) -> None:
        """End this process if another process of the run has ended. torchrun says which one, and how (`Process.death`)."""
        end = time.monotonic() + DEATH_SECONDS
        while not self.group.has_lost_a_process():
            if time.monotonic() > end:
                return
            time.sleep(DEATH_SECONDS / 20)
        os._exit(1)

    @contextmanager
    def _all_work(self, *order: str | int) -> Iterator[None]:
        """What every process does at the same time. A DivergedError comes to every process, so the followers go on waiting."""
        self.is_idle = False
        try:
            self.group.told(order)
            yield
        except DivergedError:
            self.is_idle = True
            raise
        except RuntimeError as error:  # such as a broken connection to a process that ended
            reason = self.group.reported_problem()
            if reason is None:
                self.end_if_alone()
                raise
            raise (MemoryError if ran_out_of_memory(RuntimeError(reason)) else OtherProcessFailed)(reason) from error
        self.is_idle = True

    def _watch(self) -> None:
        """End this process, and with it the run, when the processes that compute together get on no further for too long."""
        last, since = [0], time.monotonic()
        while True:
            time.sleep(min(LOOK_SECONDS, self.silence_seconds / 4))
            ticks = [] if self.is_idle else self.group.ticks()
            if ticks != last or not ticks:
                last, since = ticks, time.monotonic()
            elif time.monotonic() - since > self.silence_seconds:
                print(f"{END_OF_SHARED_RUN}{_silent(ticks)}", file=sys.stderr, flush=True)  # noqa: T201
                os._exit(1)


def _silent(ticks: Sequence[int]) -> str:
    """A line that names the processes that the others wait for."""
    behind = [str(rank) for rank, count in enumerate(ticks) if count == min(ticks)]
    if len(behind) == len(ticks):
        return f"all {len(ticks)} processes are silent"
    return f"process {', '.join(behind)} of {len(ticks)} is silent"


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
        leader.begin(self.training, self.directory, from_step)
        self.leader = leader
        self.begin_with(leader.group.count, leader.parallel)
        self.training.model.train()
        while not self.training.finished:
            if should_stop():
                leader.end_if_alone()  # torchrun asks for a stop when another process was killed
                return False
            self.after_step(leader.take_step())
        return True

    def snapshot(self) -> Snapshot:
        snapshot = super().snapshot()
        shared = self.leader.shared if self.leader is not None else None
        return snapshot if shared is None else replace(snapshot, score=scored_by(shared))

    def curve_evaluation(self, split: Split) -> Evaluation:
        if self.leader is None:
            return super().curve_evaluation(split)
        return self.leader.curve_evaluation(self.snapshot(), split)

    def rows_of(self, measurement: Measurement, snapshot: Snapshot) -> Rows:
        if self.leader is None or measurement.reads_weights:
            return super().rows_of(measurement, replace(snapshot, trained=self.whole, score=None))
        return self.leader.rows_of(measurement, snapshot)

    def audited(self, rows: Sequence[Event]) -> AuditReport:
        fits = self.leader is None or self.leader.parallel == "ddp" or fits_whole(self.training)
        return audit_trained(self.whole if fits else self.trained, rows, self.store, fits=fits)

    def weights_sha256(self) -> str:
        with self.leader.gathering("hash") if self.leader is not None else nullcontext():
            return super().weights_sha256()

    def write_checkpoint(self, root: Path, saved: Saved) -> None:
        with self.leader.gathering("checkpoint") if self.leader is not None else nullcontext():
            super().write_checkpoint(root, saved)

    @cached_property
    def whole(self) -> Trained:
        """The run with its whole weights in this process. Read after the last step."""
        if self.leader is None or self.leader.parallel == "ddp":
            return self.trained
        model, _ = build_model(self.spec, self.trained.data, self.spec.seed)
        self.leader.fill(model)
        return replace(self.trained, model=model)


def fits_whole(training: Training) -> bool:
    """Whether the memory of this process has room for the whole weights, and for what an audit makes of them."""
    free = free_memory_bytes(training.device, 1)
    return AUDIT_BYTES * sum(parameter.numel() for parameter in training.model.parameters()) <= free


@dataclass
class _Follower:
    """A process that does what the leader orders.

    Attributes:
        final: the run after its last step; None before.
    """

    trained: Trained
    shared: SharedTraining
    final: Snapshot | None = None

    def obey(self, order: str, argument: str = "") -> None:
        """Take part in one order of the leader."""
        training = self.shared.training
        with suppress(DivergedError):  # the leader records it and lets this process end
            if order == "step":
                self.shared.take_step()
            elif order == "evaluate":
                self._snapshot().curve_evaluation(cast(Split, argument))
            elif order == "measure":
                self.final = self.final or self._snapshot()
                (measurement,) = (one for one in MEASUREMENTS if one.event == argument)
                deque(measurement.rows(self.final), maxlen=0)
            elif order == "give weights":
                self.shared.fill(None)
            elif order == "hash":
                weights_sha256(training.model)
            else:
                give_parts(training.model, training.optimizers)

    def _snapshot(self) -> Snapshot:
        return Snapshot(self.trained, self.shared.training.counters, lambda text: None, scored_by(self.shared))


def follow(parallel: Parallel) -> NoReturn:
    """Do what the leader orders, and end this process when it says that the run has ended. The spec's user code is run."""
    group = joined()
    order, *arguments = group.told()
    if order == "begin":
        try:
            follower = _prepared(Path(arguments[0]), int(arguments[1]), group, parallel)
            while (order := group.told()) != ["leave"]:
                group.tick()
                follower.obey(*order)
        finally:
            if (error := sys.exception()) is not None:  # it goes on, to the worker
                group.report_problem(f"process {group.rank}: {type(error).__name__}: {error}")
    os._exit(0)  # see `joined`


def _prepared(directory: Path, step: int, group: Group, parallel: Parallel) -> _Follower:
    """A follower with the training from the same spec and the same checkpoint as the leader's."""
    spec = load_run(directory, allow_code=True)  # the driver has decided which user code may run
    use_threads(spec.threads)
    store = Store(directory.parent)
    data = prepare_shared(spec.data, store)
    training = new_training(spec, data)
    if step == FROM_THE_START:
        take_weights(spec, store, training.model)
    else:
        place = directory / CHECKPOINTS / f"step-{step}"
        goes_on_from(load_checkpoint(place, spec.run_id, training.model, training.optimizers), training)
    shared = SharedTraining.of(training, group, parallel)
    training.model.train()
    return _Follower(Trained(spec, training.model, training.specials, data), shared)
