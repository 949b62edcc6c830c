"""Audit every causal language model type of the installed transformers at a small size: `make census`.

The code of `palinode audit hf:TYPE` builds and audits each type, in a process of its own with a limit of CPU time and of memory. A
type that fails a check is also measured by `probe`, which shares no code with the checks. The results of each type are written to
benchmarks/results/census.json at once. Types and checks in this file are not measured again without `--again`.
`python tools/census.py --types llama,mamba2 --checks C1,C6` measures two types. `--page` only writes docs/census.md from the
results.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from palinode.base import fsio

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "census.json"
PAGE = ROOT / "docs" / "census.md"
WINDOW_TOKENS = 32
CPU_SECONDS, WALL_FACTOR, MEMORY_GIB = 300, 20, 10
CHECKS = ("C1", "C2", "C6")
TARGET_SHARE, TARGET_HOURS, CORES = 0.95, 2.3, 2
PROBE_SEEDS, PROBE_TOKENS, PROBE_BOUND = 5, (1, 2, 8, 32, 64), 1e-6
MARKER_IDS = 5  # the number of the lowest ids, which mark padding, start and end of a text
Row = dict[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--types", help="only these model types, divided by commas")
    parser.add_argument("--checks", default=",".join(CHECKS), help="only these checks, divided by commas")
    parser.add_argument("--again", action="store_true", help="measure what is in the results again")
    parser.add_argument("--page", action="store_true", help="write the page from the results, and measure nothing")
    options = parser.parse_args()
    if not options.page:
        types = options.types.split(",") if options.types else all_types()
        take_census(types, options.checks.split(","), again=options.again)
    fsio.write_text(PAGE, page(read_results()))
    return 0


def all_types() -> list[str]:
    """The model types that transformers maps to a causal language model, in alphabetical order."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def read_results() -> Row:
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}


def take_census(types: Sequence[str], checks: Sequence[str], *, again: bool) -> None:
    """Measure the types and checks that the results lack, one type after the other, each type in a process of its own."""
    import torch
    import transformers

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    measured_once = list(measured("gpt2", ()))  # this call imports what all types need, so that no child process has to
    assert measured_once, "gpt2 is built"
    for number, name in enumerate(types):
        results = read_results()
        old: Row = {} if again else results.get("types", {}).get(name, {})
        missing = [check for check in checks if check not in old.get("checks", {})]
        if not missing or old.get("reason"):
            continue
        row = in_a_process(name, missing)
        row["checks"] = {**old.get("checks", {}), **row.get("checks", {})}
        row["cpu_seconds"] = round(row["cpu_seconds"] + old.get("cpu_seconds", 0.0), 1)
        results = {
            "versions": {"transformers": transformers.__version__, "torch": torch.__version__},
            "mapped_types": len(all_types()),
            "types": dict(sorted({**results.get("types", {}), name: {**old, **row}}.items())),
        }
        fsio.write_json(RESULTS, results)
        outcomes = {check: part["outcome"] for check, part in row["checks"].items()}
        print(number + 1, len(types), name, outcomes, row.get("reason", ""), row["cpu_seconds"], flush=True)


def in_a_process(name: str, checks: Sequence[str]) -> Row:
    """The row of one type. A child process measures it, and the child cannot use more time or memory than the limits."""
    reading, writing = os.pipe()
    if not (child := os.fork()):
        os.close(reading)
        _limit_itself()
        rows = os.fdopen(writing, "w")
        for row in measured(name, checks):
            rows.write(json.dumps(row) + "\n")
            rows.flush()
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        lines = pipe.read().splitlines()
    _, status, usage = os.wait4(child, 0)
    row: Row = {"reason": "it ended before it was built"}
    for line in lines:
        row = json.loads(line)
    if status:
        row["reason"] = _why_it_ended(status, row)
    return {**row, "cpu_seconds": usage.ru_utime + usage.ru_stime}


