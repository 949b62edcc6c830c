"""A pack: one experiment without weights in one file, to send to a colleague or to keep.

A pack is a zip file. Its first member is manifest.json, which names the experiment, the format and every other member with its size
and its SHA-256. The same store gives the same bytes. The members are the files of the store that a page is made from:

    experiments/<name>--<size>.json, .seals.jsonl, .looks.jsonl
    audits/<hash>.json
    <run_id>/{spec.json, code.json, code.py, metrics-N.jsonl, audit.json, result.json, documents.safetensors}

A pack may come from a stranger. `unpack` reads and checks every member before it writes one. It writes only the names above, the
entry of the experiment last. Weights, checkpoints, holds and the user's own text are not packed, nor tokenizer.json: it is of no
use without weights, and one that was trained on the user's text holds words of it.
"""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
import zlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from pydantic import Field

from palinode.base import fsio
from palinode.base.config import Config, encode
from palinode.base.errors import BadInput, Damaged, EnvironmentProblem
from palinode.results.documents import DOCUMENTS_FILE
from palinode.results.files import AUDITS, EXPERIMENTS, decode_stored, is_regular, is_run_id
from palinode.results.holds import Watch, holder, take
from palinode.results.record import AUDIT_FILE, RESULT_FILE, SPEC_FILE, ExperimentEntry, Result
from palinode.results.rows import ATTEMPT_FILE, METRICS_FILE, metrics_paths
from palinode.results.seals import LOOKS_SUFFIX, SEALS_SUFFIX
from palinode.results.store import Store, check_name, decode_entry

SUFFIX = ".palinode"
FORMAT, VERSION = "palinode pack", 1
MANIFEST = "manifest.json"
RUN_FILES = (SPEC_FILE, "code.json", "code.py", METRICS_FILE, AUDIT_FILE, DOCUMENTS_FILE, RESULT_FILE)
# The most bytes of the unpacked files, which are all in memory at the same time. A small file could unpack to any number of bytes.
LARGEST_PACK_BYTES = 2**31
MOST_MEMBERS = 1_000_000
LARGEST_MANIFEST_BYTES = 2**28
EARLIEST = (1980, 1, 1, 0, 0, 0)  # the time of every member: the time of packing would change the bytes
UNIX = 3  # the system of every member: the zip file would otherwise name the system of the packing machine


class Member(Config):
    """One file of a pack: its path in the store, its size in bytes, and its SHA-256."""

    path: str
    size_bytes: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Manifest(Config):
    """The first member of a pack. A newer version may have other fields, so the version is read before the rest."""

    format: str
    version: int
    experiment: str
    files: tuple[Member, ...] = Field(max_length=MOST_MEMBERS)


class Unpacked(NamedTuple):
    """What `unpack` did: the experiment, and the numbers of runs that were added and that were there with the same content.

    Attributes:
        older: whether the store has a later state of the experiment than the pack. Its entry, seals and looks then stay.
    """

    experiment: str
    added: int
    present: int
    older: bool = False


# --- packing ----------------------------------------------------------------------------------------------------------


