"""The environment of a run: the versions of the packages that its numbers depend on. Its hash is part of the run's fingerprint.

The environment has torch, numpy, palinode, and every installed package that the code of the user's parts imports. It has no other
installed package: installing a notebook makes no new environment. Nothing is installed from the list; it says what was there.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import Any

from pydantic import BaseModel

import palinode
from palinode.base.config import USER_PREFIX, Part, installed_imports_of
from palinode.results.record import machine_kind
from palinode.spec.run_spec import RunSpec
from palinode.train.device import fingerprint, resolve_device

ALWAYS = ("numpy", "torch")
HASH_DIGITS = 16
ALONE: Mapping[str, str] = {}  # a run in one process has no items about processes


def environment(spec: RunSpec) -> tuple[str, str]:
    """The environment of a run in this process.

    Returns:
        (hash, text). The text has one line `name==version` for each package, sorted. The hash is the first 16 hex digits of the
        SHA-256 of the text.
    """
    imported = {name for cls in _user_classes(spec) for name in installed_imports_of(cls)}
    versions = {name: metadata.version(name) for name in ALWAYS} | {"palinode": palinode.__version__}
    for name in imported - versions.keys():
        versions |= {package: metadata.version(package) for package in _packages().get(name, ())}
    text = "".join(f"{name}=={version}\n" for name, version in sorted(versions.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_DIGITS], text


def kind_here(spec: RunSpec, runs_together: int = 1, shared: Mapping[str, str] = ALONE) -> str:
    """The kind of machine (`machine_kind`) that this host is for a run.

    Args:
        shared: the items of the fingerprint of a run that several processes share (`WorkedOn.fingerprint`).

    Raises:
        EnvironmentProblem: this host lacks the device of the run.
    """
    of_machine = {**fingerprint(resolve_device(spec.device)), "threads": spec.threads}
    return machine_kind({**of_machine, "environment": environment(spec)[0], "runs_together": runs_together, **shared})


def _user_classes(value: Any) -> Iterator[type[Part]]:
    """The user's classes among the parts of a spec, at every depth."""
    if isinstance(value, Part) and value.kind_name().startswith(USER_PREFIX):
        yield type(value)
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _user_classes(getattr(value, name))
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _user_classes(item)
    elif isinstance(value, tuple):
        for item in value:
            yield from _user_classes(item)


@functools.cache
def _packages() -> Mapping[str, list[str]]:
    """Top-level name -> the installed packages that have it. Reading all packages takes 0.1 s, so this is done once."""
    return metadata.packages_distributions()
