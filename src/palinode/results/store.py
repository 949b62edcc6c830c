"""The results store: run directories are the truth, everything else can be rebuilt from them.

    <root>/<run_id>/{spec.json, metrics.jsonl, ckpt/, audit.json, result.json}
    <root>/experiments/<name>--<size>.json      resolved experiments
    <root>/audits/<hash>.json                   cached audits
    <root>/reports/<name>--<size>/              what `palinode report` wrote
    <root>/index.sqlite                         a cache for listings (index.py); delete it and it comes back

Reading writes nothing into a run directory. Names that come from users or files never leave the root.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from palinode.base import fsio
from palinode.base.config import canonical_json, encode
from palinode.base.errors import BadInput, Damaged, nearest
from palinode.base.finding import AuditReport
from palinode.base.measures import FINAL_OUTCOMES
from palinode.results import index
from palinode.results.files import decode_stored, read_table
from palinode.results.index import RunRow
from palinode.results.record import (
    AUDIT_FILE,
    METRICS_FILE,
    RESULT_FILE,
    SPEC_FILE,
    ExperimentEntry,
    ExperimentRecord,
    ExperimentRun,
    Record,
    Result,
    read_run,
)

DEFAULT_ROOT = Path("runs")
EXPERIMENTS, AUDITS, REPORTS = "experiments", "audits", "reports"
RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
LISTED = "`palinode ls --runs` lists them"  # a hash is no typo of another
LONGEST_NAME_BYTES = 100  # two names, a separator and a temporary's suffix must fit the 255 bytes of a file name


class Store:
    """A results store below `root`. Making the object touches nothing; the first write creates the directory.

    Args:
        root: the store's directory.
    """

    def __init__(self, root: Path | str = DEFAULT_ROOT):
        self.root = Path(root)

    # --- reading ------------------------------------------------------------------------------------------------

    def run_directory(self, run_id: str) -> Path:
        """Where this run's files are (they need not exist).

        Raises:
            BadInput: the id cannot be a directory of this store.
        """
        if not is_run_id(run_id):
            raise BadInput(f"{run_id!r} is not a run id", field="run_id")
        return self.root / run_id

    def run_ids(self) -> list[str]:
        """The ids of all run directories, sorted."""
        return index.run_ids(self.root, is_run_id)

    def record(self, run_id: str) -> Record:
        """One run.

        Raises:
            BadInput: there is no such run.
            Damaged: its spec or result does not decode, or it has a result and no spec (the file is named). What is wrong with
                its metrics is raised where they are asked for.
        """
        record = self._record(run_id)
        if record is None:
            raise BadInput(f"no run {run_id!r} in {self.root}", field="run_id", hint=LISTED)
        if record.damage is not None:
            raise record.damage
        return record

    def ended(self, run_id: str) -> Result | None:
        """The result of a run that is finished: the same spec would only give it again. None where there is work to do.

        A run that failed, was stopped or is damaged is not finished: it is done again, and what is damaged is replaced.
        """
        record = self._record(run_id)
        result = record.result if record is not None else None
        return result if result is not None and result.outcome in FINAL_OUTCOMES else None

    def find(self, prefix: str) -> str:
        """The one run id that begins with `prefix`.

        Raises:
            BadInput: no run does, or several do.
        """
        found = [run_id for run_id in self.run_ids() if run_id.startswith(prefix)]
        if prefix in found or len(found) == 1:
            return prefix if prefix in found else found[0]
        if not found:
            raise BadInput(f"no run {prefix!r} in {self.root}", hint=LISTED)
        raise BadInput(f"{len(found)} runs begin with {prefix!r}", hint=", ".join(found[:4]))

    def records(self) -> list[Record]:
        """Every run, by id, with its metrics; those that do not decode carry their damage (outcome `damaged`)."""
        found = (self._record(run_id) for run_id in self.run_ids())
        return [record.with_metrics() for record in found if record is not None]

    def listing(self) -> list[RunRow]:
        """One row per run, by id, from the index, which is brought up to date first."""
        return index.listing(self.root, is_run_id)

    def experiments(self) -> list[ExperimentEntry]:
        """The entries that decode, by name and size; `damaged_experiments` has the others."""
        found = (self._entry(path) for path in self._entry_paths())
        return [entry for entry in found if isinstance(entry, ExperimentEntry)]

    def damaged_experiments(self) -> list[Damaged]:
        """The experiment files that do not decode."""
        found = (self._entry(path) for path in self._entry_paths())
        return [entry for entry in found if isinstance(entry, Damaged)]

    def entry(self, name: str) -> ExperimentEntry:
        """The experiment called `<name>--<size>`, or `<name>` where it was run at one size only.

        Raises:
            BadInput: there is none, or several sizes match.
            Damaged: its file does not decode, or holds what no experiment of a store can have.
        """
        return self._read_entry(self._entry_path(name))

    def experiment(self, name: str) -> ExperimentRecord:
        """An experiment with all its runs (missing and damaged ones included, metrics read) and audits; names as in `entry`.

        While a setting is still to be chosen it has no runs yet: what lies under their ids was trained without it.
        """
        entry = self._read_entry(self._entry_path(name), with_rule=False)  # whoever applies its rule checks that
        found = ((run, None if entry.to_choose else self._record(run.run_id)) for run in entry.runs)
        runs = tuple(ExperimentRun(run, record.with_metrics() if record is not None else None) for run, record in found)
        audits: dict[tuple[str, str], AuditReport] = {}
        damaged: list[Damaged] = []
        for arm, by_scale in entry.audits.items():
            for scale, audit_hash in by_scale.items():
                try:
                    if (report := self.audit(audit_hash)) is not None:
                        audits[arm, scale] = report
                except Damaged as error:
                    damaged.append(error)
        comparison = None
        try:
            comparison = self.audit(entry.comparison) if entry.comparison else None
        except Damaged as error:
            damaged.append(error)
        return ExperimentRecord(entry, runs, audits, tuple(damaged), comparison)

    def audit(self, audit_hash: str) -> AuditReport | None:
        """A cached audit; None when there is none under this hash.

        Raises:
            Damaged: its file does not decode.
        """
        path = self._audit_path(audit_hash)
        return decode_stored(AuditReport, read_table(path), path) if path.exists() else None

    def audits(self) -> list[str]:
        """The hashes of the cached audits, sorted."""
        return sorted(path.stem for path in (self.root / AUDITS).glob("*.json") if RUN_ID.fullmatch(path.stem))

    def report_directory(self, entry: ExperimentEntry) -> Path:
        """Where this experiment's report goes by default."""
        return self.root / REPORTS / _entry_stem(entry)

    # --- writing ------------------------------------------------------------------------------------------------

    def create(self) -> Store:
        """Make the root, with a .gitignore inside: results do not belong in the project's history."""
        ignore = self.root / ".gitignore"
        if not ignore.exists():
            fsio.write_text(ignore, "*\n")
        return self

    def write_spec(self, run_id: str, spec: Mapping[str, Any]) -> Path:
        """Begin a run: its resolved spec. Writing the same spec again changes nothing, nor does one with options that came later.

        Raises:
            Damaged: the directory already holds another spec under this id.
        """
        path = self.create().run_directory(run_id) / SPEC_FILE
        if path.exists() and not _agree(read_table(path), dict(spec)):
            raise Damaged(f"holds another spec than run {run_id} has", file=str(path))
        if not path.exists():
            fsio.write_json(path, dict(spec))
        return path.parent

    def append_metrics(self, run_id: str, row: dict[str, Any]) -> None:
        """Append one row to metrics.jsonl."""
        fsio.append_line(self.run_directory(run_id) / METRICS_FILE, row)

    def write_result(self, result: Result) -> None:
        """End a run: always the last file written."""
        fsio.write_json(self.run_directory(result.run_id) / RESULT_FILE, encode(result))

    def write_run_audit(self, run_id: str, report: AuditReport) -> None:
        """The audit this run was allowed to start with."""
        fsio.write_json(self.run_directory(run_id) / AUDIT_FILE, encode(report))

    def write_audit(self, audit_hash: str, report: AuditReport) -> None:
        """Cache an audit under the hash of what it depends on."""
        fsio.write_json(self.create()._audit_path(audit_hash), encode(report))

    def write_experiment(self, entry: ExperimentEntry) -> Path:
        """Write a resolved experiment (before its first run; a later call with more runs replaces it)."""
        path = self.create().root / EXPERIMENTS / f"{_entry_stem(entry)}.json"
        fsio.write_json(path, encode(entry))
        return path

    # --- inside -------------------------------------------------------------------------------------------------

    def _record(self, run_id: str) -> Record | None:
        directory = self.run_directory(run_id)
        if directory.is_symlink() or not directory.is_dir():
            return None
        try:
            spec, result = read_run(directory)
        except Damaged as error:
            return Record(run_id=run_id, directory=directory, spec={}, result=None, damage=error)
        return Record(run_id=run_id, directory=directory, spec=spec, result=result)

    def _entry_paths(self) -> list[Path]:
        return sorted((self.root / EXPERIMENTS).glob("*--*.json"))

    def _entry_path(self, name: str) -> Path:
        paths = {path.stem: path for path in self._entry_paths()}
        matching = [stem for stem in paths if stem == name or stem.rpartition("--")[0] == name]
        if not matching:
            known = sorted({stem.rpartition("--")[0] for stem in paths} | set(paths))
            raise BadInput(f"no experiment {name!r} in {self.root}", hint=nearest(name, known))
        if len(matching) > 1:
            raise BadInput(f"{name!r} was run at {len(matching)} sizes", hint=f"name one: {', '.join(matching)}")
        return paths[matching[0]]

    def _read_entry(self, path: Path, *, with_rule: bool = True) -> ExperimentEntry:
        entry = decode_entry(read_table(path), path, with_rule=with_rule)
        if entry.full_name != path.stem:
            raise Damaged(f"holds experiment {entry.full_name!r}", file=str(path), field="name")
        return entry

    def _entry(self, path: Path) -> ExperimentEntry | Damaged:
        try:
            return self._read_entry(path)
        except Damaged as error:
            return error

    def _audit_path(self, audit_hash: str) -> Path:
        if not RUN_ID.fullmatch(audit_hash):
            raise BadInput(f"{audit_hash!r} is not the hash of an audit", field="audits")
        return self.root / AUDITS / f"{audit_hash}.json"


