"""Two append-only files beside the entry of an experiment: what was planned before the first run, and when verdicts were seen.

    experiments/<name>--<size>.seals.jsonl      a line for each plan: the decision, the claims with what is predicted and
                                                promised, the seeds, the code
    experiments/<name>--<size>.looks.jsonl      a line for each look: the seeds so far, and the outcome of every verdict

Every seal holds the hash of the seal before it, so no seal can be changed or taken out without a change of all later hashes. A hash
proves the order only to people who were shown the hash at that time. The last line of a file may be torn, because a writer was
killed; it is left out, and `Appended.torn` says so. Any other damage is an error.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Generic, NamedTuple, TypeVar

from pydantic import Field

from palinode.base import fsio
from palinode.base.config import LATER, Config, canonical_json, identity
from palinode.base.decision import FIXED, SeedPlan
from palinode.base.errors import Damaged
from palinode.results.files import decode_stored, is_regular

R = TypeVar("R", bound=Config)
SEALS_SUFFIX, LOOKS_SUFFIX = ".seals.jsonl", ".looks.jsonl"
HASH = "sha256"
Settings = Mapping[str, Mapping[str, str]]


class Seal(Config):
    """One plan of an experiment, written down before the runs that it is about.

    Attributes:
        number: 1 for the first plan. A change of the plan adds the next number.
        created: the time of writing, in ISO 8601.
        decision: the decision rule as plain data, with the predicted effect.
        plan: the predicted cost of the runs, as in the experiment's entry.
        seeds: the seeds; with `seeds_planned` "until decided" the largest set of seeds.
        looks: the first and the largest number of seeds of the looks; empty for fixed seeds.
        settings: arm -> scale -> hash of the settings.
        code: kind of a part that the user wrote -> hash of its code, and `numerics_version` of this program.
        claims: the claims as plain data without their sentences, sources and notes. Seals of older versions have none.
        runs_ended: the number of planned runs that had ended before this seal was written. Above 0 in the first seal, the plan was
            not written down before these runs.
        previous: the hash of the seal before this one; empty for the first seal.
        sha256: the hash of `previous` and of all other fields of this seal.
    """

    number: int = Field(ge=1)
    created: str
    decision: Mapping[str, Any]
    plan: Mapping[str, Any] = Field(default_factory=dict)
    seeds: tuple[int, ...]
    seeds_planned: SeedPlan = FIXED
    looks: Mapping[str, int] = Field(default_factory=dict)
    settings: Settings = Field(default_factory=dict)
    code: Mapping[str, str | int] = Field(default_factory=dict)
    claims: Annotated[tuple[Mapping[str, Any], ...], LATER] = ()
    runs_ended: int = Field(default=0, ge=0)
    previous: str = ""
    sha256: str = ""

    def hashed(self) -> Seal:
        """This seal with its hash."""
        return self.with_(sha256=seal_hash(self))


class LookOutcome(Config):
    """The outcome of the verdict on one arm at one scale."""

    arm: str
    scale: str
    outcome: str


class Look(Config):
    """One look at the verdicts.

    Attributes:
        seeds: the seeds of the runs that the verdicts used.
        outcomes: the outcome of every verdict.
        runs: the ids of the runs: a look at none of the runs of an experiment is a look at other settings under the same name.
        created: the time of writing, in ISO 8601.
    """

    seeds: tuple[int, ...]
    outcomes: tuple[LookOutcome, ...]
    runs: tuple[str, ...] = ()
    created: str = ""


class Appended(NamedTuple, Generic[R]):
    """The rows of an appended file, and whether its last line was torn and left out."""

    rows: tuple[R, ...]
    torn: bool = False


def seal_hash(seal: Seal) -> str:
    """The SHA-256 (hex) of the hash of the seal before this one, followed by the JSON of this seal without its own hash."""
    body = {name: value for name, value in identity(seal).items() if name != HASH}
    return hashlib.sha256((seal.previous + canonical_json(body)).encode("utf-8", "backslashreplace")).hexdigest()


def read_seals(path: Path) -> Appended[Seal]:
    """The seals of an experiment, the first one first; none if the file does not exist.

    Two processes that begin at the same time may write the same number. The first line with a number counts.

    Raises:
        Damaged: a line is damaged, or its hash is not the hash of its content. The error names the file and the line.
    """
    stored = _read(path, Seal)
    seals: list[Seal] = []
    for line, seal in enumerate(stored.rows, start=1):
        before = ["", *(one.sha256 for one in seals)]
        is_in_chain = seal.number <= len(before) and seal.previous == before[seal.number - 1]
        if not is_in_chain or seal.sha256 != seal_hash(seal):
            message = "was changed since it was written: its hash is not that of its content and of the seal before"
            raise Damaged(message, file=str(path), field=f"line {line}")
        if seal.number == len(before):
            seals.append(seal)
    return Appended(tuple(seals), stored.torn)


def read_looks(path: Path) -> Appended[Look]:
    """The looks at an experiment, the first one first; none if the file does not exist.

    A look that two processes recorded at the same time counts once.

    Raises:
        Damaged: a line is damaged. The error names the file and the line.
    """
    stored = _read(path, Look)
    looks: dict[tuple[Any, ...], Look] = {}
    for look in stored.rows:
        looks.setdefault((look.seeds, look.outcomes, look.runs), look)
    return Appended(tuple(looks.values()), stored.torn)


def append(path: Path, row: Seal | Look) -> None:
    """Append a seal or a look, and wait until it is on the disk.

    Raises:
        EnvironmentProblem: the disk is full or read-only, or permission is missing.
    """
    is_new = not path.exists()
    fsio.append_line(path, identity(row))
    fsio.sync(path)
    if is_new:
        fsio.sync(path.parent)


def looks_at_other_seeds(looks: Iterable[Look], seeds: Iterable[int], run_ids: Iterable[str]) -> int:
    """The number of looks that used some of these runs, but other seeds than these."""
    own_seeds, own_runs = set(seeds), set(run_ids)
    return sum(set(look.seeds) != own_seeds and bool(own_runs & set(look.runs)) for look in looks)


def _read(path: Path, cls: type[R]) -> Appended[R]:
    if not path.is_symlink() and not path.exists():
        return Appended(())
    if not is_regular(path):
        raise Damaged("is not a regular file", file=str(path))
    stored = fsio.read_rows(path)
    if stored.damaged is not None:
        raise Damaged("is damaged", file=str(path), field=stored.damaged)
    rows = tuple(_decoded(cls, row, path, number) for number, row in enumerate(stored.rows, start=1))
    return Appended(rows, torn=_is_torn(path, len(rows)))


def _decoded(cls: type[R], row: Mapping[str, Any], path: Path, number: int) -> R:
    try:
        return decode_stored(cls, row, path)
    except Damaged as error:
        raise error.inside(f"line {number}") from None


def _is_torn(path: Path, rows: int) -> bool:
    """Whether the text after the last line end is the beginning of a row. Every line with a line end holds one whole row."""
    content = path.read_bytes()
    return not content.endswith(b"\n") and bool(content) and rows == content.count(b"\n")
