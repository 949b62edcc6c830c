"""Write docs/benchmarks.md and the end of docs/scaling-out.md from results/*.json, so that no number there is typed by hand.

Run: python benchmarks/page.py
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from palinode.base import fsio

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
SCALING_PAGE = PAGE.with_name("scaling-out.md")
OF_SCALING_PAGE = "cluster_simulation"  # the section that ends that page
WITHOUT_WAITING = 0.95  # one thread that has a core of its own uses at least so much CPU time in a second of the clock

Row = dict[str, Any]


def main() -> None:
    fsio.write_text(PAGE, page(RESULTS))
    fsio.write_text(SCALING_PAGE, scaling_page(RESULTS, SCALING_PAGE.read_text(encoding="utf-8")))


def page(results: Path) -> str:
    """The whole page docs/benchmarks.md."""
    results_by_name = read_results(results)
    lines = [
        "# Benchmarks",
        "",
        "`python benchmarks/page.py` makes this page from `benchmarks/results/`; `make bench` measures everything again. The two",
        "runs of a ratio were made one after the other on one machine. Brackets hold the lowest and the highest value of several.",
        "What many hosts ask of a store is at the end of [Several hosts](scaling-out.md).",
    ]
    for name, section in SECTIONS.items():
        if name not in results_by_name or name == OF_SCALING_PAGE:  # a program that has not been run yet has no result
            continue
        lines += ["", *section(results_by_name[name]), "", conditions(name, results_by_name[name])]
    return "\n".join(lines) + "\n"


def scaling_page(results: Path, written: str) -> str:
    """The page docs/scaling-out.md: the text that is written by hand, and the section of the simulation after it."""
    result = read_results(results)[OF_SCALING_PAGE]
    head, *section = cluster_simulation(result)
    by_hand = written.partition(head)[0].rstrip()
    return "\n".join([by_hand, "", head, *section, "", conditions(OF_SCALING_PAGE, result)]) + "\n"


def read_results(results: Path) -> dict[str, Row]:
    """name of the program -> its result."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*.json"))}


def time_to_loss(result: Row) -> Iterator[str]:
    end, target = result["ends"]["gpt2-adamw"], result["target_wall_ratio"]
    same_size = [name for name in result["against"] if name != "speedrun"]
    ratios = [result["against"][name]["ratios"] for name in same_size]
    reached = [one["seconds"] for one in ratios if one is not None]
    best = max(reached, key=lambda seconds: seconds["median"], default={"lowest": 0.0})
    yield "## Time to loss"
    yield ""
    yield from paragraph(
        "Data: Tinyshakespeare as characters, the whole validation split, the last 63 of the 64 targets of each window; "
        f"{result['threads']} thread. nanoGPT's CPU quickstart (recipe "
        f"`gpt2-adamw`, 2000 steps) ends at {with_range(end['nats_per_token'], 3)} nats a token after "
        f"{with_range(end['seconds'], 0)} s. How much sooner does another recipe reach this loss? Target: {target:g} times less "
        f"wall time with a model of the same size; {met(best['lowest'] >= target)} in all {len(result['rounds'])} rounds. "
        "`speedrun` has the smaller model that its rates are tuned for. `speedrun at the same size` separates the recipe from "
        "the size. "
        "`speedrun with convolutions` has a convolution of three tokens in place of attention in every second layer. The arms of a "
        "round take turns in one process, so that they meet the same conditions."
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
        [time_to_loss_row(result, name) for name in result["ends"]],
    )


def time_to_loss_row(result: Row, name: str) -> list[str]:
    parameters, end = f"{result['parameters'][name]:,}", with_range(result["ends"][name]["nats_per_token"], 3)
    if name not in result["against"]:
        return [f"`{name}`", parameters, with_range(result["ends"][name]["seconds"], 1), "1", "1", "1", end]
    against = result["against"][name]
    if against["ratios"] is None:
        return [f"`{name}`", parameters, "not reached", "", "", "", end]
    ratios = [with_range(against["ratios"][kind], 1) for kind in ("seconds", "cpu_seconds", "tokens_read")]
    return [f"`{name}`", parameters, with_range(against["reached"]["seconds"], 1), *ratios, end]


