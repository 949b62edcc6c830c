"""The scores of a model with only its first blocks: with the head as trained and, where it was measured, with a refitted head."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from palinode.analysis.curves import MEASURE_COLUMNS, metrics_rows, trained_directions
from palinode.analysis.frames import RUN_AND_ID, Row, columns, run_frame
from palinode.base.measures import MEASURES
from palinode.results.files import number
from palinode.results.layer_cut import LAYER_CUT_EVENT
from palinode.results.record import ExperimentRecord, FinishedRun

# Part of a stored row -> which final norm and head turn the remaining blocks into predictions.
HEADS = {"scores": "trained", "refitted": "refitted"}
LAYER_CUT_SCHEMA = (
    RUN_AND_ID
    | columns((pl.String, "split direction"), (pl.Boolean, "trained"), (pl.String, "head"))
    | columns((pl.Int64, "blocks of_blocks"))
    | MEASURE_COLUMNS
)


def layer_cuts(record: ExperimentRecord, split: str) -> pl.DataFrame:
    """One row per finished run, direction, head and number of remaining blocks (LAYER_CUT_SCHEMA)."""

    def rows_of(run: FinishedRun) -> Iterator[Row]:
        # Imported rows lack fields that `Record.layer_cut` requires, so the row of the latest step itself is read.
        cuts = [row for row in metrics_rows(run, LAYER_CUT_EVENT) if row.get("split") == split]
        trained = trained_directions(run)
        for part, head in HEADS.items() if cuts else ():
            for direction, scores in (cuts[-1].get(part) or {}).items():
                what = {"split": split, "direction": direction, "trained": direction in trained, "head": head}
                what["of_blocks"] = max((item["blocks"] for item in scores), default=0)
                for item in scores:
                    yield what | {"blocks": item["blocks"]} | {name: number(item.get(name)) for name in MEASURES}

    return run_frame(record.finished(), rows_of, LAYER_CUT_SCHEMA)