def measured(name: str, checks: Sequence[str]) -> Iterator[Row]:
    """The rows of a type during its measurement: one after the type was built, one after each check, one after the probe."""
    from palinode.audit.any_model import check
    from palinode.base.errors import PalinodeError
    from palinode.cli.model_names import target_of

    row: Row = {}
    try:
        model, vocabulary = target_of(f"hf:{name}")
        row["class"] = type(model).__name__
        row["parameters"] = sum(parameter.numel() for parameter in model.parameters())
        _forward(model)
    except Exception as error:  # noqa: BLE001 - transformers raises anything
        yield {**row, "reason": _first_line(error)}
        return
    row["checks"] = {}
    yield row
    for one in checks:
        started = time.process_time()
        try:
            report = check(
                model,
                vocab_size=vocabulary,
                window_tokens=WINDOW_TOKENS,
                checks=(one,),
                name=name,
                on_progress=lambda text: None,
            )
        except Exception as error:  # noqa: BLE001 - the row lists the error
            kind = "refused" if isinstance(error, PalinodeError) else "raised"
            row["checks"][one] = {"outcome": kind, "notes": {one: _first_line(error)}}
        else:
            shown = {finding.check: finding.message for finding in report.findings if finding.outcome != "pass"}
            failed = [finding.check for finding in report.findings if finding.outcome == "fail"]
            findings = len(report.findings)
            row["checks"][one] = {"outcome": report.outcome, "findings": findings, "failed": failed, "notes": shown}
        row["checks"][one]["cpu_seconds"] = round(time.process_time() - started, 1)
        yield row
    if any(part.get("failed") for part in row["checks"].values()):
        yield {**row, "probe": probe(model, vocabulary)}


def _forward(model: Any) -> None:
    """Whether transformers runs the type on two rows of ids.

    Raises:
        ValueError: the model does not give logits for each slot.
    """
    import torch

    with torch.no_grad():
        output = model(torch.zeros(1, WINDOW_TOKENS, dtype=torch.long))
    logits = getattr(output, "logits", None)
    if logits is None or logits.shape[:2] != (1, WINDOW_TOKENS):
        raise ValueError(f"gives {type(output).__name__} with logits of shape {tuple(getattr(logits, 'shape', ()))}")


def probe(model: Any, vocabulary: int) -> Row:
    """The changes in the logits of a prefix by its suffix, by the length of the row, and by the other rows, in float64.

    The probe uses no code of the checks: it reads rows of random ids, with the weights as they are and with larger ones, for
    several seeds and lengths.
    """
    import copy

    import torch

    largest: dict[str, float] = {"suffix": 0.0, "length": 0.0, "companions": 0.0, "again": 0.0}
    for precision in (torch.float64, torch.float32):
        torch.set_default_dtype(precision)
        copied = copy.deepcopy(model).to(precision).eval()
        try:
            for seed in range(PROBE_SEEDS):
                _probe_once(copied, vocabulary, seed, largest)
        except (RuntimeError, ValueError, IndexError) as error:
            note = _first_line(error)
            continue
        else:
            return {**largest, "precision": str(precision).removeprefix("torch."), "seeds": PROBE_SEEDS}
        finally:
            torch.set_default_dtype(torch.float32)
    return {"not_probed": note}