def speedrun_rates(result: Row) -> Iterator[str]:
    yield "## The rates of `speedrun`"
    yield ""
    yield from paragraph(
        "`speedrun` has the form of a published recipe for 124 million parameters. No rates are published for models a hundred "
        f"times smaller. Each row makes one change, on the model and budget of the table above, with {len(result['seeds'])} seeds. "
        "The difference is the final validation loss minus that of the defaults, in nats a token: below zero is better than the "
        "defaults."
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
            for row in result["rows"]
        ],
    )


def step_time(result: Row) -> Iterator[str]:
    rows, target = result["rows"], result["target_ratio"]
    judged = [row["wall_ratio"] for row in rows if row["case"] == "training step, batch 12"]
    yield "## Step time"
    yield ""
    yield from paragraph(
        "One architecture (4 layers, width 128, 64 slots) and one training step, written in plain PyTorch and in Palinode. "
        "Palinode's step also draws windows and decisions, builds an Example with named passes, and counts. "
        f"Target: a ratio of at most {target:g} at batch 12; {met(max(judged) <= target)}. This extra work takes about one "
        "millisecond at any batch, so the ratio is higher at batch 1."
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


def overhead(result: Row) -> Iterator[str]:
    target, rows = result["target_share"], result["experiments"]
    yield "## Auditing and storing"
    yield ""
    yield from paragraph(
        "What the experiments of `findings/records` spent their time on, in hours that their packs recorded. The audits before "
        "training are made once for each arm and scale, and a part that arms share is made once. Target: audits and store take at "
        f"most {target:.0%}. `predicted` is the time of the runs of the last call, divided by the time that was planned for them."
    )
    yield ""
    parts = tuple(rows[0]["seconds"])
    head = ("experiment", "runs", *(name.replace("_", " ") for name in parts), "audits and store", "", "predicted")
    yield from table(
        head,
        [
            [
                row["experiment"],
                f"{row['runs']}",
                *(f"{round(row['seconds'][name] / 3600, 2) + 0.0:.2f}" for name in parts),  # no -0.00
                f"{row['audit_and_store_share']:.1%}",
                met(row["audit_and_store_share"] <= target),
                f"{row['measured_to_predicted']:.2f}" if row["measured_to_predicted"] else "",
            ]
            for row in rows
        ],
    )


def loss_memory(result: Row) -> Iterator[str]:
    rows, target = result["rows"], result["target"]
    yield "## Memory of the loss"
    yield ""
    yield from paragraph(
        "Peak memory of head and loss, forward and backward, at GPT-2's vocabulary and 1024 slots. The naive form computes all "
        "logits at once; ours works in chunks. "
        f"Target for the ratio: at most {target:g}; {met(all(row['ratio'] <= target for row in rows))}."
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


def layer_cut(result: Row) -> Iterator[str]:
    rows, cost, speedup = result["rows"], result["target_cost"], result["target_speedup"]
    cheap = met(all(row["cost"]["median"] <= cost for row in rows))
    fast = met(min(row["speedup"]["median"] for row in rows if row["layers"] == 16) >= speedup)
    yield "## Layer cut"
    yield ""
    yield from paragraph(
        "The layer cut scores a model with only its first k blocks, for every k and both directions, in one reading. It is "
        "compared with the sum of its parts (one pass of the stack, and one of head and scoring for each k), and with a separate "
        f"evaluation of every shortened model. CPU seconds, one thread, windows of {result['window']} tokens. "
        f"Targets, for medians: at most {cost:g} times its parts; {cheap}. With 16 blocks and a byte vocabulary at least "
        f"{speedup:g} times faster than separate evaluations; {fast}."
    )
    yield ""
    yield from table(
        ("model", "slots", "layer cut, s", "ratio to its parts", "times faster than separately"),
        [
            [
                row["case"],
                str(row["slots"]),
                with_range(row["layer_cut_seconds"], 2),
                with_range(row["cost"], 3),
                with_range(row["speedup"], 1),
            ]
            for row in rows
        ],
    )


def task_generation(result: Row) -> Iterator[str]:
    rows, target, aim = result["rows"], result["target_ratio"], result["aim_ratio"]
    short = [f"`{row['task']}`" for row in rows if row["against_published"]["median"] < target]
    yield "## Generating tasks"
    yield ""
    yield from paragraph(
        f"Sequences generated in one CPU second at vocabulary {result['vocabulary']} and length {result['length']}, one thread, by "
        "Palinode's vectorised tasks and by Python loops over sequences in the same process. All sample the same distribution "
        "(tested). The first loop calls NumPy's generator once for each draw, as published generators do; the second calls "
        "Python's own generator, which is faster. Tasks with few draws in a sequence gain less. Target: "
        f"{target:g} times the first loop (aim {aim:g}); {met(not short)}{missed_by(short)}."
        + "".join(numbers_alone(row) for row in rows if "numbers_share" in row)
    )
    yield ""
    yield from table(
        ("task", "tokens", "sequences a second", "NumPy loop", "times faster", "Python loop", "times faster"),
        [
            [
                f"`{row['task']}`",
                str(row["length_tokens"]),
                f"{row['task_rate']['median']:,.0f}",
                f"{row['published']['median']:,.0f}",
                with_range(row["against_published"], 0),
                f"{row['lean']['median']:,.0f}",
                with_range(row["against_lean"], 0),
            ]
            for row in rows
        ],
    )


def numbers_alone(row: Row) -> str:
    share = row["numbers_share"]["median"]
    return f" The random numbers of `{row['task']}` alone take {share:.2f} of the time that the target allows."


def generation(result: Row) -> Iterator[str]:
    rows, target = result["rows"], result["target_ratio"]
    missed = [f"{row['case']} ({row['rows']})" for row in rows if row["ratio"]["median"] < target]
    yield "## Generation"
    yield ""
    yield from paragraph(
        f"Writing {result['new_tokens']} tokens after a prompt of {result['prompt_tokens']}. With a kept state each token costs "
        "one slot; without it, a pass over the whole row. Both write the same text, and the time includes drawing the tokens. CPU "
        f"seconds, one thread. Target, for medians: at least {target:g} times faster; {met(not missed)}{missed_by(missed)}. "
        "When the text is longer than the model's longest row, the oldest tokens are dropped and every token costs a whole pass, "
        "so the state gains nothing there. The last column is the CPU time with oneDNN on, divided by the time with it off."
    )
    yield ""
    yield from table(
        (
            "model",
            "texts at once",
            "without state, tokens/s",
            "with state, tokens/s",
            "times faster",
            "time ratio with oneDNN",
        ),
        [
            [
                row["case"],
                str(row["rows"]),
                f"{row['reread_tokens_per_second']['median']:.0f}",
                f"{row['state_tokens_per_second']['median']:.0f}",
                with_range(row["ratio"], 1),
                with_range(row["onednn_ratio"], 2),
            ]
            for row in rows
        ],
    )


def open_model(result: Row) -> Iterator[str]:
    emulated = " This CPU emulates bfloat16." if result["bfloat16_is_emulated"] else ""
    alone = [row for row in result["rows"] if row["threads"] == 1]
    waited = any(row["tokens_per_second"] < WITHOUT_WAITING * row["tokens_per_cpu_second"] for row in alone)
    busy = " Other programs ran on the machine, so these are lower bounds." if waited else ""
    yield "## Open models"
    yield ""
    yield from paragraph(
        f"SmolLM2-135M (30 blocks, 49,163 ids, float32 weights from a GGUF file) on batches of {result['batch_rows']} windows of "
        f"{result['window_tokens']} tokens: reading with logits, and steps of AdamW. Tokens for one second of CPU time, and for "
        f"one second of the clock.{emulated}{busy} Two threads that wait for each other spend CPU time waiting. "
        f"A process held at most {max(row['peak_gib'] for row in result['rows']):.1f} GiB."
    )
    yield ""
    yield from table(
        ("what", "trained", "threads", "precision", "tokens a CPU second", "tokens a second"),
        [
            [
                row["way"],
                row["trains"] if row["way"] == "train" else "",
                str(row["threads"]),
                row["precision"],
                f"{row['tokens_per_cpu_second']:.0f}",
                f"{row['tokens_per_second']:.0f}",
            ]
            for row in result["rows"]
        ],
    )


def missed_by(names: Sequence[str]) -> str:
    return f" by {', '.join(names)}" if names else ""


def long_context(result: Row) -> Iterator[str]:
    rows, target, judged = result["rows"], result["target_exponent"], result["judged"]
    lengths = sorted({row["length"] for row in rows})
    linear = all(result["exponents"][case] <= target for case in judged)
    learns = all(row["last_loss"] < row["first_loss"] for row in rows if row["case"] in judged)
    yield "## Long rows"
    yield ""
    yield from paragraph(
        f"A training step (pass, loss, gradients, AdamW) on one row, {result['layers']} layers of width {result['width']}, "
        f"vocabulary {result['vocabulary']}, one thread. Each cell has the peak memory above what was resident before, and the "
        f"time of the fastest of some steps. Peak memory grows as a power of the row's length from {lengths[1]} to {lengths[-1]} "
        "slots, with the exponent in the last column: with 1, twice the length takes twice the memory. "
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
            for case, growth in result["exponents"].items()
        ],
    )


def stacked_runs(result: Row) -> Iterator[str]:
    rows, target = result["rows"], result["target_ratio"]
    batches = sorted({row["batch_windows"] for row in rows})
    ratios = {batch: [row["ratio"] for row in rows if row["batch_windows"] == batch] for batch in batches}
    by_batch = ", ".join(f"{met(min(some) >= target)} at {batch} windows a step" for batch, some in ratios.items())
    yield "## Runs trained together"
    yield ""
    yield from paragraph(
        f"Associative recall with two layers of width 64, {result['steps']} steps, {rows[0]['runs']} runs, {result['workers']} "
        f"processes at a time. Each run in a process of its own is compared with stacks of {result['stack']} runs (`palinode run "
        f"--stack`), from the start of the nursery to the last record; `modern` trains with Muon. "
        f"Target: {target:g} times the throughput; {by_batch}. "
        "A stack adds its numbers in another order, so final losses differ: the last column gives by how much."
    )
    yield ""
    yield from table(
        (
            "model",
            "windows a step",
            "separate, s",
            "stacked, s",
            "ratio (median)",
            "ratio of each pair",
            "ratio of CPU time",
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
                ", ".join(f"{ratio:.2f}" for ratio in row["cpu_ratios"]),
                f"{row['median_loss_difference_nats']:.1e}, {row['largest_loss_difference_nats']:.1e}",
            ]
            for row in rows
        ],
    )


