"""Pin the data of an experiment: write the hash of every corpus and tokenizer into its specs, and so into the run ids."""

from __future__ import annotations

from collections.abc import Callable

from palinode.base.errors import PalinodeError
from palinode.data import source
from palinode.data.config import DataConfig
from palinode.data.source import Data
from palinode.spec.experiment import ResolvedExperiment, ResolvedRun


def pinned(resolved: ResolvedExperiment, resolve_data: Callable[[Data], Data] = source.resolve) -> ResolvedExperiment:
    """The same experiment with the hashes of its data. Data that was not tokenised before is tokenised now.

    Raises:
        BadInput: a corpus is missing, too small, or differs from the one whose hash is in the spec.
        EnvironmentProblem: the disk cannot be written, or a data set cannot be fetched.
    """
    by_config: dict[Data, Data] = {}
    runs = []
    for run in resolved.runs:
        wanted = run.spec.data
        if wanted not in by_config:
            by_config[wanted] = _resolved(wanted, resolve_data)
        runs.append(ResolvedRun(arm=run.arm, scale=run.scale, spec=run.spec.with_(data=by_config[wanted])))
    return resolved.with_(runs=tuple(runs))


def _resolved(config: Data, resolve_data: Callable[[Data], Data]) -> Data:
    try:
        return resolve_data(config)
    except PalinodeError as error:
        if error.field and error.field in DataConfig.model_fields:
            error.field = f"data.{error.field}"
        raise