def _probe_once(model: Any, vocabulary: int, seed: int, largest: dict[str, float]) -> None:
    import torch

    rng = torch.Generator().manual_seed(seed)
    if seed:  # initial weights are small, and hide effects that pass through a softmax
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.copy_(torch.randn(parameter.shape, generator=rng) / parameter[0].numel() ** 0.5)
    for tokens in PROBE_TOKENS:
        ids, others = torch.randint(vocabulary, (2, 1, tokens), generator=rng)
        base = _logits(model, ids)
        for kept in {max(1, tokens // 3), max(1, tokens - 1)}:
            rows = {
                "length": _logits(model, ids[:, :kept]),
                "companions": _logits(model, torch.cat([others, ids, others]))[1:2],
                "again": _logits(model, ids),
            }
            changes = {name: _change(base, logits, kept) for name, logits in rows.items()}
            if rows["companions"].shape != base.shape:
                changes["companions"] = 1.0
            for highest in (vocabulary, MARKER_IDS):
                suffix = torch.randint(highest, (1, tokens - kept), generator=rng)
                changed = _change(base, _logits(model, torch.cat([ids[:, :kept], suffix], 1)), kept)
                changes["suffix"] = max(changed, changes.get("suffix", 0.0))
            for name, change in changes.items():
                largest[name] = max(largest[name], change)


def _change(base: Any, logits: Any, kept: int) -> float:
    """The largest change of the first `kept` logits, in standard deviations; 1 where the numbers of logits differ."""
    if logits.dim() != base.dim() or len(logits) != len(base) or logits.shape[1] < kept:
        return 1.0
    return float((logits[:, :kept] - base[:, :kept]).abs().max()) / (float(base.std()) or 1.0)


def _logits(model: Any, ids: Any) -> Any:
    import torch

    with torch.no_grad():
        return model(ids).logits


# --- the page -------------------------------------------------------------------------------------------------------

INTRODUCTION = """
# Census

`make census` audits every model type that transformers maps to a causal language model. This page is written by
`tools/census.py` from `benchmarks/results/census.json`.

Each type is built as `palinode audit hf:TYPE` builds it: at a small size, with random weights and one layer of each kind, in a
process of its own. C1 asks what each slot reads, C2 trains on a canary, C6 compares step by step with one pass
([audit](audit.md)).

A type that fails a check is probed by other code. The probe replaces the end of a row (suffix), also by ids such as the padding id,
cuts it off (length), adds other rows to the batch (companions), and reads the row again (again). It compares the logits of the
start of the row before and after, in standard deviations of the logits, over several seeds, lengths and weights. If a
check fails and no probe confirms it, the failure is a false alarm.
"""


def page(results: Row) -> str:
    """The text of docs/census.md."""
    rows: Row = results.get("types", {})
    return "\n".join([*INTRODUCTION.strip().splitlines(), "", *_summary(results), *_tables(rows)]) + "\n"


def _summary(results: Row) -> Iterator[str]:
    rows: Row = results.get("types", {})
    audited = {name for name, row in rows.items() if _is_audited(row)}
    run = {name for name, row in rows.items() if row.get("checks")}
    failed = {name for name in audited if _failed(rows[name])}
    unsure = {
        name
        for name in audited - failed
        if any(p["outcome"] == "could_not_tell" for p in rows[name]["checks"].values())
    }
    false = {name for name in failed if not _confirmed(rows[name])}
    hours = sum(row["cpu_seconds"] for row in rows.values()) / 3600
    versions = ", ".join(f"{name} {version}" for name, version in results.get("versions", {}).items())
    share = len(audited) / max(1, len(run))
    yield f"Versions: {versions}."
    yield ""
    yield "| what | types |"
    yield "|---|---|"
    yield f"| model types that transformers maps | {results.get('mapped_types', len(rows))} |"
    yield f"| measured so far | {len(rows)} |"
    yield f"| built and run by transformers | {len(run)} |"
    yield f"| audited | {len(audited)} ({share:.1%}; target {TARGET_SHARE:.0%}) |"
    yield f"| pass | {len(audited) - len(failed) - len(unsure)} |"
    yield f"| could not tell | {len(unsure)} |"
    yield f"| fail | {len(failed)} |"
    yield f"| fail, and no probe confirms it (false alarms) | {len(false)} |"
    yield ""
    yield (
        f"CPU time: {hours:.2f} hours in all, {hours / CORES:.2f} hours on {CORES} cores (target {TARGET_HOURS:g}). "
        f"Checks measured: {_checks_measured(rows)}."
    )


def _checks_measured(rows: Row) -> str:
    counts = {check: sum(check in row.get("checks", {}) for row in rows.values()) for check in CHECKS}
    return ", ".join(f"{check} on {count} types" for check, count in counts.items())


def _tables(rows: Row) -> Iterator[str]:
    failed = {name: row for name, row in rows.items() if _failed(row)}
    yield from ("", "## Types that fail", "")
    yield "| type | check | what it says | suffix | length | companions | again | probe |"
    yield "|---|---|---|---|---|---|---|---|"
    for name, row in failed.items():
        yield f"| {name} | {', '.join(_failed(row))} | {_cell(_note_of(row, _failed(row)[0]))} | {_probed(row)} |"
    yield from ("", "## Types that could not be told", "", "| type | check | what it says |", "|---|---|---|")
    for name, row in rows.items():
        for check, note in _notes(row).items():
            if check not in _failed(row):
                yield f"| {name} | {check} | {_cell(note)} |"
    yield from ("", "## Types that were not audited", "", "| type | reason |", "|---|---|")
    for name, row in rows.items():
        if not _is_audited(row):
            yield f"| {name} | {_cell(row.get('reason') or _refusal(row))} |"
    yield from ("", "## All types", "", "| type | class | parameters | C1 | C2 | C6 | CPU seconds |")
    yield "|---|---|---|---|---|---|---|"
    for name, row in rows.items():
        cells = " | ".join(_outcome(row, check) for check in CHECKS)
        size = f"{row['parameters']:,}" if "parameters" in row else ""
        yield f"| {name} | {row.get('class', '')} | {size} | {cells} | {row['cpu_seconds']:.1f} |"


def _is_audited(row: Row) -> bool:
    outcomes = [part["outcome"] for part in row.get("checks", {}).values()]
    return bool(outcomes) and all(outcome in ("pass", "fail", "could_not_tell") for outcome in outcomes)


def _failed(row: Row) -> list[str]:
    return [check for part in row.get("checks", {}).values() for check in part.get("failed", ())]


def _notes(row: Row) -> dict[str, str]:
    return {check: note for part in row.get("checks", {}).values() for check, note in part.get("notes", {}).items()}


def _note_of(row: Row, check: str) -> str:
    return _notes(row)[check]


def _refusal(row: Row) -> str:
    return next((note for note in _notes(row).values()), "")


def _confirmed(row: Row) -> bool:
    """Whether a probe shows the leak that a check reported."""
    probed = row.get("probe", {})
    return any(probed.get(name, 0.0) > PROBE_BOUND for name in ("suffix", "length", "companions", "again"))


def _probed(row: Row) -> str:
    probed = row.get("probe", {})
    if "suffix" not in probed:
        return f" | | | | {_cell(probed.get('not_probed', 'not probed'))}"
    numbers = " | ".join(f"{probed[name]:.1e}" for name in ("suffix", "length", "companions", "again"))
    verdict = "confirms" if _confirmed(row) else "**does not show it**"
    return f"{numbers} | {verdict} ({probed['precision']}, {probed['seeds']} seeds)"


def _outcome(row: Row, check: str) -> str:
    part = row.get("checks", {}).get(check)
    if part is None:
        return ""
    names = ", ".join(part.get("failed") or part.get("notes", {}))
    return {"pass": "pass", "fail": f"**fail**: {names}", "could_not_tell": f"could not tell: {names}"}.get(
        part["outcome"], part["outcome"]
    )


def _cell(text: str) -> str:
    """The text in a form that fits into a cell of a table."""
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")[:300]


# --- inside ---------------------------------------------------------------------------------------------------------


def _limit_itself() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_GIB << 30, MEMORY_GIB << 30))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    signal.alarm(CPU_SECONDS * WALL_FACTOR)
    warnings.simplefilter("ignore")
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)


def _why_it_ended(status: int, row: Row) -> str:
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    what = {signal.SIGXCPU: f"took more than {CPU_SECONDS} CPU seconds", signal.SIGKILL: "was killed"}
    done = ", ".join(row.get("checks", {})) or "nothing"
    return f"{what.get(signal.Signals(number), f'ended with signal {number}') if number else 'ended'} after {done}"


def _first_line(error: BaseException) -> str:
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}"[:300]


if __name__ == "__main__":
    sys.exit(main())