def pack(store: Store, name: str, path: Path, audits: Collection[str] = ()) -> int:
    """Write the experiment of this name into one file; return the number of runs in it.

    Args:
        audits: the hashes of audits that the pages of the experiment read, and that its entry does not name.

    Raises:
        BadInput: the store has no experiment of this name, or the experiment is too large for a pack.
        Damaged: the entry or a result of the experiment cannot be read: `unpack` would refuse it.
        EnvironmentProblem: a file cannot be read or written.
    """
    entry = store.entry(name)
    contents = {place: _read_file(store.root / place) for place in _places(store, entry, audits)}
    _check_tables(store.root, f"{EXPERIMENTS}/{entry.full_name}.json", contents)
    members = tuple(
        Member(path=place, size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
        for place, content in contents.items()
    )
    manifest = Manifest(format=FORMAT, version=VERSION, experiment=entry.full_name, files=members)
    _check_sizes(path, manifest)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for place, content in {MANIFEST: fsio.json_bytes(encode(manifest)), **contents}.items():
            information = zipfile.ZipInfo(place, EARLIEST)
            information.create_system = UNIX
            information.compress_type, information.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(information, content)
    fsio.write_bytes(path, buffer.getvalue())
    return len(_runs_of(contents))


def _places(store: Store, entry: ExperimentEntry, others: Collection[str]) -> list[str]:
    """The paths in the store of all files of the experiment and of the other audits that exist, the entry last."""
    entries = f"{EXPERIMENTS}/{entry.full_name}"
    audits = {one for by_scale in entry.audits.values() for one in by_scale.values()} | {entry.comparison, *others}
    places = [f"{AUDITS}/{audit}.json" for audit in sorted(audits - {""})]
    for run_id in sorted(_run_ids(entry)):
        directory = store.run_directory(run_id)
        if directory.is_symlink():  # to a reader of the store, such a run does not exist
            continue
        attempts = [path.name for path in metrics_paths(directory)]
        names = dict.fromkeys((*RUN_FILES[:-1], *attempts, RESULT_FILE))
        places += [f"{run_id}/{name}" for name in names]
    places += [entries + suffix for suffix in (SEALS_SUFFIX, LOOKS_SUFFIX, ".json")]
    return [place for place in places if is_regular(store.root / place)]


def _run_ids(entry: ExperimentEntry) -> set[str]:
    """The ids of the experiment's runs, and of the trials that chose its settings."""
    return {run.run_id for run in entry.runs}.union(*(choice.runs for choice in entry.choices))


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise EnvironmentProblem(f"cannot be read: {error.strerror or error}", file=str(path)) from error


# --- unpacking --------------------------------------------------------------------------------------------------------


def unpack(store: Store, path: Path) -> Unpacked:
    """Put the experiment of a pack into the store, beside what is there.

    The store may have an earlier or a later state of the same experiment, such as one with fewer seeds. The later state stays.

    Raises:
        BadInput: the file is no pack, is from a newer version, has a name that leads out of the store, or holds another experiment,
            plan or result than the store has under the same name. Nothing was written.
        Damaged: the pack is damaged: a member is missing, has another hash, or does not decode; or a file of the store that the
            pack has too is a link. Nothing was written.
        EnvironmentProblem: another process works on a run of the pack, or the disk cannot be written.
    """
    contents, manifest = _checked(path)
    entries = f"{EXPERIMENTS}/{manifest.experiment}"
    if f"{entries}.json" not in contents:
        raise Damaged(f"has no {entries}.json", file=str(path), field="files")
    _check_tables(path, f"{entries}.json", contents)
    for place in contents:
        store.own_path(place)
    runs = _runs_of(contents)
    later = _is_later(store, path, entries, contents)
    new = {run_id: files for run_id, files in runs.items() if not _is_present(store, path, run_id, files)}
    for place, content in contents.items():
        if place.startswith(f"{AUDITS}/") and not _has_audit(store, Path(place).stem):
            store.write_file(place, content)
    for run_id, files in new.items():
        _write_run(store, run_id, files)
    for place in (entries + suffix for suffix in (SEALS_SUFFIX, LOOKS_SUFFIX, ".json")):
        if later and place in contents:
            store.write_file(place, contents[place])
    return Unpacked(manifest.experiment, len(new), len(runs) - len(new), older=not later)


def _checked(path: Path) -> tuple[dict[str, bytes], Manifest]:
    """The members of a pack by their paths, and its manifest, after all checks that need no store."""
    if not is_regular(path):
        raise BadInput("there is no pack here", file=str(path))
    try:
        with zipfile.ZipFile(path) as archive:
            _check_compression(path, archive)
            manifest = _manifest(path, archive)
            _check_names(path, archive, manifest)
            _check_sizes(path, manifest)
            return {member.path: _content(path, archive, member) for member in manifest.files}, manifest
    except (zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, EOFError, ValueError, RuntimeError) as error:
        raise Damaged(f"is no whole pack: {error}", file=str(path), hint="ask for it again") from None
    except OSError as error:
        raise EnvironmentProblem(f"cannot be read: {error.strerror or error}", file=str(path)) from None


def _check_compression(path: Path, archive: zipfile.ZipFile) -> None:
    """Refuse members that `pack` does not write: compressed in another way, or encrypted."""
    for member in archive.infolist():
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or member.flag_bits & 1:
            message = f"{member.filename!r} is compressed or encrypted in a way that no pack uses"
            raise Damaged(message, file=str(path), hint="ask for it again")


def _manifest(path: Path, archive: zipfile.ZipFile) -> Manifest:
    place = f"{path}: {MANIFEST}"
    if MANIFEST not in archive.namelist():
        raise BadInput("is no pack of palinode: it has no manifest.json", file=str(path))
    with archive.open(MANIFEST) as handle:
        text = _read(handle, LARGEST_MANIFEST_BYTES, place)
    table = fsio.decoded_table(text, place)
    if table.get("format") != FORMAT:
        raise BadInput(f"is {table.get('format')!r}, and a pack says {FORMAT!r}", file=place, field="format")
    version = table.get("version")
    if isinstance(version, int) and version > VERSION:
        message = f"is {version}, and this program reads {VERSION}"
        raise BadInput(message, file=place, field="version", hint="update palinode")
    manifest = decode_stored(Manifest, table, Path(place))
    if manifest.version != VERSION:
        raise Damaged(f"is {version}, and no pack has this version", file=place, field="version")
    return manifest


def _check_names(path: Path, archive: zipfile.ZipFile, manifest: Manifest) -> None:
    """Refuse names that are not those of an experiment's files, names that occur twice, and members that the manifest lacks."""
    names, listed = archive.namelist(), [member.path for member in manifest.files]
    for name in listed:
        if not _is_own(name, manifest.experiment):
            message = f"{name!r} is no file of an experiment: such a name may lead out of the store"
            raise BadInput(message, file=str(path), field="files")
    for of_one_kind in (names, listed):
        lower = [name.lower() for name in of_one_kind]
        if len(set(lower)) < len(lower):
            twice = next(name for name in of_one_kind if lower.count(name.lower()) > 1)
            raise BadInput(f"{twice!r} is there twice", file=str(path), field="files")
    if set(names) != {MANIFEST, *listed}:
        stray = sorted(set(names) ^ {MANIFEST, *listed})[0]
        where = "is not in the manifest" if stray in names else "is missing"
        raise Damaged(f"{stray!r} {where}", file=str(path), field="files")


def _check_sizes(path: Path, manifest: Manifest) -> None:
    if (total := sum(member.size_bytes for member in manifest.files)) > LARGEST_PACK_BYTES:
        message = f"its files have {total:,} bytes, and a pack has at most {LARGEST_PACK_BYTES:,}"
        raise BadInput(message, file=str(path), field="files")


def _is_own(name: str, experiment: str) -> bool:
    """Whether a name is that of a file of this experiment in a store."""
    folder, _, rest = name.partition("/")
    if folder == EXPERIMENTS:
        suffixes = (".json", SEALS_SUFFIX, LOOKS_SUFFIX)
        return _is_full_name(experiment) and rest in [experiment + suffix for suffix in suffixes]
    if folder == AUDITS:
        return re.fullmatch(r"[0-9a-f]{8,64}\.json", rest) is not None
    return is_run_id(folder) and (rest in RUN_FILES or ATTEMPT_FILE.fullmatch(rest) is not None)


def _is_full_name(experiment: str) -> bool:
    """Whether a text is the name of an experiment and its size, which the store checks too."""
    try:
        for part in experiment.rpartition("--")[::2]:
            check_name(part, "experiment")
    except BadInput:
        return False
    return True


def _content(path: Path, archive: zipfile.ZipFile, member: Member) -> bytes:
    """The bytes of a member. No more bytes are read than the manifest says, whatever the member unpacks to."""
    with archive.open(member.path) as handle:
        content = _read(handle, member.size_bytes, str(path))
    if hashlib.sha256(content).hexdigest() != member.sha256:
        raise Damaged(
            f"{member.path} is not what was packed (its SHA-256 differs)", file=str(path), hint="ask for it again"
        )
    return content


def _read(handle: IO[bytes], most_bytes: int, file: str) -> bytes:
    content = handle.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise Damaged(f"a member has more bytes than its {most_bytes:,}", file=file, field="files")
    return content


def _runs_of(contents: Mapping[str, bytes]) -> dict[str, dict[str, bytes]]:
    """The members of each run: run id -> name in the run's directory -> bytes."""
    runs: dict[str, dict[str, bytes]] = {}
    for place, content in contents.items():
        folder, _, name = place.partition("/")
        if folder not in (EXPERIMENTS, AUDITS):
            runs.setdefault(folder, {})[name] = content
    return runs


def _check_tables(root: Path, entry_place: str, contents: Mapping[str, bytes]) -> None:
    """Refuse an entry or a result that does not decode or is that of another name, and a run that the entry lacks.

    Args:
        root: the store or the pack; an error names a file in it.
    """
    entry = decode_entry(fsio.decoded_table(contents[entry_place], str(root / entry_place)), root / entry_place)
    if entry.full_name != Path(entry_place).name.removesuffix(".json"):
        raise Damaged(f"holds experiment {entry.full_name!r}", file=str(root / entry_place), field="name")
    runs = _runs_of(contents)
    if stray := sorted(set(runs) - _run_ids(entry)):
        raise Damaged(f"run {stray[0]} belongs to no arm of the experiment", file=str(root), field="files")
    for run_id, files in runs.items():
        if RESULT_FILE in files:
            place = root / run_id / RESULT_FILE
            result = decode_stored(Result, fsio.decoded_table(files[RESULT_FILE], str(place)), place)
            if result.run_id != run_id:
                raise Damaged(f"is the result of run {result.run_id}", file=str(place), field="run_id")


def _is_later(store: Store, path: Path, entries: str, contents: Mapping[str, bytes]) -> bool:
    """Whether the pack holds the same state of the experiment as the store, or a later one; False for an earlier one.

    Raises:
        BadInput: neither state can have become the other: seals or looks differ, each has a run that the other lacks, or the
            decision changed without a seal.
    """
    entry, *logs = (entries + suffix for suffix in (".json", SEALS_SUFFIX, LOOKS_SUFFIX))
    there = {place: store.root / place for place in (entry, *logs)}
    ours = {place: _read_file(file) if is_regular(file) else b"" for place, file in there.items()}
    theirs = {place: contents.get(place, b"") for place in there}
    if ours == theirs or not any(file.exists() for file in there.values()):
        return True
    if ours[entry] and _grew([*ours.values()], [*theirs.values()], store.root / entry):
        return True
    if ours[entry] and _grew([*theirs.values()], [*ours.values()], store.root / entry):
        return False
    hint = "unpack it into another store (--store), or rename the experiment there"
    raise BadInput(f"{store.root / entry} is there already and differs", file=str(path), field=entry, hint=hint)


def _grew(earlier: Sequence[bytes], later: Sequence[bytes], place: Path) -> bool:
    """Whether the second state of an experiment can have come from the first one by new runs, seals and looks alone.

    Args:
        earlier, later: the bytes of the entry, of the seals and of the looks.
        place: the entry's path in the store.
    """
    first, second = (decode_entry(fsio.decoded_table(state[0], str(place)), place) for state in (earlier, later))
    same = (first.question, first.created, first.source) == (second.question, second.created, second.source)
    planned = earlier[1] != later[1] or first.decision == second.decision
    compared = first.comparison in ("", second.comparison)
    appended = all(after.startswith(before) for before, after in zip(earlier[1:], later[1:], strict=True))
    return same and planned and compared and appended and _run_ids(first) <= _run_ids(second)


def _has_audit(store: Store, audit_hash: str) -> bool:
    """Whether the store has this audit and can read it."""
    try:
        return store.audit(audit_hash) is not None
    except Damaged:
        return False


def _is_present(store: Store, path: Path, run_id: str, files: Mapping[str, bytes]) -> bool:
    """Whether the store has this run with an equal result, or has begun a run that the pack has no result of.

    Raises:
        BadInput: the store has another result of this run.
        EnvironmentProblem: another process works on this run.
    """
    directory = store.run_directory(run_id)
    if not directory.exists():
        return False
    packed = files.get(RESULT_FILE)
    if packed is None:
        return True
    ended = store.ended(run_id)
    if ended is not None:
        ours = decode_stored(Result, fsio.decoded_table(packed, str(path)), path)
        if (ours.outcome, ours.scores, ours.weights_sha256) != (ended.outcome, ended.scores, ended.weights_sha256):
            message = f"{directory / RESULT_FILE} has other scores or weights than the run of the same id in the pack"
            raise BadInput(message, file=str(path), field=run_id, hint="unpack it into another store (--store)")
        return True
    owner, _ = holder(directory, Watch())
    if owner is not None:
        raise EnvironmentProblem(
            f"{owner} is working on this run", file=str(directory), hint="unpack when it has ended"
        )
    return False


def _write_run(store: Store, run_id: str, files: Mapping[str, bytes]) -> None:
    """Write the files of one run, its result last. Rows of an attempt that did not end are replaced by those of the pack."""
    directory = store.create().run_directory(run_id)
    fsio.make_directory(directory)
    if (hold := take(directory)) is None:
        raise EnvironmentProblem("another process is working on this run", file=str(directory))
    with hold:
        for stale in metrics_paths(directory):
            if stale.name not in files:
                fsio.remove(stale)
        for name in sorted(files, key=lambda name: (name == RESULT_FILE, name)):
            store.write_file(f"{run_id}/{name}", files[name])
