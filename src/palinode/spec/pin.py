"""Pin the data of an experiment: write the hash of every corpus and tokenizer into the run specs, and so into the run ids."""

from __future__ import annotations

from palinode.base.errors import PalinodeError
from palinode.data import source
from palinode.data.config import DataConfig
from palinode.data.source import Data
from palinode.spec.experiment import ResolvedExperiment


def pinned(resolved: ResolvedExperiment) -> ResolvedExperiment:
    """The same experiment with the hashes of its data. This call tokenises data that was not tokenised before.

    Raises:
        BadInput: a corpus is missing, too small, or differs from the corpus whose hash is in the spec.
        EnvironmentProblem: the disk cannot be written, or a data set cannot be fetched.
    """
    by_config: dict[Data, Data] = {}
    runs = []
    for run in resolved.runs:
        data = run.spec.data
        try:
            if data not in by_config:
                by_config[data] = source.resolve(data)
        except PalinodeError as error:
            if error.field in DataConfig.model_fields:
                error.inside("data")
            raise
        runs.append(run.with_(spec=run.spec.with_(data=by_config[data])))
    return resolved.with_(runs=tuple(runs))