def startup(result: Row) -> Iterator[str]:
    worker, command, target = result["worker"], result["command"], result["target_seconds"]
    forked = worker["forked_cpu_seconds"]
    yield "## Starting a worker"
    yield ""
    yield from paragraph(
        "CPU seconds of a worker before its first training step is reported, and of `palinode run` with "
        f"{command['runs']} small runs in a new store, audits and calibration included. A nursery imports once, for "
        f"{worker['nursery_cpu_seconds']:.1f} CPU seconds, and forks each process. Target for a forked worker: at most "
        f"{target:g} s; {met(forked['median'] <= target)}."
    )
    yield ""
    yield from table(
        ("", "started, s", "forked, s", "ratio"),
        [
            [
                "worker, CPU",
                with_range(worker["started_cpu_seconds"], 2),
                with_range(forked, 2),
                with_range(worker["ratio"], 1),
            ],
            *(
                [
                    f"whole command, {name}",
                    with_range(command[f"{kind}_seconds_off"], 1),
                    with_range(command[f"{kind}_seconds_on"], 1),
                    with_range(command[f"{kind}_ratio"], 2),
                ]
                for kind, name in (("cpu", "CPU"), ("wall", "wall"))
            ),
        ],
    )


def step_rate(result: Row) -> Iterator[str]:
    rows, pairs, most = result["rows"], result["bfloat16"], result["target_page_faults"]
    judged = {row["case"]: row for row in rows if (row["threads"], row["mode"]) == (1, "float32")}
    yield "## Share of the product rate"
    yield ""
    yield from paragraph(
        "The FLOPs a second of a training step (model and optimizer), divided by the machine's own rate on the products of the "
        "model's matrices alone: forward, and both gradients. Steps and products took turns. Model `modern`, recipe `speedrun`, "
        f"{result['vocabulary']} tokens; 16 x 128 means a batch of 16 windows of 128 tokens. With one thread the share is of CPU "
        "seconds, with two threads of wall seconds. Brackets hold the quartiles. Peak memory is above what was resident before "
        "the model was built. Cases may come from different starts of the benchmark (`--case`): compare shares of rows whose "
        "product rates are alike, because what slows the machine down lowers a share more than a product rate."
    )
    yield ""
    yield from table(
        (
            "model and batch",
            "threads",
            "mode",
            "CPU, ms",
            "wall, ms",
            "GFLOP, model + optimizer",
            "product rate, GFLOP/s",
            "share",
            "page faults",
            "system time",
            "peak, MiB",
            "load",
        ),
        [
            [
                row["case"],
                str(row["threads"]),
                row["mode"],
                with_range(row["cpu_ms"], 1),
                with_range(row["wall_ms"], 1),
                f"{row['model_gflop']:.2f} + {row['optimizer_gflop']:.2f}",
                f"{row['product_gflop_per_second']['median']:.0f}",
                with_range(row["share"], 2),
                f"{row['page_faults']['median']:.0f}",
                f"{row['system_share']:.1%}",
                f"{row['peak_mib']:.0f}",
                f"{row['load_average']:g}",
            ]
            for row in rows
        ],
    )
    yield ""
    yield "Targets, with one thread in float32, for medians:"
    yield ""
    for case, target in result["target_shares"].items():
        if case in judged:
            share = judged[case]["share"]["median"]
            yield f"- share of {case}: at least {target:g}; {met(share >= target)} ({share:.2f})"
    faults = max((row["page_faults"]["median"] for row in judged.values()), default=0.0)
    yield f"- page faults of a step: fewer than {most}; {met(faults < most)} (at most {faults:.0f})"
    if result["bfloat16_is_emulated"]:
        yield "- bfloat16: not measured, because this CPU emulates it"
    for pair in pairs:
        target, ratio = result["target_bfloat16"], pair["ratio"]
        reached = met(ratio["median"] >= target)
        yield f"- {pair['case']}, float32 over bfloat16, CPU time: at least {target:g}; {reached}, {with_range(ratio, 2)}"


