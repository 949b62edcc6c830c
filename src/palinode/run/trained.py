"""Loads the trained model of a finished or stopped run from its checkpoints."""

from __future__ import annotations

import hashlib
from pathlib import Path

from palinode.base.errors import BadInput, Damaged
from palinode.data.source import Source, WithTokenizer, prepare
from palinode.data.task_store import TaskData
from palinode.data.tokenizer import from_json
from palinode.results.files import is_regular
from palinode.results.record import TOKENIZER_FILE
from palinode.results.store import Store
from palinode.run.one import build_model
from palinode.spec.run_spec import RunSpec
from palinode.spec.trained import Trained
from palinode.train.checkpoint import CHECKPOINTS, load_weights, newest_first, weights_sha256


def load_trained(spec: RunSpec, store: Store) -> Trained:
    """Load the newest undamaged weights of a run, in eval mode. For a run that is done, these are its final weights.

    The run's own tokenizer is read from its directory. Its corpus is prepared when something first asks for it.

    Raises:
        Damaged: the run has no checkpoint that can be used, or its tokenizer.json is not the tokenizer of its spec.
    """
    directory = store.run_directory(spec.run_id)
    data = _data(spec, directory)
    model, specials = build_model(spec, data, spec.seed)
    problems: list[Damaged] = []
    result = store.record(spec.run_id).result if directory.exists() else None
    ended = result.weights_sha256 if result is not None and result.outcome == "done" else None
    for checkpoint in newest_first(directory / CHECKPOINTS):
        try:
            load_weights(checkpoint, model)
            if ended is not None and ended != weights_sha256(model):
                raise Damaged("these are not the weights that the run ended with", file=str(checkpoint))
        except Damaged as damage:
            problems.append(damage)
        else:
            return Trained(spec, model.eval(), specials, data)
    raise problems[0] if problems else Damaged("no checkpoint", file=str(directory), hint="train the run first")


def _data(spec: RunSpec, directory: Path) -> Source:
    """The data of a run. Runs of older versions have no tokenizer.json, and a task needs none: their data are prepared at once."""
    path = directory / TOKENIZER_FILE
    if isinstance(spec.data, TaskData) or not path.exists():
        return prepare(spec.data)
    if not is_regular(path):
        raise Damaged("is not a regular file", file=str(path))
    content = path.read_bytes()
    if spec.data.tokenizer_sha256 not in (None, hashlib.sha256(content).hexdigest()):
        raise Damaged("is not this run's", file=str(path), hint="copy it again from where the run was trained")
    try:
        return WithTokenizer(spec.data, from_json(content.decode(), str(path)))
    except (BadInput, UnicodeDecodeError) as error:
        raise Damaged("is not a tokenizer", file=str(path)) from error
