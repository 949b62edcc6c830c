"""The weights that a run starts from, when they are those of another run (`RunSettings.start_from`).

The optimizer starts anew, and all counters at 0. The result names the run, the step and the hash of the weights. The model may have
more rows in its tables of tokens and positions than the other one, and adapters: these keep their new values. A source that failed
its audit is refused; where an experiment allows it, its failures become findings about the run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from palinode.analysis.audits import failed_about_run, is_expected
from palinode.base.errors import AuditFailed, BadInput, Damaged
from palinode.base.finding import Finding
from palinode.models.base import LanguageModel
from palinode.results.record import ArmEntry, Result
from palinode.results.store import Store
from palinode.spec.run_spec import RunSpec
from palinode.spec.start import FIELD, StartFrom
from palinode.train.checkpoint import CHECKPOINTS, newest_first, read_weights

ROLES_WITH_ROWS = ("embedding", "position", "head")  # a table of these roles may have rows more
ADAPTER = "adapter"  # the role of parameters that a model has besides its own, see `models/hugging_face.py`
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Start:
    """Where the first weights of a run came from.

    Attributes:
        tokens_read: the tokens that these weights were trained on, in all runs before.
    """

    run: str
    step: int
    weights_sha256: str
    tokens_read: float

    def stored(self) -> dict[str, int | str]:
        """The part of the result."""
        return {"run": self.run, "step": self.step, "weights_sha256": self.weights_sha256}

    def counters(self) -> dict[str, float]:
        """The counter of the result."""
        return {"tokens_read_before": self.tokens_read}


def take_weights(spec: RunSpec, store: Store, model: LanguageModel) -> Start | None:
    """Give the model the weights that the run starts from; None for a run that starts from new weights.

    Raises:
        BadInput: the source is missing or not done, has no checkpoint of the step, or its weights do not fit.
        AuditFailed: the source failed its audit, and no experiment marks the arm of this run.
        Damaged: no undamaged checkpoint has the weights.
    """
    if spec.start_from is None:
        return None
    result = finished_source(spec.start_from, store)
    refuse_failed_source(spec.start_from, store, list(_arms_of(spec.run_id, store)))
    start, tensors = _weights(spec.start_from, store, result)
    refuse_shapes(model, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
    own = model.state_dict()
    with torch.no_grad():
        for name, tensor in tensors.items():
            (own[name][: len(tensor)] if tensor.dim() else own[name]).copy_(tensor)
    return start


def finished_source(start: StartFrom, store: Store) -> Result:
    """The result of the run that another run starts from.

    Raises:
        BadInput: the store has no such run, or the run is not done.
    """
    directory = store.run_directory(start.run)
    if not directory.exists():
        raise BadInput(f"no run {start.run!r} in {store.root}", field=FIELD, hint="`palinode ls --runs` lists them")
    record = store.record(start.run)
    if record.result is None or record.outcome != "done":
        raise BadInput(f"run {start.run} is {record.outcome}, so it has no weights to start from", field=FIELD)
    return record.result


def _arms_of(run_id: str, store: Store) -> Iterator[ArmEntry]:
    """The arms of all experiments that a run is a run of."""
    for entry in store.experiments():
        names = {run.arm for run in entry.runs if run.run_id == run_id}
        yield from (arm for arm in entry.arms if arm.name in names)


def refuse_failed_source(start: StartFrom, store: Store, arms: Sequence[ArmEntry]) -> None:
    """Refuse a source that failed its audit, unless one of these arms, which start from it, is expected to fail in this way.

    Raises:
        AuditFailed: what the source failed.
    """
    failed = failed_about_run(store, start.run)
    if failed and not any(all(is_expected(one, arm) for one in failed) for arm in arms):
        message = f"run {start.run} failed its audit, {failed[0].check}: {failed[0].message}"
        raise AuditFailed(message, field=FIELD, hint="mark the arm expect_leak=True if that is the point")


def inherited(start: Start, store: Store) -> tuple[Finding, ...]:
    """The failed findings about the source of a run: what trained its first weights trained a part of the run."""
    failed = failed_about_run(store, start.run)
    return tuple(one.with_(message=f"starts from run {start.run}: {one.message}") for one in failed)


def refuse_shapes(model: LanguageModel, given: Shapes) -> None:
    """Refuse weights of these shapes for a model.

    Raises:
        BadInput: the model has other weights; the error names the first that differs.
    """
    roles = {name: role for role, named in model.parameter_groups().items() for name, _ in named}
    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name, why in _differences(own, given, roles):
        raise BadInput(f"{name} is {why}", field=FIELD, hint="the model must be the same, or one with more rows")


def _differences(own: Shapes, given: Shapes, roles: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for name, here in own.items():
        there = given.get(name)
        if there is None:
            if roles.get(name) != ADAPTER:
                yield name, f"missing there, {_words(here)} here"
            continue
        has_rows = roles.get(name) in ROLES_WITH_ROWS and here[1:] == there[1:] and here[:1] >= there[:1]
        if here != there and not has_rows:
            yield name, f"{_words(there)} there, {_words(here)} here"
    for name in given.keys() - own.keys():
        yield name, f"{_words(given[name])} there, missing here"


def _words(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "one number"


def _weights(start: StartFrom, store: Store, result: Result) -> tuple[Start, dict[str, Tensor]]:
    """The tensors of the checkpoint, and what the result of the new run says about them."""
    before = float(result.counters.get("tokens_read_before") or 0)
    root = store.run_directory(start.run) / CHECKPOINTS
    found = {int(path.name.removeprefix("step-")): path for path in newest_first(root)}
    if start.step is not None and start.step not in found:
        kept = f"kept: {', '.join(map(str, sorted(found)))}" if found else "none is kept"
        raise BadInput(f"run {start.run} has no checkpoint of step {start.step}", field=f"{FIELD}.step", hint=kept)
    problems: list[Damaged] = []
    for step, path in found.items():
        if start.step not in (None, step):
            continue
        try:
            saved, tensors, sha256 = read_weights(path)
            if start.step is None and sha256 != result.weights_sha256:
                raise Damaged("these are not the weights that the run ended with", file=str(path))
        except Damaged as damage:
            problems.append(damage)
        else:
            return Start(start.run, step, sha256, before + float(saved.counters.get("tokens_read", 0))), tensors
    raise problems[0] if problems else Damaged("no checkpoint", file=str(root), hint="train the run again")