def numerics(result: Row) -> Iterator[str]:
    worst = max(abs(row["difference_nats"]) for row in result["cases"])
    old, new = result["cases"][0]["versions"]
    yield "## Numerics versions"
    yield ""
    yield from paragraph(
        f"The same trainings in a program of numerics version {old} and in one of version {new}: `modern` models, recipe "
        "`speedrun`, Tinyshakespeare as characters, one thread. Both start from the same weights and read the same windows, "
        "so only rounding differs. The difference is the final validation loss of the new version minus that of the old one, in "
        "nats a token; the brackets hold its lowest and highest value of "
        f"{len(result['pairs']) // len(result['cases'])} seeds. Target: a mean difference of at most {result['target_nats']:g}; "
        f"{met(worst <= result['target_nats'])}."
    )
    yield ""
    yield from table(
        ("model", "loss", "difference", "times less CPU"),
        [
            [
                row["case"],
                f"{row['nats']:.4f}",
                f"{row['difference_nats']:+.4f} ({min(row['differences_nats']):+.4f} to {max(row['differences_nats']):+.4f})",
                f"{row['times_less_cpu']:.2f}",
            ]
            for row in result["cases"]
        ],
    )


def first_result(result: Row) -> Iterator[str]:
    medians, targets = result["medians"], result["targets"]
    yield "## First result"
    yield ""
    yield from paragraph(
        "`palinode demo` in an empty store and with an empty cache, on a terminal: nine runs of three arms, the audits, the "
        f"verdict and the report. Medians; starts: {len(result['rounds'])}. The runs go two at a time, so the seconds of the "
        "parts add up to more than the wall time. A column that is named by a commit is that commit, in turn with this one."
    )
    yield ""
    words = {"wall_seconds": "wall time", "first_line_seconds": "first line", "audit_seconds": "all audits together"}
    words["cpu_seconds"] = "CPU time of all processes"
    columns = [result, *([result["before"]] if "before" in result else [])]
    rows = []
    for name, what in words.items():
        target = [f"{targets[name]:g}", met(medians[name] <= targets[name])] if name in targets else ["", ""]
        rows.append([what, *(f"{one['medians'][name]:.1f}" for one in columns), *target])
    for name in result["rounds"][0]["parts"]:
        seconds = [sorted(one["parts"][name] for one in column["rounds"]) for column in columns]
        rows.append([name.replace("_", " "), *(f"{values[len(values) // 2]:.1f}" for values in seconds), "", ""])
    yield from table(("what", "seconds", *(one["commit"] for one in columns[1:]), "target", ""), rows)


