"""The question of each family of checks in plain words: the text of docs/checks.md, and the folded text in a report."""

from __future__ import annotations

import functools
import tomllib
from dataclasses import dataclass
from importlib import resources

from palinode.checks.laws import LAWS


@dataclass(frozen=True)
class Explanation:
    """One family of checks.

    Attributes:
        asks: the question of the family.
        how: the method that answers the question.
        blind: the faults that the family cannot see.
        time: how long the checks take.
        failure: how to read a failure.
    """

    code: str
    title: str
    asks: str
    how: str
    blind: str
    time: str
    failure: str

    @property
    def laws(self) -> dict[str, str]:
        """Check -> the law that must hold, for every check of the family."""
        return {check: law for check, law in LAWS.items() if code_of(check) == self.code}

    @property
    def rows(self) -> tuple[tuple[str, str], ...]:
        """The rows (heading, text), in the order of printing."""
        return (
            ("What it asks", self.asks),
            ("How", self.how),
            ("What it cannot see", self.blind),
            ("How long it takes", self.time),
            ("How to read a failure", self.failure),
        )


@functools.cache
def explanations() -> tuple[Explanation, ...]:
    """The explanation of every family, in order. The texts are in `explained.toml`: editing them measures no audit again."""
    texts = resources.files("palinode.checks").joinpath("explained.toml").read_text(encoding="utf-8")
    return tuple(Explanation(code, **fields) for code, fields in tomllib.loads(texts).items())


def code_of(check: str) -> str:
    """The family of a check: `C1` of `C1.perturbation`."""
    return check.partition(".")[0]


def explanation(code: str) -> Explanation | None:
    """The explanation of a family of checks; None for a code that is not in the table, such as the code of a user's own check."""
    return next((one for one in explanations() if one.code == code), None)
