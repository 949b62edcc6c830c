"""A trained model as a folder that transformers and lm-eval read: config, weights, tokenizer, and a card that says what it is.

The card has the question, the verdict with its interval, the audit, the data with its hashes, and the command. A run that sees its
own answer is exported only with `even_if_leaking`, and its card begins with LEAK.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save

from palinode.analysis.audits import failed_about_run
from palinode.analysis.verdict import verdict
from palinode.base import fsio
from palinode.base.config import encode
from palinode.base.errors import AuditFailed, BadInput
from palinode.base.finding import Finding
from palinode.data.tokenizer_json import library_json
from palinode.report.words import number, sentence
from palinode.results.record import ExperimentRecord, Record, RunEntry
from palinode.results.store import Store
from palinode.run.trained import load_trained
from palinode.spec.code import user_kinds
from palinode.spec.load import load_run
from palinode.spec.trained import Trained
from palinode.use.hf_weights import CODE_FILE, Exported, exported

CODE = Path(__file__).parent / "templates" / CODE_FILE
RUN_FILES = ("spec.json", "code.json")  # what a folder with the code of a user needs besides the code itself
BOS = "[L]"


@dataclass(frozen=True)
class Kept:
    """What was exported: the class of transformers, and whether its code imports Palinode."""

    architecture: str
    needs_palinode: bool
    directory: Path


def export(
    run_id: str, store: Store, directory: Path, *, allow_code: bool = False, even_if_leaking: bool = False
) -> Kept:
    """Write the model of a run into a new folder for transformers.

    Raises:
        BadInput: the folder is not empty, the run is not done, or it needs the user's code and `allow_code` is not set.
        AuditFailed: the run failed its audit, and `even_if_leaking` is not set.
        Damaged: the weights are damaged.
    """
    if directory.is_file() or (directory.exists() and any(directory.iterdir())):
        raise BadInput(
            "is not empty" if directory.is_dir() else "is a file", file=str(directory), hint="name a new folder"
        )
    record = store.record(run_id)
    if record.outcome != "done":
        raise BadInput(f"run {run_id} is {record.outcome}, so it has no final weights", field="RUN")
    failed = failed_about_run(store, run_id)
    leaks = [one for one in failed if one.shows_leak]
    if failed and not even_if_leaking:
        message = f"run {run_id} failed its audit, {failed[0].check}: {failed[0].message}"
        raise AuditFailed(message, hint="--even-if-leaking writes it, and its card begins with LEAK")
    trained = load_trained(load_run(store.run_directory(run_id), allow_code=allow_code), store)
    model = exported(trained.model, trained.spec, trained.specials.first_id)
    _write(directory, trained, model, store)
    fsio.write_text(directory / "README.md", "\n".join(_card(trained, model, record, store, failed, leaks)) + "\n")
    return Kept(model.config["architectures"][0], model.needs_palinode, directory)


def _write(directory: Path, trained: Trained, model: Exported, store: Store) -> None:
    fsio.make_directory(directory)
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in model.tensors.items()}
    fsio.write_bytes(directory / "model.safetensors", save(tensors, metadata={"format": "pt"}))
    fields = library_json(trained.data.tokenizer)
    if fields is not None:
        fsio.write_json(directory / "tokenizer.json", fields)
        options = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": BOS,
            "clean_up_tokenization_spaces": False,
        }
        fsio.write_json(directory / "tokenizer_config.json", {**options, "model_max_length": trained.model.max_length})
    if model.needs_palinode:
        fsio.write_text(directory / CODE_FILE, CODE.read_text(encoding="utf-8"))
        if user_kinds(encode(trained.spec)):
            _copy_code(store.run_directory(trained.spec.run_id), directory)
    fsio.write_json(directory / "config.json", model.config)


def _copy_code(run: Path, directory: Path) -> None:
    """Copy the spec and the user's code of a run, under the name of the run: the id of a spec is the name of its folder."""
    for path in run.iterdir():
        if path.name in RUN_FILES or path.suffix == ".py":
            fsio.write_bytes(directory / run.name / path.name, path.read_bytes())


# --- the card -------------------------------------------------------------------------------------------------------