def is_run_id(name: str) -> bool:
    """Whether a name can be a run's directory (not one of the store's own)."""
    return RUN_ID.fullmatch(name) is not None and name not in (EXPERIMENTS, AUDITS, REPORTS)


def decode_entry(data: Any, path: Path, *, with_rule: bool = True) -> ExperimentEntry:
    """What an experiment's file in a store holds.

    Args:
        with_rule: check its decision rule too.

    Raises:
        Damaged: it does not decode, or holds what no experiment of a store can have.
    """
    entry = decode_stored(ExperimentEntry, data, path)
    try:
        _check_names(entry)
        if with_rule and entry.decision:
            entry.rule  # noqa: B018 - raises where it is wrong
    except BadInput as error:
        raise Damaged(error.message, file=str(path), field=error.field, hint=error.hint) from None
    return entry


def _check_names(entry: ExperimentEntry) -> None:
    """What an entry names must lie in its store."""
    _entry_stem(entry)
    for run in entry.runs:
        if not is_run_id(run.run_id):
            raise BadInput(f"{run.run_id!r} is not a run id", field="runs")
    hashes = {f"audits.{arm}.{scale}": known for arm, of_arm in entry.audits.items() for scale, known in of_arm.items()}
    for field, known in (hashes | ({"comparison": entry.comparison} if entry.comparison else {})).items():
        if not RUN_ID.fullmatch(known):
            raise BadInput(f"{known!r} is not the hash of an audit", field=field)


def check_name(name: str, field: str) -> None:
    """A name that becomes part of a file name must stay inside its directory on every system.

    Raises:
        BadInput: naming what is wrong with it.
    """
    wrong = None
    if not name or not name.isprintable():
        wrong = "must be printable and not empty"
    elif name[0] in ".- " or name[-1] in ". " or "--" in name or any(character in name for character in '/\\:*?"<>|'):
        wrong = 'must not begin with ".", "-" or a space, nor hold "--" or any of / \\ : * ? " < > |'
    elif len(name.encode()) > LONGEST_NAME_BYTES:
        wrong = f"is longer than {LONGEST_NAME_BYTES} bytes"
    if wrong:
        raise BadInput(f"{name[:40]!r} {wrong}", field=field)


def _entry_stem(entry: ExperimentEntry) -> str:
    check_name(entry.name, "name")
    check_name(entry.size, "size")
    return entry.full_name


def _agree(stored: Any, spec: Any) -> bool:
    """Whether two encoded specs say the same wherever both say something: an upgrade adds options to what was stored."""
    if isinstance(stored, dict) and isinstance(spec, dict):
        return all(_agree(stored[name], spec[name]) for name in stored.keys() & spec.keys())
    return canonical_json(stored) == canonical_json(spec)
