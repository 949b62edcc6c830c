"""The results store has a directory for each run, and files for experiments, audits and reports.

    <root>/<run_id>/{spec.json, tokenizer.json, hold-N.json, metrics-N.jsonl, ckpt/, audit.json,
                     documents.safetensors, result.json}
    <root>/experiments/<name>--<size>.json      resolved experiments; beside each: its seals and its looks (seals.py)
    <root>/experiments/<name>--<size>.runs-1.parquet   a cache of the runs of a large experiment (run_cache.py); it may be deleted
    <root>/experiments/<name>--<size>.stop      asks workers to stop; .queue beside it: the runs that they shall train
    <root>/experiments/<name>--<size>.decide/   the holds of the process that decides for all hosts, and what is decided by
    <root>/workers/                             what engines and their workers write
    <root>/audits/<hash>.json                   cached audits
    <root>/audits/holds/<hash>/hold-N.json      the holds of the processes that have performed an audit
    <root>/data/<hash>/                         token stores that hosts share; in a store of one host there is no such folder
    <root>/environments/<hash>.txt              the packages of an environment; results name the hash
    <root>/reports/<name>--<size>/              the pages of `palinode report`
    <root>/index.json, index.d/<host>.jsonl     caches for listings (index.py); they may be deleted at any time

Reading a store writes nothing into a run directory. No name from a user or a file leads to a path outside the root.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from palinode.base import fsio
from palinode.base.config import canonical_json, encode
from palinode.base.errors import BadInput, Damaged, nearest
from palinode.base.finding import AuditReport
from palinode.base.measures import FINAL_OUTCOMES
from palinode.results import index
from palinode.results.documents import DOCUMENTS_FILE, Documents, documents_content, documents_seal
from palinode.results.files import (
    AUDITS,
    DATA,
    ENVIRONMENTS,
    EXPERIMENTS,
    REPORTS,
    RUN_ID,
    WORKERS,
    decode_stored,
    is_regular,
    is_run_id,
    read_table,
)
from palinode.results.index import RunRow
from palinode.results.record import (
    AUDIT_FILE,
    RESULT_FILE,
    SPEC_FILE,
    TOKENIZER_FILE,
    ExperimentEntry,
    ExperimentRecord,
    ExperimentRun,
    Record,
    Result,
    RunEntry,
    read_run,
    trials_name,
)
from palinode.results.rows import metrics_path
from palinode.results.seals import LOOKS_SUFFIX, SEALS_SUFFIX, Appended, Look, Seal, append, read_looks, read_seals

DEFAULT_ROOT = Path("runs")
LEAST_RUNS = 1000  # the smallest experiment that has a cache of its runs; a smaller one is read in about a second
CACHE_SUFFIX = ".runs-1.parquet"  # the cache of an experiment's runs; the number is the version of its form
STOP_SUFFIX, QUEUE_SUFFIX, DECIDE_SUFFIX = ".stop", ".queue", ".decide"
PLAN_FILE = "plan.json"  # in a directory with DECIDE_SUFFIX: the experiment, while something is left to decide
HOLDS = "holds"  # the directory of the holds on audits, inside `audits`
LISTED = "`palinode ls --runs` lists them"  # the hint for an unknown run id, because hashes have no similar names
# A file name may have 255 bytes: enough for two names of this length, a separator and the suffix of a temporary file.
LONGEST_NAME_BYTES = 100


class Store:
    """A results store in the directory `root`. The first write creates the directory."""

    def __init__(self, root: Path | str = DEFAULT_ROOT):
        self.root = Path(root)

    # --- reading ------------------------------------------------------------------------------------------------

    def run_directory(self, run_id: str) -> Path:
        """The directory of this run. The directory need not exist.

        Raises:
            BadInput: the id cannot be the name of a run directory.
        """
        if not is_run_id(run_id):
            raise BadInput(f"{run_id!r} is not a run id", field="run_id")
        return self.root / run_id

    def run_ids(self) -> list[str]:
        """The ids of all run directories, sorted."""
        return index.run_ids(self.root)

    def record(self, run_id: str) -> Record:
        """Read the record of one run.

        Raises:
            BadInput: the store has no run with this id.
            Damaged: the spec or the result does not decode, or the run has a result and no spec. Damage in the metrics is
                raised by `Record.metrics`.
        """
        record = self._record(run_id)
        if record is None:
            raise BadInput(f"no run {run_id!r} in {self.root}", field="run_id", hint=LISTED)
        if record.damage is not None:
            raise record.damage
        return record

    def ended(self, run_id: str) -> Result | None:
        """The result of a run that need not be repeated (outcome `done` or `diverged`), else None.

        A run must be repeated if it failed or was stopped, or if its spec, result, rows of metrics, audit or scores of documents
        are damaged. A damaged run goes on from its last good checkpoint, and its damaged files are replaced.
        """
        record = self._record(run_id)
        if record is None or record.with_metrics().damage or record.audit_damage or record.documents_damage:
            return None
        return record.result if record.result is not None and record.result.outcome in FINAL_OUTCOMES else None

    def find(self, prefix: str) -> str:
        """The one run id that begins with `prefix`. `ARM:SEED` means the run of this arm and seed of an experiment.

        Raises:
            BadInput: no run id begins with `prefix`, or no run has this arm and seed, or several do.
        """
        if ":" in prefix:
            return self._of_arm(prefix)
        found = [run_id for run_id in self.run_ids() if run_id.startswith(prefix)]
        if prefix in found or len(found) == 1:
            return prefix if prefix in found else found[0]
        if not found:
            raise BadInput(f"no run {prefix!r} in {self.root}", hint=LISTED)
        raise BadInput(f"{len(found)} runs begin with {prefix!r}", hint=", ".join(found[:4]))

    def records(self) -> list[Record]:
        """The records of all runs, sorted by id, with their metrics. Runs that do not decode have the outcome `damaged`."""
        found = (self._record(run_id) for run_id in self.run_ids())
        return [record.with_metrics() for record in found if record is not None]

    def listing(self) -> list[RunRow]:
        """One row for each run, sorted by run id. The index is updated first."""
        return index.listing(self.root)

    def rebuild_index(self) -> None:
        """Read every run directory again, and replace the index (`index.rebuild`)."""
        index.rebuild(self.root)

    def experiments(self) -> list[ExperimentEntry]:
        """The experiment entries that decode, sorted by name and size. `damaged_experiments` lists the files that do not decode."""
        return [entry for entry in self._entries() if isinstance(entry, ExperimentEntry)]

    def damaged_experiments(self) -> list[Damaged]:
        """The errors of the experiment files that do not decode."""
        return [entry for entry in self._entries() if isinstance(entry, Damaged)]

    def entry(self, name: str) -> ExperimentEntry:
        """The entry of the experiment `<name>--<size>`. The name alone is enough when the experiment was run at one size only.

        Raises:
            BadInput: the store has no experiment of this name, or has several sizes of it.
            Damaged: the experiment file does not decode, or holds invalid names or an invalid decision rule.
        """
        return self._read_entry(self._entry_path(name))

    def experiment(self, name: str) -> ExperimentRecord:
        """An experiment with all its audits and runs, including missing and damaged ones. `name` is the argument of `entry`.

        While the trials have not chosen a setting, the runs are returned without records: a stored run with one of their ids was
        trained without the chosen setting.
        """
        entry = self._read_entry(self._entry_path(name), with_rule=False)  # `entry.rule` is checked where it is used
        records = iter([None] * len(entry.runs)) if entry.to_choose else self._checked_records(entry)
        runs = tuple(ExperimentRun(run, record) for run, record in zip(entry.runs, records, strict=True))
        audits, damaged = dict[str, AuditReport](), dict[str, Damaged]()
        hashes = {(arm, scale): one for arm, by_scale in entry.audits.items() for scale, one in by_scale.items()}
        for audit_hash in filter(None, (*hashes.values(), entry.comparison)):
            try:
                audits[audit_hash] = self._stored_audit(audit_hash)
            except Damaged as error:
                damaged[audit_hash] = error
        of_cells = {cell: audits[one] for cell, one in hashes.items() if one in audits}
        return ExperimentRecord(entry, runs, of_cells, damaged, audits.get(entry.comparison))

    def seals_path(self, entry: ExperimentEntry) -> Path:
        """The path of the file with the seals of this experiment. The file need not exist."""
        return self.root / EXPERIMENTS / f"{_entry_stem(entry)}{SEALS_SUFFIX}"

    def looks_path(self, entry: ExperimentEntry) -> Path:
        """The path of the file with the looks at this experiment. The file need not exist."""
        return self.root / EXPERIMENTS / f"{_entry_stem(entry)}{LOOKS_SUFFIX}"

    def seals(self, entry: ExperimentEntry) -> Appended[Seal]:
        """The plans of this experiment, each sealed before its runs.

        Raises:
            Damaged: the file is damaged, or was changed. The error names the line.
        """
        return read_seals(self.seals_path(entry))

    def looks(self, entry: ExperimentEntry) -> Appended[Look]:
        """The looks at the verdicts of this experiment.

        Raises:
            Damaged: the file is damaged. The error names the line.
        """
        return read_looks(self.looks_path(entry))

    def audit(self, audit_hash: str) -> AuditReport | None:
        """The cached audit with this hash; None when the store has none.

        Raises:
            Damaged: the audit file does not decode.
        """
        return self._stored_audit(audit_hash) if self._audit_path(audit_hash).exists() else None

    def audits(self) -> list[str]:
        """The hashes of the cached audits, sorted."""
        return sorted(path.stem for path in (self.root / AUDITS).glob("*.json") if RUN_ID.fullmatch(path.stem))

    def report_directory(self, entry: ExperimentEntry) -> Path:
        """The default directory of this experiment's report."""
        return self._own(self.root / REPORTS / _entry_stem(entry))

    def files_of(self, entry: ExperimentEntry) -> list[Path]:
        """The files of this experiment that are there: its seals, looks, cache, stop and queue, and its entry as the last one."""
        suffixes = (
            SEALS_SUFFIX,
            LOOKS_SUFFIX,
            CACHE_SUFFIX,
            STOP_SUFFIX,
            QUEUE_SUFFIX,
            f"{DECIDE_SUFFIX}/{PLAN_FILE}",
            ".json",
        )
        paths = (self._own(self.root / EXPERIMENTS / f"{_entry_stem(entry)}{suffix}") for suffix in suffixes)
        return [path for path in paths if path.exists()]

    def table_paths(self) -> list[Path]:
        """The paths of the files of all experiments and audits, sorted."""
        return [*self._entry_paths(), *sorted((self.root / AUDITS).glob("*.json"))]

    # --- writing ------------------------------------------------------------------------------------------------

    def create(self) -> Store:
        """Make the root directory, with a .gitignore in it, so that git does not track results."""
        ignore = self.root / ".gitignore"
        if not ignore.exists():
            fsio.write_text(ignore, "*\n")
        return self

    def write_spec(self, run_id: str, spec: Mapping[str, Any]) -> Path:
        """Begin a run: write its resolved spec. A stored spec is not replaced if it is equal, or lacks only newer options.

        A stored spec that cannot be read is replaced. The run id is the hash of the spec, so the new file holds the same spec.

        Raises:
            Damaged: the directory already holds another spec with this id.
        """
        path = self._own(self.create().run_directory(run_id) / SPEC_FILE)
        stored = _spec_in(path)
        if stored is None:
            fsio.write_table(path, dict(spec))
        elif not _agree(stored, dict(spec)):
            raise Damaged(f"holds another spec than the one of run {run_id}", file=str(path))
        return path.parent

    def write_tokenizer(self, run_id: str, text: str) -> None:
        """Write the tokenizer of a run beside its spec, unless it is there: the run can then be used without its corpus."""
        path, content = self._own(self.run_directory(run_id) / TOKENIZER_FILE), text.encode()
        if not is_regular(path) or path.read_bytes() != content:
            fsio.write_bytes(path, content)

    def append_metrics(self, run_id: str, row: dict[str, Any], attempt: int = 0) -> None:
        """Append one row to the metrics of an attempt. Attempt 0 is the attempt of an imported run."""
        fsio.append_line(metrics_path(self.run_directory(run_id), attempt), row)

    def write_result(self, result: Result) -> None:
        """Write the result of a run. The result is the last file that a run writes. Then append its row for listings."""
        fsio.write_table(self._own(self.run_directory(result.run_id) / RESULT_FILE), encode(result))
        index.append_ended(self.root, result)

    def write_run_audit(self, run_id: str, report: AuditReport) -> None:
        """Write the audit of this run."""
        fsio.write_table(self._own(self.run_directory(run_id) / AUDIT_FILE), encode(report))

    def write_environment(self, environment_hash: str, text: str) -> None:
        """Write the list of packages of an environment, unless it is there: all runs of one environment share one list."""
        path = self._own(self.root / ENVIRONMENTS / f"{environment_hash}.txt")
        if not path.exists():
            fsio.write_text(path, text)

    def write_documents(self, run_id: str, documents: Documents) -> dict[str, int | str]:
        """Write the scores of each document of a run, and return the size and the hash of the file for the run's result."""
        content = documents_content(documents)
        fsio.write_bytes(self._own(self.run_directory(run_id) / DOCUMENTS_FILE), content)
        return documents_seal(content)

    def write_audit(self, audit_hash: str, report: AuditReport) -> None:
        """Cache an audit under its hash. The hash covers every input of the audit."""
        fsio.write_table(self._own(self.create()._audit_path(audit_hash)), encode(report))

    def audit_holds(self, audit_hash: str) -> Path:
        """The directory of the holds on an audit, created if it does not exist. The process with the hold performs the audit."""
        return fsio.make_directory(self._own(self._audit_path(audit_hash).parent / HOLDS / audit_hash))

    def write_experiment(self, entry: ExperimentEntry) -> Path:
        """Write the entry of a resolved experiment before its first run. A later call replaces the stored entry."""
        path = self._own(self.create().root / EXPERIMENTS / f"{_entry_stem(entry)}.json")
        fsio.write_table(path, encode(entry))
        return path

    def append_seal(self, entry: ExperimentEntry, seal: Seal) -> None:
        """Append a seal of this experiment, and wait until it is on the disk."""
        append(self._own(self.create().seals_path(entry)), seal)

    def append_look(self, entry: ExperimentEntry, look: Look) -> None:
        """Append a look at this experiment, and wait until it is on the disk."""
        append(self._own(self.create().looks_path(entry)), look)

    def stop_path(self, full_name: str) -> Path:
        """The path of the file that asks workers to stop the runs of this experiment. The file need not exist."""
        return self.root / EXPERIMENTS / f"{full_name}{STOP_SUFFIX}"

    def probe_path(self, nonce: str) -> Path:
        """The path of a file that a driver writes for its workers. They see by it that they have the same store as the driver, and
        end when the driver has deleted it.

        Raises:
            BadInput: the name could lead out of the store.
        """
        check_name(nonce, "--probe")
        return self.root / WORKERS / f"probe-{nonce}"

    def workers_directory(self) -> Path:
        """The directory for what engines and their workers write, created if it does not exist."""
        return fsio.make_directory(self._own(self.create().root / WORKERS))

    def share_data(self) -> None:
        """Let the processes that work on this store take their token stores from it, because several hosts work on it."""
        fsio.make_directory(self._own(self.create().root / DATA))

    def data_directory(self, key: str) -> Path | None:
        """The directory of a token store, created if it does not exist; None in a store whose hosts do not share data."""
        folder = self._own(self.root / DATA)
        return fsio.make_directory(self._own(folder / key)) if folder.is_dir() else None

    def write_queue(self, full_name: str, runs: Sequence[RunEntry]) -> None:
        """Write the runs that workers shall train: all runs of a stage, also of seeds that no look has used yet."""
        table = {"runs": [encode(run) for run in runs]}
        fsio.write_table(self._own(self.root / EXPERIMENTS / f"{full_name}{QUEUE_SUFFIX}"), table)

    def queue(self, entry: ExperimentEntry) -> tuple[RunEntry, ...]:
        """The runs that workers shall train: those of the entry, and those that `write_queue` added."""
        path = self.root / EXPERIMENTS / f"{_entry_stem(entry)}{QUEUE_SUFFIX}"
        if not path.exists():
            return entry.runs
        added = tuple(decode_stored(RunEntry, run, path) for run in read_table(path).get("runs", ()))
        known = {run.run_id for run in entry.runs}
        return (*entry.runs, *(run for run in added if run.run_id not in known and is_run_id(run.run_id)))

    def forget_queue(self, full_name: str) -> None:
        """Delete the file of `write_queue`, if it is there: its runs may be those of earlier settings."""
        fsio.remove(self._own(self.root / EXPERIMENTS / f"{full_name}{QUEUE_SUFFIX}"))

    def plan_path(self, full_name: str) -> Path:
        """The path of the file by which workers make the decisions of an experiment. It exists while a decision is left to make.
        The process with the hold on its directory decides for all hosts.
        """
        return self.root / EXPERIMENTS / f"{full_name}{DECIDE_SUFFIX}" / PLAN_FILE

    def decisions(self, full_name: str) -> Path:
        """The directory of the holds on the decisions of an experiment, created if it does not exist."""
        return fsio.make_directory(self._own(self.create().plan_path(full_name).parent))

    def write_plan(self, full_name: str, plan: Mapping[str, Any]) -> None:
        """Write the file at `plan_path`."""
        fsio.write_table(self._own(self.decisions(full_name) / PLAN_FILE), plan)

    def forget_plan(self, full_name: str) -> None:
        """Delete the file of `write_plan`, if it is there: nothing is left to decide."""
        fsio.remove(self._own(self.plan_path(full_name)))

    def runs_of_workers(self, entry: ExperimentEntry) -> tuple[RunEntry, ...]:
        """The runs that workers train now: the `queue` of the experiment, or of the trials that choose a setting first."""
        if not entry.to_choose:
            return self.queue(entry)
        name = trials_name(entry)
        return next((self.queue(one) for one in self.experiments() if one.full_name == name), ())

    def ask_to_stop(self, entry: ExperimentEntry) -> None:
        """Ask the workers on this store to stop the runs of this experiment, and to take no more of them."""
        fsio.write_text(
            self._own(self.stop_path(entry.full_name)), "`palinode stop` wrote this file, `palinode run` deletes it\n"
        )

    def forget_stop(self, entry: ExperimentEntry) -> None:
        """Delete the file of `ask_to_stop`, if it is there."""
        fsio.remove(self._own(self.stop_path(entry.full_name)))

    def own_path(self, place: str) -> Path:
        """The path of a file of a pack in the store. The caller has checked the name.

        Raises:
            Damaged: the file or a directory of the path is a link. The error names the link.
        """
        return self._own(self.root / place)

    def write_file(self, place: str, content: bytes) -> None:
        """Write a file of a pack to its place in the store. The caller has checked the name and the content."""
        fsio.write_bytes(self.create().own_path(place), content)

    # --- inside -------------------------------------------------------------------------------------------------

    def _own(self, path: Path) -> Path:
        """The path, after a check that it may be written: a link in the path is refused, because it may lead out of the store.

        Raises:
            Damaged: the file or a directory of the path is a link. The error names the link.
        """
        inside = path.relative_to(self.root).parts
        for count in range(1, len(inside) + 1):
            if (place := self.root.joinpath(*inside[:count])).is_symlink():
                raise Damaged("is a link; nothing is written through it", file=str(place))
        return path

    def _of_arm(self, name: str) -> str:
        """The id of the one run that `ARM:SEED` means."""
        runs: dict[str, list[str]] = {}
        for entry in self.experiments():
            for run in entry.runs:
                same = runs.setdefault(f"{run.arm}:{run.seed}", [])
                same += [run.run_id] if run.run_id not in same else []  # two experiments may share a run
        if name not in runs:
            raise BadInput(f"no run {name!r} in {self.root}", hint=nearest(name, runs) or LISTED)
        if len(runs[name]) > 1:
            raise BadInput(
                f"{len(runs[name])} runs are {name!r}", hint=f"name one by its id: {', '.join(runs[name][:4])}"
            )
        return runs[name][0]

    def _record(self, run_id: str) -> Record | None:
        directory = self.run_directory(run_id)
        if directory.is_symlink() or not directory.is_dir():
            return None
        try:
            return Record(run_id, directory, *read_run(directory))
        except Damaged as error:
            return Record(run_id, directory, spec={}, result=None, damage=error)

    def _checked_records(self, entry: ExperimentEntry) -> Iterator[Record | None]:
        """The records of the runs of an experiment, with their metrics. A large experiment has a cache of checked runs."""
        if len(entry.runs) < LEAST_RUNS:
            found = (self._record(run.run_id) for run in entry.runs)
            yield from (record.with_metrics() if record is not None else None for record in found)
            return
        from palinode.results.run_cache import RunCache  # polars takes 0.1 s, and small experiments need none of it

        cache = RunCache(self.root / EXPERIMENTS / f"{_entry_stem(entry)}{CACHE_SUFFIX}")
        for run in entry.runs:
            record = cache.record(self.run_directory(run.run_id))
            if record is None and (read := self._record(run.run_id)) is not None:
                record = cache.keep(read.with_metrics())
            yield record
        cache.save()

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

    def _entries(self) -> Iterator[ExperimentEntry | Damaged]:
        for path in self._entry_paths():
            try:
                yield self._read_entry(path)
            except Damaged as error:
                yield error

    def _stored_audit(self, audit_hash: str) -> AuditReport:
        path = self._audit_path(audit_hash)
        return decode_stored(AuditReport, read_table(path), path)

    def _audit_path(self, audit_hash: str) -> Path:
        _check_audit_hash(audit_hash, "audits")
        return self.root / AUDITS / f"{audit_hash}.json"


