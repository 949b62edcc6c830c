"""`palinode doctor`: check that this machine can run experiments."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import typer

from palinode.cli import options
from palinode.cli.options import as_json
from palinode.cli.texttable import text_table

LEAST_FREE_BYTES = 2 * 10**9
PACKAGES = ("torch", "pydantic", "numpy", "scipy", "safetensors", "tokenizers", "polars", "altair")
OFFLINE_VARIABLES = ("HF_HUB_OFFLINE", "HF_HOME", "PALINODE_CACHE", "PALINODE_DATA", "PALINODE_STORE")
State = Literal["ok", "note", "problem"]
Line = tuple[State, str, str]


def doctor(store: options.StorePath = options.DEFAULT_STORE, json: options.Json = False) -> int:
    """Check versions, cores, memory, disk, GPU, cache and store. Exit 5 when something will not work."""
    lines = [*_packages(), *_machine(), *_places(store), *_environment()]
    if json:
        typer.echo(as_json([{"state": state, "what": what, "found": found} for state, what, found in lines]))
    else:
        typer.echo(text_table(("", "what", "found"), [list(line) for line in lines]))
    return 5 if any(state == "problem" for state, _, _ in lines) else 0


def versions() -> str:
    """The versions of Palinode, torch and Python, found without importing torch."""
    torch = _version("torch") or "missing"
    return f"palinode {_version('palinode') or '?'}, torch {torch}, Python {platform.python_version()}"


def _version(package: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _packages() -> Iterator[Line]:
    yield "ok", "palinode", f"{_version('palinode')}, Python {platform.python_version()}"
    for package in PACKAGES:
        found = _version(package)
        yield ("ok" if found else "problem"), package, found or "missing"
    found, hint = _version("datasets"), "missing: `palinode data get` needs pip install 'palinode[hf]'"
    yield ("ok" if found else "note"), "datasets", found or hint


def _machine() -> Iterator[Line]:
    import torch

    from palinode.experiment.cells import machine_memory_bytes
    from palinode.sweep.local import usable_cores
    from palinode.sweep.nursery import why_none

    yield "ok", "cores", f"{usable_cores()} ({torch.backends.cpu.get_cpu_capability()})"
    if (memory := machine_memory_bytes()) is not None:
        yield "ok", "memory", f"{memory / 1e9:.1f} GB"
    yield _kept_memory()
    yield _bfloat16()
    reason = why_none()
    yield ("note", "workers", f"started one by one: {reason}") if reason else ("ok", "workers", "forked by one process")
    if torch.cuda.is_available():
        yield "ok", "GPU", ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
    else:
        yield "note", "GPU", 'none: use device = "cpu" or "auto"'


def _kept_memory() -> Line:
    from palinode.base.memory import why_no_huge_pages, why_not_kept

    if (reason := why_not_kept()) is not None:
        return "note", "freed memory", f"returned by each step, slower: {reason}"
    if (reason := why_no_huge_pages()) is not None:
        return "note", "freed memory", f"kept, in small pages: {reason}"
    return "ok", "freed memory", "kept by the process, in huge pages"


def _bfloat16() -> Line:
    from palinode.train.device import computes_bfloat16

    found = {True: "computed by this CPU", False: "emulated on this CPU: much slower", None: "unknown on this CPU"}
    return ("ok" if computes_bfloat16() else "note"), "bfloat16", found[computes_bfloat16()]


def _places(store: Path) -> Iterator[Line]:
    from palinode.data.cache import cache_directory

    for what, directory in (("store", store), ("cache", cache_directory())):
        existing = next(place for place in (directory, *directory.absolute().parents) if place.exists())
        free = shutil.disk_usage(existing).free
        writable = existing.is_dir() and os.access(existing, os.W_OK)
        state: State = "problem" if not writable else "note" if free < LEAST_FREE_BYTES else "ok"
        yield state, what, f"{directory}: {free / 1e9:.1f} GB free{'' if writable else ', cannot be written'}"


def _environment() -> Iterator[Line]:
    for name in OFFLINE_VARIABLES:
        if name in os.environ:
            yield "note", name, os.environ[name]