def before_after(result: Row) -> Iterator[str]:
    yield "## Before and after the work on speed"
    yield ""
    yield from paragraph(
        f"Processes of commit {result['before']} and of this one in turn, one thread. The ratio is the median of the pairs, "
        "with the lowest and the highest. The start of a worker, before and after, is in a section of its own."
    )
    yield ""
    rows = []
    for row in result["rows"]:
        digits = 0 if row["what"].startswith("page faults") else 1
        ratio = with_range(row["ratio"], 2) if row["ratio"] and not row["what"].startswith("page faults") else ""
        unit = f", {row['unit']}" if row["unit"] else ""
        rows.append(
            [
                f"{row['what']}{unit}",
                f"{row['before']:,.{digits}f}",
                f"{row['after']:,.{digits}f}",
                ratio,
                f"{row['pairs']}",
            ]
        )
    yield from table(("what", "before", "after", "ratio", "pairs"), rows)


def audit_cost(result: Row) -> Iterator[str]:
    medians, target = result["medians"], result["target_cpu_seconds"]
    yield "## Audits of the demo"
    yield ""
    yield from paragraph(
        "The audit of each arm before training, and the audit of the trained weights of its three runs, in one process. The models "
        "are their forward passes, reading on from a state, backward passes and optimizer steps. An audit that makes the same "
        f"passes takes at least this long. Medians of {len(result['rounds'])} rounds. Target: {target:g} CPU seconds in all; "
        f"{met(medians['all'] <= target)}."
    )
    yield ""
    rows = [
        [words, f"{medians[name]:.1f}", f"{medians[f'{name}, models']:.1f}"]
        for name, words in (
            ("before", "before training, three arms"),
            ("after", "after training, three runs"),
            ("all", "nine runs"),
        )
    ]
    yield from table(("what", "CPU seconds", "of the models"), rows)


