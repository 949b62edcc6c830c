"""The plan of the campaign: what each experiment settles, how long it takes, in which order to run them: findings/CAMPAIGN.md.

`python tools/campaign.py` times a few steps of every model on this machine in CPU seconds, which other work on the machine changes
less than the seconds that `palinode plan` predicts, and writes the page. A run that an earlier experiment of the order has too is
counted once. Hours are core-hours; a sitting is 2.3 hours on two cores. `--only mask--laptop` measures one experiment alone, and
`--again` measures what was measured before. The numbers are kept in findings/campaign.json; `--page` only writes the
page from them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from palinode.base import fsio
from palinode.base.config import content_hash, encode
from palinode.evaluate.layer_cut import REFIT_TOKENS
from palinode.experiment.cells import (
    Cell,
    cells_of,
    expected_evaluations,
    expected_passes,
    expected_steps,
    pinned,
)
from palinode.run.one import new_training
from palinode.spec.load import load
from palinode.spec.tuning import trials_of
from palinode.train.loop import take_step

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "findings" / "CAMPAIGN.md"
RECORDS = ROOT / "findings" / "records"
WITHOUT_PAGE = ("recall_text--laptop",)  # it has no claims: R3, on the page of recall, reads its runs
RESULTS = ROOT / "findings" / "campaign.json"
SITTING_HOURS, CORES = 2.3, 2
WARM_UP_STEPS, TIMED_STEPS = 2, 8
# Seconds of one run of `ltr` at 2x64 in the pilots, with less other work on the machine than there may be when this program runs.
PILOT, PILOT_SECONDS = ("mask--laptop", "ltr", "2x64"), 50.0
AUDIT_SECONDS = 2.0  # of a run, after training; audits before training are shared by all seeds
Row = dict[str, Any]


@dataclass(frozen=True)
class Planned:
    """An experiment of the campaign, and the claims that it settles."""

    experiment: str
    size: str
    settles: str

    @property
    def full_name(self) -> str:
        return f"{self.experiment}--{self.size}"


# Most settled claims for an hour first; experiments that share runs stand together.
ORDER = (
    Planned("mask", "laptop", "M1, M2, M3, M4, M5; A1, X1"),
    Planned("recall", "laptop", "R1, R2; half of R3"),
    Planned("recall_text", "laptop", "R3"),
    Planned("exchange", "laptop", "X1, X2, X3: the exchange rate of backward tokens"),
    Planned("exchange_rates", "laptop", "whether the learning rate explains X1"),
    Planned("exchange", "wikitext", "whether X1 and X2 hold on a second text"),
    Planned("mask_latent", "laptop", "whether M1 and X2 depend on block and recipe"),
    Planned("encdec", "laptop", "E1, E2, E3, E5 at equal tokens; E4 as far as it goes"),
    Planned("encdec", "wikitext", "whether E1 to E4 hold on a second text"),
    Planned("encdec_parameters", "laptop", "E1, E5 at equal parameters"),
    Planned("encdec_flops", "laptop", "E1, E5 at equal FLOPs"),
    Planned("encdec_published", "laptop", "E2 and the author's best with the published norms"),
    Planned("leaks", "laptop", "what each published defect adds"),
    Planned("selection", "laptop", "what a choice on the test set adds"),
    Planned("mask", "long", "whether M1's gap closes with tokens; A1"),
    Planned("recall_steps", "laptop", "R1 by steps with finer counts and other seeds"),
    Planned("recall", "laptop-attention", "R1, R2 with ten seeds where learning is rare"),
)


# What an accelerator would add. None was there, so the rate is a guess: a third of what an A100 can do in bfloat16.
ON_A_GPU = (
    Planned("mask", "gpu", "M1 to M5 at 46 and 136 million parameters"),
    Planned("exchange_large", "gpu", "X1, X2 at 46 million parameters"),
    Planned("encdec", "gpu", "E1 to E5 at 16 million parameters"),
)
GPU_FLOPS_PER_SECOND, GPU_DOLLARS_PER_HOUR = 1e14, 2.0


class Cut(NamedTuple):
    """A way to make the campaign shorter: the share of an experiment's seconds that it saves, and its price.

    Attributes:
        kind, arms, scales: the rows that the share is taken of; empty for all.
    """

    experiment: str
    what: str
    price: str
    share: float
    kind: str = ""
    arms: tuple[str, ...] = ()
    scales: tuple[str, ...] = ()

    def seconds(self, rows: Iterable[Row]) -> float:
        """The seconds that are saved."""
        chosen = (("kind", (self.kind,) if self.kind else ()), ("arm", self.arms), ("scale", self.scales))
        return self.share * sum(
            row["seconds"] for row in rows if all(not any_of or row[key] in any_of for key, any_of in chosen)
        )


# Half-widths follow t(n - 1) / sqrt(n): 1.05 for 6 seeds and .84 for 8; 1.59 for 4 and 1.24 for 5.
CUTS = (
    Cut("recall--laptop", "4,000 steps in place of 8,000", "slow mixers (Hyena, S4D) are censored more often", 0.5),
    Cut("mask--long", "4 million bytes in place of 8", "the gap is seen at half of the tokens", 0.5),
    Cut("recall--laptop-attention", "left out", "five seeds of attention, where learning is rare", 1.0),
    Cut(
        "mask--laptop",
        "p of .10 and .25 at 2x64 alone (exchange has them)",
        "no half-width; no price of these p at other shapes",
        1.0,
        arms=("both-10-row", "both-25-row"),
        scales=("2x128", "6x64"),
    ),
    Cut("encdec--laptop", "6 seeds in place of 8", "half-width .0065 becomes .0082", 2 / 8, kind="run"),
    Cut("mask--laptop", "4 seeds in place of 5", "half-widths times 1.28: M2 .013 becomes .017", 1 / 5, kind="run"),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", help="one experiment, such as mask--laptop")
    parser.add_argument("--again", action="store_true", help="also those that were measured before")
    parser.add_argument("--wikitext", metavar="CORPUS", help="where WikiText-2 is, such as data:wikitext-2")
    parser.add_argument("--page", action="store_true", help="only write the page")
    options = parser.parse_args()
    chosen = [one for one in ORDER if options.only in (None, one.full_name)]
    corpora = {"wikitext-2": options.wikitext} if options.wikitext else {}
    numbers: dict[str, list[Row]] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if not options.page:
        for one in (one for one in chosen if options.again or one.full_name not in numbers):
            numbers[one.full_name] = runs_of(one, corpora)
            fsio.write_json(RESULTS, numbers)
            print(
                f"{one.full_name}: {sum(row['seconds'] for row in numbers[one.full_name]) / 3600:.2f} core-hours",
                file=sys.stderr,
            )
    fsio.write_text(PAGE, page(numbers))
    return 0


def runs_of(planned: Planned, corpora: Mapping[str, str]) -> list[Row]:
    """Every trial and run of an experiment: its id, kind, arm, scale and predicted CPU seconds.

    Args:
        corpora: the name of a corpus -> the place where this machine has it.
    """
    source = load(ROOT / "experiments" / f"{planned.experiment}.py")
    resolved = source.resolve(planned.size)
    data = resolved.runs[0].spec.data
    if (corpus := getattr(data, "corpus", "")) in corpora:
        resolved = source.resolve(planned.size, {"data.corpus": corpora[corpus]})
    resolved = pinned(resolved)
    rows: list[Row] = []
    timed: dict[str, float] = {}
    for cell in cells_of(resolved):
        seconds = seconds_of(cell, timed)
        who = {"arm": cell.arm.name, "scale": cell.scale}
        rows += [{"id": spec.run_id, "kind": "run", "seconds": seconds, **who} for spec in cell.specs]
        if resolved.tuning is not None:
            for _, specs in trials_of(resolved, cell.arm.name, cell.scale):
                share = expected_steps(specs[0].settings) / cell.steps
                rows += [{"id": spec.run_id, "kind": "trial", "seconds": seconds * share, **who} for spec in specs]
    return rows


def seconds_of(cell: Cell, timed: dict[str, float]) -> float:
    """The CPU seconds of one run: its steps, its evaluations at a third of the price of training, its layer cut, its audit.

    Args:
        timed: the seconds of a pass over a batch, for each model and batch that was timed already.
    """
    spec, settings = cell.spec, cell.settings
    shape = content_hash([encode(settings.model), spec.recipe.batch_windows, spec.data.window_tokens])
    if shape not in timed:
        training = new_training(spec, cell.source)
        for _ in range(WARM_UP_STEPS):
            take_step(training)
        began, passes = time.process_time(), training.counters.passes
        for _ in range(TIMED_STEPS):
            take_step(training)
        timed[shape] = (time.process_time() - began) / (training.counters.passes - passes)
    of_pass = timed[shape]
    forward = of_pass / 3 / (spec.recipe.batch_windows * spec.data.window_tokens)
    evaluation = settings.evaluation
    ways = len(evaluation.directions)
    scored = cell.source.scored_tokens(evaluation.split, evaluation.max_tokens) * ways
    refitted = REFIT_TOKENS * evaluation.layer_cut_refit_steps * ways
    cut = 2 * forward * (scored + refitted) if evaluation.layer_cut else 0.0
    steps = expected_steps(settings) * expected_passes(settings) * of_pass
    return steps + forward * scored * expected_evaluations(settings) + cut + AUDIT_SECONDS


def page(numbers: dict[str, list[Row]]) -> str:
    """The page: one row for each experiment in the order of running, with what earlier ones leave to do."""
    lines = [
        "# The plan of the campaign",
        "",
        "`python tools/campaign.py` writes this page. Hours are core-hours, predicted from the CPU seconds of a few steps of each",
        "model; a run that ends at an accuracy is counted to its last step. Trials and runs of an earlier row are counted there.",
        "A sitting is 2.3 hours on two cores. An experiment whose name is a link is done; its hours stay those of the plan.",
        "",
        "| | experiment | settles | trials | runs | core-hours | at the pilots' speed | sittings | command |",
        "|--:|---|---|--:|--:|--:|--:|--:|---|",
    ]
    total, undone, speed = 0.0, 0.0, pilot_speed(numbers)
    for number, (planned, rows) in enumerate(left(numbers), start=1):
        hours = sum(row["seconds"] for row in rows) / 3600
        page, pack = RESULTS.parent / f"{planned.full_name}.json", RECORDS / f"{planned.full_name}.palinode"
        done = page.exists() or (planned.full_name in WITHOUT_PAGE and pack.exists())
        total, undone = total + hours, undone + hours * (not done)
        target = f"{planned.full_name}.md" if page.exists() else f"records/{pack.name}"
        name = f"[{planned.full_name}]({target})" if done else planned.full_name
        kinds = [sum(row["kind"] == kind for row in rows) for kind in ("trial", "run")]
        command = f"`palinode run experiments/{planned.experiment}.py --size {planned.size} --hours {SITTING_HOURS}`"
        sittings = speed * hours / (SITTING_HOURS * CORES)
        both = f"{hours:.2f}", f"{speed * hours:.2f}"
        cells = [number, name, planned.settles, *kinds, *both, f"{sittings:.1f}", command]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    lines += ["", f"In all {_hours(total, speed)}. To do: {_hours(undone, speed)}."]
    lines += [
        f"The pilots took {PILOT_SECONDS:.0f} s for a run that is {PILOT_SECONDS / speed:.0f} s here.",
        "",
        *RULES,
    ]
    lines += [
        "",
        "## If it must be shorter",
        "",
        "| experiment | change | saves, core-hours | at the pilots' speed | price |",
    ]
    lines += ["|---|---|--:|--:|---|"]
    rows_of = {planned.full_name: rows for planned, rows in left(numbers)}
    for cut in (cut for cut in CUTS if cut.experiment in rows_of):
        hours = cut.seconds(rows_of[cut.experiment]) / 3600
        lines.append(f"| {cut.experiment} | {cut.what} | {hours:.2f} | {speed * hours:.2f} | {cut.price} |")
    return "\n".join([*lines, *gpu_lines()]) + "\n"


def _hours(hours: float, speed: float) -> str:
    sittings = speed * hours / SITTING_HOURS / CORES
    return f"{hours:.1f} core-hours, {speed * hours:.1f} at the pilots' speed, {sittings:.1f} sittings"


def gpu_lines() -> Iterator[str]:
    """The section about the sizes that need an accelerator: FLOPs as `palinode plan` counts them, at a guessed rate and price."""
    yield from (
        "",
        "## What a GPU would add",
        "",
        "No GPU was there, so these sizes are planned and not run. `palinode plan` counts the FLOPs. Hours are those of one GPU",
        f"that reaches {GPU_FLOPS_PER_SECOND:.0e} FLOPs a second at {GPU_DOLLARS_PER_HOUR:.2f} dollars an hour: two guesses.",
        "",
        "| experiment | settles | trials | runs | FLOPs | GPU hours | dollars | command |",
        "|---|---|--:|--:|--:|--:|--:|---|",
    )
    for planned in ON_A_GPU:
        file = f"experiments/{planned.experiment}.py"
        words = [sys.executable, "-m", "palinode", "plan", file, "--size", planned.size, "--no-measure", "--json"]
        told = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S603  our own command
        plan = json.loads(told.stdout)
        flops = plan["train_flops"] + plan["optimizer_flops"] + flops_of_trials(planned, plan["cells"])
        hours = flops / GPU_FLOPS_PER_SECOND / 3600
        cells = (
            planned.full_name,
            planned.settles,
            plan["trials"],
            plan["runs"],
            f"{flops:.1e}",
            f"{hours:.1f}",
            f"{hours * GPU_DOLLARS_PER_HOUR:.0f}",
            f"`palinode run {file} --size {planned.size}`",
        )
        yield f"| {' | '.join(map(str, cells))} |"


def flops_of_trials(planned: Planned, cells: Sequence[Row]) -> float:
    """The FLOPs of all trials: those of a run of the same arm and scale, by the steps of the trial."""
    resolved = load(ROOT / "experiments" / f"{planned.experiment}.py").resolve(planned.size)
    if resolved.tuning is None:
        return 0.0
    total = 0.0
    for cell in cells:
        of_step = (cell["train_flops"] + cell["optimizer_flops"]) / cell["optimizer_steps"]
        trials = trials_of(resolved, cell["arm"], cell["scale"])
        total += of_step * sum(expected_steps(spec.settings) for _, specs in trials for spec in specs)
    return total


def pilot_speed(numbers: dict[str, list[Row]]) -> float:
    """The pilots' seconds of a run by those that were measured here; 1 where this run was not measured."""
    name, arm, scale = PILOT
    rows = [row for row in numbers.get(name, ()) if (row["kind"], row["arm"], row["scale"]) == ("run", arm, scale)]
    return PILOT_SECONDS / rows[0]["seconds"] if rows else 1.0


RULES = (
    "The same command goes on where the last sitting ended: no run is started that would not end in time, the trials come first,",
    "and runs are taken seed by seed over all arms. Do not give `--seeds` for a part: seeds that are added after a look at",
    "verdicts need wider intervals. `palinode pack NAME` after each sitting keeps what is done; a later pack replaces it.",
    "",
    "`experiments/retrieval.py --size laptop` (D1 to D4) is not counted here, because most of its time is the retriever that is",
    "trained after each run: `palinode plan` says its hours.",
)


def left(numbers: dict[str, list[Row]]) -> Iterator[tuple[Planned, Sequence[Row]]]:
    """Each measured experiment of the order, with the trials and runs that no earlier one has."""
    seen: set[str] = set()
    for planned in ORDER:
        if planned.full_name in numbers:
            rows = {row["id"]: row for row in numbers[planned.full_name]}
            yield planned, [row for run_id, row in rows.items() if run_id not in seen]
            seen |= rows.keys()


if __name__ == "__main__":
    sys.exit(main())