def _card(
    trained: Trained, model: Exported, record: Record, store: Store, failed: tuple[Finding, ...], leaks: list[Finding]
) -> Iterator[str]:
    """The lines of the card."""
    spec = trained.spec
    if failed:
        word = "LEAK" if leaks else "AUDIT FAILED"
        yield f"# {word}: {'this model was trained on its own answers' if leaks else 'do not rely on this model'}"
        yield ""
        yield from (f"- {one.check}: {one.message}" for one in failed)
        yield ""
    yield f"# Run {spec.run_id}"
    yield ""
    yield from _of_experiments(store, spec.run_id)
    audit = "failed" if failed else "passed" if record.audit_report() is not None else "not audited"
    rows = [("audit", audit), *_facts(trained, record)]
    yield from ("| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows), "")
    yield from _how_to_read(trained, model)


def _of_experiments(store: Store, run_id: str) -> Iterator[str]:
    """The question, the arm and the verdict of every experiment that the run is a part of."""
    for entry in store.experiments():
        for run in (one for one in entry.runs if one.run_id == run_id):
            yield f"Experiment `{entry.full_name}`: {entry.question}"
            yield ""
            yield f"Arm `{run.arm}` at scale `{run.scale}`, seed {run.seed}. {_verdict(store.experiment(entry.full_name), run)}"
            yield f"Made by `{' '.join(entry.command)}`." if entry.command else ""
            yield ""


def _verdict(record: ExperimentRecord, run: RunEntry) -> str:
    rule = record.entry.rule
    if run.arm == rule.baseline:
        return "It is the baseline."
    return f"Verdict: {sentence(verdict(record, run.arm, run.scale, rule))}"


def _facts(trained: Trained, record: Record) -> Iterator[tuple[str, str]]:
    spec, result = trained.spec, record.result
    assert result is not None
    data = encode(spec.data)
    yield "model", f"{spec.model.kind_name()}, {number(result.parameters.get('total'))} parameters"
    yield "objective", spec.objective.kind_name()
    yield "tokens read", number(result.counters.get("tokens_read"))
    if result.start:
        yield "started from", f"run {result.start['run']}, step {result.start['step']}"
    yield "seed", str(spec.seed)
    for split, by_pass in result.scores.items():
        for name, scores in by_pass.items():
            yield f"{split}, {name}", f"{number(scores.get('nats_per_token'))} nats per token"
    yield "data", f"{data.get('corpus', data.get('kind', 'a task'))}, licence: {_licence(trained)}"
    yield from ((name, str(data[name])) for name in ("corpus_sha256", "tokenizer_sha256") if data.get(name))
    yield "weights", f"sha256 {result.weights_sha256}"


def _licence(trained: Trained) -> str:
    manifest: Any = getattr(trained.data, "manifest", {})
    return str(manifest.get("licence", "unknown"))


def _how_to_read(trained: Trained, model: Exported) -> Iterator[str]:
    spec = trained.spec
    trust = ", trust_remote_code=True" if model.needs_palinode else ""
    yield "## How to read it"
    yield ""
    yield f"`AutoModelForCausalLM.from_pretrained(FOLDER{trust})` and `AutoTokenizer.from_pretrained(FOLDER)`."
    yield ""
    if model.needs_palinode:
        yield "No class of transformers computes this model, so its code imports `palinode`. It keeps no cache."
        yield ""
    groups = spec.objective.groups()
    reversed_ids = "ids in reversed order, behind `[R]`"
    if getattr(spec.model, "rtl_positions", "flipped") == "text":
        reversed_ids += ", with `position_ids` that count down to 0 and an `attention_mask` of ones"
    if not spec.objective.reads_in_a_direction:
        yield "It was trained to fill masks and not to continue a text."
    elif "ltr" not in groups:
        yield f"It reads from right to left: give it the {reversed_ids}."
    else:
        yield f"It reads a text behind `{BOS}`; rows have at most {trained.model.max_length} tokens."
        if "rtl" in groups:
            yield f"It was also trained from right to left: {reversed_ids}."
    yield ""
    yield "The tokenizer adds nothing to a text. With lm-eval, `add_bos_token=True` puts `[L]` before the contexts of pairs."