def cluster_simulation(result: Row) -> Iterator[str]:
    calls, assumed = result["calls"], result["assumed"]
    yield "## Many hosts on one store"
    yield ""
    yield from paragraph(
        "A simulation by events: what the hosts of one experiment ask of the file server of their store. `strace` counted the file "
        f"system calls of each act: {calls['look']:.0f} for a look at a run, {calls['hold']:.0f} for taking a hold, "
        f"{calls['check'] + calls['write']:.0f} for a heartbeat, {calls['row']:.0f} for a row of metrics, {calls['result']:.0f} "
        f"for a result. Assumed: {assumed['slots']} slots a host, runs of {assumed['run_seconds'] / 60:.0f} minutes with "
        f"{assumed['rows']} rows and {assumed['checkpoints']} checkpoints, a host that dies once in {assumed['days_to_death']:g} "
        f"days, and a server that answers {assumed['capacity_calls_per_second']:,} calls a second, each in "
        f"{assumed['latency_seconds'] * 1000:g} ms. No real network disk was measured."
    )
    yield ""
    yield from paragraph(
        "Polling: every host looks at every run that is held elsewhere once a second. Scan: every host reads all results before "
        "its first run. Walks again: a host that finds nothing free looks at all runs, also at those that have ended. The "
        "program does none of the three; the rows show where a sweep breaks with one of them."
    )
    yield ""
    head = ("variant", "runs", "hosts", "hours", "calls a second", "at most", "time above the capacity", "deaths")
    yield from table(
        head,
        [
            [
                row["variant"],
                f"{row['runs']:,}",
                f"{row['hosts']:,}",
                f"{row['hours']:.1f}",
                f"{row['calls_per_second']:,.0f}",
                f"{row['peak_calls_per_second']:,.0f}",
                f"{row['share_above_capacity']:.1%}",
                str(row["deaths"]),
            ]
            for row in result["rows"]
        ],
    )


def store_scale(result: Row) -> Iterator[str]:
    targets, mib, page_bytes = result["target_ratios"], result["target_mib"], result["target_page_bytes"]
    yield "## A store with many runs"
    yield ""
    yield from paragraph(
        "CPU seconds of a call on a store of synthetic runs, and how many times as long as one plain `lstat` of each run directory "
        "it takes. A new index takes the rows of ended runs from files that their processes appended; a store of an older version "
        "has no such files. The first call of an experiment reads and checks every file and writes a cache."
    )
    yield ""
    rows = []
    for row in result["rows"]:
        target, judged = targets.get(row["what"]), []
        if target is not None:
            judged.append(f"{target:g} times: {met(row['ratio'] <= target)}")
        if row["what"] in mib:
            judged.append(f"{mib[row['what']]:g} MiB: {met(row['peak_mib'] <= mib[row['what']])}")
        if "page_bytes" in row:
            judged.append(
                f"{page_bytes / 1e6:g} MB: {met(row['page_bytes'] < page_bytes)} ({row['page_bytes'] / 1e6:.1f} MB)"
            )
        numbers = (f"{row['runs']:,}", f"{row['cpu_seconds']:.2f}", f"{row['ratio']:.1f}", f"{row['peak_mib']:.0f}")
        rows.append([row["what"], *numbers, "; ".join(judged)])
    yield from table(("what", "runs", "CPU seconds", "times a plain lstat", "peak MiB", "target"), rows)


