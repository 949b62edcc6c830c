"""Loads the trained model of a finished or stopped run from its checkpoints."""

from __future__ import annotations

from palinode.base.errors import Damaged
from palinode.data.source import prepare
from palinode.results.store import Store
from palinode.run.one import CHECKPOINTS, build_model
from palinode.spec.run_spec import RunSpec
from palinode.spec.trained import Trained
from palinode.train.checkpoint import load_weights, newest_first, weights_sha256


def load_trained(spec: RunSpec, store: Store) -> Trained:
    """Load the newest undamaged weights of a run, in eval mode. For a run that is done, these are its final weights.

    Raises:
        Damaged: the run has no checkpoint that can be used.
    """
    data = prepare(spec.data)
    model, specials = build_model(spec, data, spec.seed)
    directory = store.run_directory(spec.run_id)
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
