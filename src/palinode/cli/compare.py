"""`palinode compare`: the verdicts of an experiment, or the differences between two runs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from palinode.base.errors import BadInput
from palinode.cli import options
from palinode.cli.options import as_json
from palinode.cli.stores import experiment_named, open_store, run_named
from palinode.cli.texttable import shown, text_table

if TYPE_CHECKING:
    from palinode.analysis.verdict import Verdict
    from palinode.results.record import ExperimentRecord, Record
    from palinode.results.store import Store

MOST_CLAIMS = 6  # rows that fit under the verdicts
VERDICT_FIELDS = (
    *("arm", "baseline", "scale", "metric", "outcome", "sentence", "by_more_than_matters", "leak", "collapse"),
    *(
        "mean_difference",
        "interval",
        "single_interval",
        "text_interval",
        "confidence",
        "comparisons",
        "allows_for",
        "pairs",
        "left_out",
    ),
    *("diverged", "diverged_baseline", "stability", "stability_p", "outcome_if_all_had_ended", "published"),
    *("learned", "learned_baseline", "learned_p"),
    *("sign_flip_p", "reasons", "cautions", "seeds_needed", "smallest_effect"),
)


def compare(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="One experiment, or two runs.")],
    one_kind: options.OneKind = False,
    store: options.StorePath = options.DEFAULT_STORE,
    json: options.Json = False,
) -> None:
    """Print the verdict on each arm, or how two runs differ.

    Two runs are compared in their specs and in their scores.
    """
    place = open_store(store)
    if len(names) > 2:
        raise BadInput(f"one experiment or two runs can be compared, not {len(names)} things", field="NAME")
    if len(names) == 2:
        first, second = (place.record(run_named(place, name, "NAME")) for name in names)
        typer.echo(as_json(_differences(first, second)) if json else _runs_text(first, second))
        return
    typer.echo(verdicts_of(place, experiment_named(place, names[0], "compare").full_name, json=json, one_kind=one_kind))


def verdicts_of(store: Store, name: str, *, json: bool, one_kind: bool = False) -> str:
    """The text or the JSON of all verdicts of an experiment.

    Args:
        one_kind: whether pairs of runs that were trained on two kinds of machine are left out.
    """
    from palinode.analysis.verdict import over_scales_of, verdicts

    record = replace(store.experiment(name), one_kind=one_kind)
    found = verdicts(record)
    if json:
        return as_json([verdict_data(one) for one in found])
    from palinode.report.levels import reached
    from palinode.report.words import over_scales, verdict_lines

    if not found:
        return "One arm alone: there is nothing to compare it with."
    texts = [verdict_lines(one, levels=reached(record, one)) for one in found]
    for arm in dict.fromkeys(one.arm for one in found):
        together = over_scales_of(record, [one for one in found if one.arm == arm])
        texts += [[f"{arm}: {line}"] for line in [over_scales(together, record.entry.rule)] if line is not None]
    blocks = ["\n  ".join(shown(line, 1000) for line in lines) for lines in texts]
    claims = "\n".join(shown(line, 1000) for line in _claims(store, record))
    return "\n\n".join([*blocks, claims] if claims else blocks)


def _claims(store: Store, record: ExperimentRecord) -> list[str]:
    """A line for each row of the claims; where they are many, only where to read them."""
    from palinode.analysis.claims import judged_claims
    from palinode.report.words import claim_line

    rows = judged_claims(store, record)
    if len(rows) > MOST_CLAIMS:
        return [f"{len(rows)} rows judge its claims: `palinode findings {record.entry.full_name}` writes them."]
    return [claim_line(row.row(), scaled=len(record.entry.scales) > 1) for row in rows]


def verdict_data(verdict: Verdict) -> dict[str, Any]:
    """A verdict as plain data. Differences are arm minus baseline; the sentence gives the improvement."""
    from palinode.report.words import headline, sentence

    row = verdict.row()
    for name in ("interval", "single_interval", "text_interval"):
        ends = [row[f"{name}_low"], row[f"{name}_high"]]
        row[name] = None if None in ends else ends
    row["sentence"] = headline(verdict) if verdict.leak == "unexpected" else sentence(verdict)
    return {name: row[name] for name in VERDICT_FIELDS}


def _differences(first: Record, second: Record) -> dict[str, Any]:
    from palinode.base.config import leaves

    left, right = leaves(first.spec), leaves(second.spec)
    scores = [leaves(record.result.scores) if record.result else {} for record in (first, second)]
    return {
        "runs": [first.run_id, second.run_id],
        "spec": {path: [left.get(path), right.get(path)] for path in left | right if left.get(path) != right.get(path)},
        "scores": {path: [scores[0].get(path), scores[1].get(path)] for path in scores[0] | scores[1]},
    }


def _runs_text(first: Record, second: Record) -> str:
    data = _differences(first, second)
    rows = [
        [path, str(before), str(after)] for table in ("spec", "scores") for path, (before, after) in data[table].items()
    ]
    return text_table(("", first.run_id, second.run_id), rows)