def worker_cost(result: Row) -> Iterator[str]:
    target, ratio, whole = result["target_ratio"], result["ratio"], result["whole_ratio"]
    yield "## A worker beside the sweep alone"
    yield ""
    yield from paragraph(
        f"CPU seconds of {result['runs']} runs of {result['steps']} steps, trained by `palinode worker` and by the sweep of "
        f"`palinode run`, in turn, rounds: {result['rounds']}, with the lowest and highest in brackets. What differs is the "
        f"process that takes the runs: {with_range(result['worker_own_cpu_seconds'], 2)} s of a worker against "
        f"{with_range(result['sweep_own_cpu_seconds'], 2)} s, of {with_range(result['sweep_cpu_seconds'], 1)} s in all. "
        f"With that difference the whole is {with_range(ratio, 4)} times the sweep; target at most {target:g}; "
        f"{met(ratio['median'] <= target)}. The ratio of all processes, in which the noise of training is much larger, is "
        f"{with_range(whole, 3)}."
    )


def mirror_cost(result: Row) -> Iterator[str]:
    target, of_trackers = result["target_cost"], result["trackers"]
    yield "## A mirror beside a run"
    yield ""
    yield from paragraph(
        f"One run with a row every {result['log_every_steps']} steps, and `palinode mirror --follow` beside it, which is stopped "
        f"and goes on in turn. A pair is two neighbouring pieces of {result['steps']} steps; pairs: {result['pairs']}. When it "
        "goes on, the mirror does the work of both pieces, so half of the difference is its cost: the median with its 95 % "
        f"interval, in percent of the run. Target: at most {100 * target:g}. `start` is what the mirror and its tracker use once, "
        "`beyond` what they use for the rows, in percent of the run's CPU seconds: where all cores are busy, they are taken from "
        "the runs. Whole runs cannot show this, as equal ones scatter by 12 %."
    )
    yield ""
    rows = [
        [
            tracker,
            *(
                f"{with_range({name: 100 * value for name, value in one[cost].items()}, 2)}: {met_or_open(one[cost], target)}"
                for cost in ("cpu_cost", "wall_cost")
            ),
            f"{one['start_cpu_seconds']:.1f}",
            f"{100 * one['mirror_share_of_run']:.2f}",
        ]
        for tracker, one in of_trackers.items()
    ]
    yield from table(("tracker", "CPU of the run, %", "wall time of the run, %", "start, CPU s", "beyond, %"), rows)


def met_or_open(spread: Row, target: float) -> str:
    """Whether a number is at most the target; open where the target lies between its lowest and its highest value."""
    return "open" if spread["lowest"] <= target < spread["highest"] else met(spread["highest"] <= target)


SECTIONS = {
    section.__name__: section
    for section in (
        time_to_loss,
        speedrun_rates,
        step_time,
        overhead,
        loss_memory,
        layer_cut,
        task_generation,
        generation,
        open_model,
        long_context,
        stacked_runs,
        startup,
        step_rate,
        numerics,
        first_result,
        before_after,
        audit_cost,
        store_scale,
        worker_cost,
        mirror_cost,
        cluster_simulation,
    )
}


def conditions(name: str, result: Row) -> str:
    """The command of a section, and the machine that it was measured on."""
    machine = result["machine"]
    return (
        f"`python benchmarks/{name}.py` on {machine['processor']}, {machine['logical_cores']} cores, PyTorch {machine['torch']}, "
        f"load average {machine['load_average']:g} at the end."
    )


def paragraph(text: str) -> list[str]:
    """The text in lines of at most 120 characters."""
    return textwrap.wrap(text, width=120, break_on_hyphens=False, break_long_words=False)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A Markdown table; the first column is aligned left, the others right."""
    yield "| " + " | ".join(head) + " |"
    yield "|---|" + "--:|" * (len(head) - 1)
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def with_range(spread: Row, digits: int) -> str:
    return "{median:.{d}f} ({lowest:.{d}f} to {highest:.{d}f})".format(**spread, d=digits)


def met(reached: bool) -> str:
    return "met" if reached else "**missed**"


if __name__ == "__main__":
    main()