def decode_entry(data: Any, path: Path, *, with_rule: bool = True) -> ExperimentEntry:
    """Decode an experiment file of a store.

    Args:
        with_rule: whether the decision rule is checked too.

    Raises:
        Damaged: the data do not decode, or hold invalid names or an invalid decision rule.
    """
    entry = decode_stored(ExperimentEntry, data, path)
    try:
        _check_names(entry)
        if with_rule and entry.decision:
            entry.rule  # noqa: B018 - raises if the rule is wrong
    except BadInput as error:
        raise Damaged(error.message, file=str(path), field=error.field, hint=error.hint) from None
    return entry


def _check_names(entry: ExperimentEntry) -> None:
    """Raise BadInput where a name or an id of the entry would lead out of its store."""
    _entry_stem(entry)
    for run in entry.runs:
        if not is_run_id(run.run_id):
            raise BadInput(f"{run.run_id!r} is not a run id", field="runs")
    for arm, by_scale in entry.audits.items():
        for scale, audit_hash in by_scale.items():
            _check_audit_hash(audit_hash, f"audits.{arm}.{scale}")
    if entry.comparison:
        _check_audit_hash(entry.comparison, "comparison")


def _check_audit_hash(audit_hash: str, field: str) -> None:
    if not RUN_ID.fullmatch(audit_hash):
        raise BadInput(f"{audit_hash!r} is not the hash of an audit", field=field)


def check_name(name: str, field: str) -> None:
    """Raise BadInput unless a file whose name contains this name stays inside its directory on every system."""
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


def _spec_in(path: Path) -> dict[str, Any] | None:
    """The spec in this file; None if the file does not exist or cannot be read."""
    try:
        return read_table(path)
    except Damaged:
        return None


def _agree(stored: Any, spec: Any) -> bool:
    """Whether two encoded specs have equal values in all keys that both have. A newer program adds keys for its new options."""
    if isinstance(stored, dict) and isinstance(spec, dict):
        return all(_agree(stored[name], spec[name]) for name in stored.keys() & spec.keys())
    return canonical_json(stored) == canonical_json(spec)
