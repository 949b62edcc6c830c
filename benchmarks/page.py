"""Writes docs/benchmarks.md from results/*.json: no number on that page is typed by hand. Run: python benchmarks/page.py"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from palinode.base import fsio

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"

Row = dict[str, Any]


def main() -> None:
    fsio.write_text(PAGE, page(RESULTS))


def page(results: Path) -> str:
    """The whole page."""
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*.json"))}
    lines = [
        "# Benchmarks",
        "",
        "Made by `python benchmarks/page.py` from `benchmarks/results/`; `make bench` measures everything again. Ratios are of",
        "runs taken in turn on one machine; brackets are the lowest and the highest of them.",
    ]
    for name, section in SECTIONS.items():
        if name not in found:  # written, and not measured yet
            continue
        lines += ["", *section(found[name]), "", conditions(name, found[name])]
    return "\n".join(lines) + "\n"


def time_to_loss(found: Row) -> Iterator[str]:
    end, target = found["ends"]["gpt2-adamw"], found["target_wall_ratio"]
    best = found["against"]["speedrun"]["ratios"]["seconds"]
    yield "## Time to loss"
    yield ""
    yield from paragraph(
        "Tinyshakespeare, characters, 64 tokens a window, whole validation split. How much sooner is the loss reached at which "
        f"nanoGPT's CPU quickstart (recipe `gpt2-adamw`, 2000 steps) ends, {ranged(end['nats_per_token'], 3)} nats a token after "
        f"{ranged(end['seconds'], 0)} s? Target: {target:g} times less wall time; {met(best['lowest'] >= target)}, with the model "
        "that `speedrun` is tuned for. The last line parts the recipe from the size of the model."
    )
    yield ""
    yield from table(
        (
            "arm",
            "parameters",
            "seconds to that loss",
            "times less wall",
            "times less CPU",
            "times fewer tokens",
            "loss at its end",
        ),
        [time_to_loss_row(found, name) for name in found["ends"]],
    )


def time_to_loss_row(found: Row, name: str) -> list[str]:
    parameters, end = f"{found['parameters'][name]:,}", ranged(found["ends"][name]["nats_per_token"], 3)
    if name not in found["against"]:
        return [f"`{name}`", parameters, ranged(found["ends"][name]["seconds"], 1), "1", "1", "1", end]
    against = found["against"][name]
    if against["ratios"] is None:
        return [f"`{name}`", parameters, "not reached", "", "", "", end]
    ratios = [ranged(against["ratios"][kind], 1) for kind in ("seconds", "cpu_seconds", "tokens_read")]
    return [f"`{name}`", parameters, ranged(against["reached"]["seconds"], 1), *ratios, end]


def speedrun_rates(found: Row) -> Iterator[str]:
    yield "## The rates of `speedrun`"
    yield ""
    yield from paragraph(
        "Its form is that of a published recipe for 124 million parameters; nobody publishes rates for models a hundred times "
        f"smaller. One change at a time, on the model and budget of the table above, {len(found['seeds'])} seeds: final validation "
        "loss less that of the defaults, in nats a token. Below zero is better than the defaults."
    )
    yield ""
    yield from table(
        ("change", "nats a token", "difference"),
        [
            [
                row["name"],
                f"{row['nats_per_token']:.4f}",
                ""
                if row["name"] == "defaults"
                else "{mean:+.4f} ({lowest:+.4f} to {highest:+.4f})".format(**row["difference"]),
            ]
            for row in found["rows"]
        ],
    )


def mask_rates(found: Row) -> Iterator[str]:
    yield "## The rate of the mask experiments"
    yield ""
    yield from paragraph(
        "The law of the hlb recipe's size dial was found between 20 and 600 million parameters. Here the rate that "
        "`experiments/mask.py` chose instead is halved and doubled, at three of its laptop sizes, left to right only, "
        f"{len(found['seeds'])} seeds: final validation loss, and less that at the experiment's own rate, in nats a token. "
        "Below zero is better than its own."
    )
    yield ""
    yield from table(
        ("size", "rate", "nats a token", "difference"),
        [[row["scale"], f"{row['learning_rate']:g}", *mask_rates_numbers(row)] for row in found["rows"]],
    )


def mask_rates_numbers(row: Row) -> list[str]:
    if row["nats_per_token"] is None:
        return [f"{row['diverged']} diverged", ""]
    own = row["difference"]["lowest"] == row["difference"]["highest"] == 0
    told = "" if own else "{mean:+.4f} ({lowest:+.4f} to {highest:+.4f})".format(**row["difference"])
    return [f"{row['nats_per_token']:.4f}", told]


def step_time(found: Row) -> Iterator[str]:
    rows, target = found["rows"], found["target_ratio"]
    judged = [row["wall_ratio"] for row in rows if row["case"] == "training step, batch 12"]
    yield "## Step time"
    yield ""
    yield from paragraph(
        "The same architecture (4 layers, 128 wide, 64 slots) and step in plain PyTorch against ours with everything that goes "
        "through the rooms: drawn windows, decisions, an Example, named passes, counters. "
        f"Target: at most {target:g} at batch 12; {met(max(judged) <= target)}. At batch 1 the fixed millisecond of that shows."
    )
    yield ""
    yield from table(
        ("case", "threads", "plain, ms", "ours, ms", "ratio of wall", "ratio of CPU"),
        [
            [
                row["case"],
                str(row["threads"]),
                f"{row['plain_wall_ms']:.1f}",
                f"{row['ours_wall_ms']:.1f}",
                f"{row['wall_ratio']:.3f}",
                f"{row['cpu_ratio']:.3f}",
            ]
            for row in rows
        ],
    )


def overhead(found: Row) -> Iterator[str]:
    target, share = found["target_share"], found["audit_and_store_share"]
    yield "## Auditing and storing"
    yield ""
    yield from paragraph(
        f"The demo's three arms at size `{found['size']}`, seed {found['seeds']}, one run at a time: where the "
        f"{found['wall_seconds']:.0f} s of `palinode run` went. Target: audits and store at most {target:.0%}; "
        f"{met(share <= target)} ({share:.1%}). Audits before are made once an arm and cached: more seeds share them."
    )
    yield ""
    yield from table(
        ("part", "seconds", "share"),
        [
            [name.replace("_", " "), f"{seconds:.1f}", f"{found['share'][name]:.1%}"]
            for name, seconds in found["seconds"].items()
        ],
    )
    yield ""
    predicted, taken, ratio = (
        found["plan"][name] for name in ("predicted_seconds", "measured_seconds", "measured_to_predicted")
    )
    yield from paragraph(
        f"`plan` had predicted {predicted:.0f} s for the runs; they took {taken:.0f} s, {ratio:.2f} times that."
    )


def loss_memory(found: Row) -> Iterator[str]:
    rows, target = found["rows"], found["target"]
    yield "## Memory of the loss"
    yield ""
    yield from paragraph(
        "Peak memory of head and loss, forward and backward, at GPT-2's vocabulary and 1024 slots, against all logits at once. "
        f"Target: at most {target:g}; {met(all(row['ratio'] <= target for row in rows))}."
    )
    yield ""
    yield from table(
        ("width", "naive, MiB", "ours, MiB", "ratio", "naive, CPU s", "ours, CPU s"),
        [
            [
                str(row["width"]),
                f"{row['naive_peak_mib']:.0f}",
                f"{row['chunked_peak_mib']:.0f}",
                f"{row['ratio']:.3f}",
                f"{row['naive_cpu_seconds']:.2f}",
                f"{row['chunked_cpu_seconds']:.2f}",
            ]
            for row in rows
        ],
    )


def layer_cut(found: Row) -> Iterator[str]:
    rows, cost, speedup = found["rows"], found["target_cost"], found["target_speedup"]
    cheap = met(all(row["cost"]["median"] <= cost for row in rows))
    fast = met(min(row["speedup"]["median"] for row in rows if row["layers"] == 16) >= speedup)
    yield "## Layer cut"
    yield ""
    yield "What a model scores with its first k blocks, for every k and both directions, from one reading, against its parts"
    yield "(one pass of the stack, one of head and scoring for each k) and against an evaluation of every shortened model."
    yield f"CPU seconds, one thread, windows of {found['window']} tokens. Targets, for medians: at most {cost:g} times its parts;"
    yield f"{cheap}. With 16 blocks and a byte vocabulary at least {speedup:g} times faster than one by one; {fast}."
    yield ""
    yield from table(
        ("model", "slots", "layer cut, s", "of its parts", "times faster than one by one"),
        [
            [
                row["case"],
                str(row["slots"]),
                ranged(row["layer_cut_seconds"], 2),
                ranged(row["cost"], 3),
                ranged(row["speedup"], 1),
            ]
            for row in rows
        ],
    )


def task_generation(found: Row) -> Iterator[str]:
    rows, target, aim = found["rows"], found["target_ratio"], found["aim_ratio"]
    short = [f"`{row['task']}`" for row in rows if row["against_published"]["median"] < target]
    yield "## Generating tasks"
    yield ""
    yield from paragraph(
        f"Sequences a CPU second at vocabulary {found['vocabulary']} and length {found['length']}, one thread, against a Python "
        "loop over sequences in the same process, of the same distribution (tested). It makes one NumPy call for each draw, as "
        "published generators do, or, leanest, one of Python's own; tasks with few draws a sequence gain less. Target: "
        f"{target:g} times the first loop (aim {aim:g}); {met(not short)}{missed_by(short)}."
    )
    yield ""
    yield from table(
        ("task", "tokens", "sequences a second", "NumPy loop", "times faster", "leanest loop", "times faster"),
        [
            [
                f"`{row['task']}`",
                str(row["length_tokens"]),
                f"{row['task_rate']['median']:,.0f}",
                f"{row['published']['median']:,.0f}",
                ranged(row["against_published"], 0),
                f"{row['lean']['median']:,.0f}",
                ranged(row["against_lean"], 0),
            ]
            for row in rows
        ],
    )


def generation(found: Row) -> Iterator[str]:
    rows, target = found["rows"], found["target_ratio"]
    missed = [f"{row['case']} ({row['rows']})" for row in rows if row["ratio"]["median"] < target]
    yield "## Generation"
    yield ""
    yield from paragraph(
        f"Writing {found['new_tokens']} tokens after a prompt of {found['prompt_tokens']} from a kept state, against a pass over "
        "the row for every token; both write the same text, and drawing is part of both. CPU seconds, one thread. "
        f"Target, for medians: at least {target:g} times faster; {met(not missed)}{missed_by(missed)}. "
        "Beyond the model's longest row the oldest tokens are dropped and every token costs a pass: nothing is gained there."
    )
    yield ""
    yield from table(
        (
            "model",
            "texts at once",
            "reread, tokens/s",
            "from its state, tokens/s",
            "times faster",
            "with oneDNN, times the seconds",
        ),
        [
            [
                row["case"],
                str(row["rows"]),
                f"{row['reread_tokens_per_second']['median']:.0f}",
                f"{row['state_tokens_per_second']['median']:.0f}",
                ranged(row["ratio"], 1),
                ranged(row["onednn_ratio"], 2),
            ]
            for row in rows
        ],
    )


def missed_by(names: Sequence[str]) -> str:
    return f" by {', '.join(names)}" if names else ""


def long_context(found: Row) -> Iterator[str]:
    rows, target, judged = found["rows"], found["target_exponent"], found["judged"]
    lengths = sorted({row["length"] for row in rows})
    linear = all(found["exponents"][case] <= target for case in judged)
    learns = all(row["last_loss"] < row["first_loss"] for row in rows if row["case"] in judged)
    yield "## Long rows"
    yield ""
    yield from paragraph(
        f"A training step (pass, loss, gradients, AdamW) on one row, {found['layers']} layers of width {found['width']}, "
        f"vocabulary {found['vocabulary']}, one thread: best of some steps, and peak memory over what was resident before. The "
        f"exponent is that of the peak's growth from {lengths[1]} to {lengths[-1]} slots: 1 is memory that grows as the row. "
        f"Target: at most {target:g} for {', '.join(judged[:-1])} and {judged[-1]}, with a loss that falls; "
        f"{met(linear and learns)}."
    )
    yield ""
    yield from table(
        ("mixer", *(f"{length} slots" for length in lengths), "exponent"),
        [
            [
                case,
                *(f"{row['peak_mib']:.0f} MiB, {row['seconds']:.2f} s" for row in rows if row["case"] == case),
                f"{growth:.2f}",
            ]
            for case, growth in found["exponents"].items()
        ],
    )


def stacked_runs(found: Row) -> Iterator[str]:
    rows, target = found["rows"], found["target_ratio"]
    batches = sorted({row["batch_windows"] for row in rows})
    ratios = {batch: [row["ratio"] for row in rows if row["batch_windows"] == batch] for batch in batches}
    by_batch = ", ".join(f"{met(min(of_it) >= target)} at {batch} windows a step" for batch, of_it in ratios.items())
    yield "## Runs trained together"
    yield ""
    yield from paragraph(
        f"Associative recall with two layers of width 64, {found['steps']} steps, {rows[0]['runs']} runs, {found['workers']} "
        f"processes at a time: each run in a process of its own, against stacks of {found['stack']} (`palinode run --stack`), "
        f"from the start of the processes to the last record. Target: {target:g} times the throughput; "
        f"{by_batch}. The last column is how far a run's final loss moves as sums are taken in another order."
    )
    yield ""
    yield from table(
        (
            "model",
            "windows a step",
            "separate, s",
            "stacked, s",
            "ratio",
            "pairs",
            "loss difference, nats: median, largest",
        ),
        [
            [
                row["model"],
                str(row["batch_windows"]),
                f"{row['separate_seconds']:.1f}",
                f"{row['stacked_seconds']:.1f}",
                f"{row['ratio']:.2f}",
                ", ".join(f"{ratio:.2f}" for ratio in row["ratios"]),
                f"{row['median_loss_difference_nats']:.1e}, {row['largest_loss_difference_nats']:.1e}",
            ]
            for row in rows
        ],
    )


SECTIONS = {
    section.__name__: section
    for section in (
        time_to_loss,
        speedrun_rates,
        mask_rates,
        step_time,
        overhead,
        loss_memory,
        layer_cut,
        task_generation,
        generation,
        long_context,
        stacked_runs,
    )
}


def conditions(name: str, found: Row) -> str:
    """What it was measured on, and the command."""
    machine = found["machine"]
    return (
        f"`python benchmarks/{name}.py` on {machine['processor']}, {machine['logical_cores']} cores, PyTorch {machine['torch']}, "
        f"load {machine['load_average']:g} at its end."
    )


def paragraph(text: str) -> list[str]:
    """Lines of a readable length."""
    return textwrap.wrap(text, width=120, break_on_hyphens=False, break_long_words=False)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A markdown table: the first column reads left, the numbers right."""
    yield "| " + " | ".join(head) + " |"
    yield "|---|" + "--:|" * (len(head) - 1)
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def ranged(spread: Row, digits: int) -> str:
    return "{median:.{d}f} ({lowest:.{d}f} to {highest:.{d}f})".format(**spread, d=digits)


def met(reached: bool) -> str:
    return "met" if reached else "**missed**"


if __name__ == "__main__":
    main()
