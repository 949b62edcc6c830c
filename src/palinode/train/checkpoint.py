"""A checkpoint is a directory of safetensors files and a manifest with their hashes. The manifest is written last.

`ckpt/step-N/{model.safetensors, optimizer.safetensors, manifest.json}`. A checkpoint without a manifest was cut short.
Loading verifies every hash and takes the newest undamaged checkpoint. A damaged checkpoint gives a message, and does not count as
one of the checkpoints to keep.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import load
from torch import Tensor, nn

from palinode.base import fsio
from palinode.base.config import Config, encode
from palinode.base.errors import Damaged
from palinode.results.files import decode_stored
from palinode.train.optim import Optimizers
from palinode.train.tensor_stream import pieces

CHECKPOINTS = "ckpt"  # the folder of the checkpoints in the directory of a run
MODEL_FILE, OPTIMIZER_FILE, MANIFEST_FILE = "model.safetensors", "optimizer.safetensors", "manifest.json"
FORMAT_VERSION = 3
READABLE_VERSIONS = (2, 3)  # manifests of version 2 have no seal of the rows


class Saved(Config):
    """The numbers of a checkpoint. The tensors of the checkpoint are in other files.

    Attributes:
        rows: the number and the hash of the run's rows of metrics before this checkpoint; empty in format 2.
        runs_together: the largest number of runs whose weights were stacked up to this step.
        processes: every number of processes that worked on the run up to this step, in the order of their first use; empty while
            it was always one.
        parallel: how they shared the run: `ddp`, `fsdp2`, in the order of their first use.
        stable: whether every longer run of the same settings may go on from this checkpoint (`spec/longer.py`).
    """

    run_id: str
    step: int
    counters: Mapping[str, int | float] = Field(default_factory=dict)
    objective_state: Mapping[str, int | float] = Field(default_factory=dict)
    recipe_state: Mapping[str, int | float] = Field(default_factory=dict)
    seconds: Mapping[str, int | float] = Field(default_factory=dict)
    rows: Mapping[str, int | str] = Field(default_factory=dict)
    runs_together: int = 1
    processes: tuple[int, ...] = ()
    parallel: tuple[str, ...] = ()
    stable: bool = False


class _Manifest(Saved):
    version: int
    files: Mapping[str, Mapping[str, int | str]]


def save_checkpoint(root: Path, saved: Saved, model: nn.Module, optimizers: Optimizers, keep: int) -> Path:
    """Write `root/step-N` durably, then delete all but the stable one and the newest `keep` undamaged checkpoints.

    Raises:
        Damaged: the directory of the checkpoints is a link.
    """
    directory = root / f"step-{saved.step}"
    for place in (root, directory):
        if place.is_symlink():
            raise Damaged("is a link; nothing is written through it", file=str(place))
    files = {name: _write(directory / name, tensors) for name, tensors in _tensors_of(model, optimizers).items()}
    fsio.write_table(directory / MANIFEST_FILE, {"version": FORMAT_VERSION, "files": files, **encode(saved)})
    _keep_newest(root, keep)
    return directory


def give_parts(model: nn.Module, optimizers: Optimizers) -> None:
    """Give this process's parts of the tensors to another process, which calls `save_checkpoint` at the same time."""
    for tensors in _tensors_of(model, optimizers).values():
        for _ in pieces(tensors):
            pass


def load_newest(
    root: Path,
    run_id: str,
    model: nn.Module,
    optimizers: Optimizers,
    check: Callable[[Saved], None] = lambda saved: None,
) -> tuple[Saved | None, list[str]]:
    """Restore model and optimizers from the newest undamaged checkpoint.

    Args:
        check: a function that raises Damaged for a checkpoint that does not fit the other files of the run.

    Returns:
        (numbers of the checkpoint, or None when no checkpoint can be used; one line for each newer checkpoint that is damaged)
    """
    problems: list[str] = []
    for directory in newest_first(root):
        try:
            return load_checkpoint(directory, run_id, model, optimizers, check), problems
        except Damaged as problem:
            problems.append(str(problem))
    return None, problems


def load_checkpoint(
    directory: Path,
    run_id: str,
    model: nn.Module,
    optimizers: Optimizers,
    check: Callable[[Saved], None] = lambda saved: None,
) -> Saved:
    """Restore model and optimizers from one checkpoint directory. `check` is that of `load_newest`.

    Raises:
        Damaged: a hash does not match, the checkpoint is of another run or keeps the weights alone, or the tensors do not fit.
    """
    saved, contents = _verified(directory)
    if saved.run_id != run_id:
        raise Damaged(f"checkpoint belongs to run {saved.run_id}, not {run_id}", file=str(directory))
    if OPTIMIZER_FILE not in contents:
        raise Damaged("keeps the weights alone, so training cannot go on from it", file=str(directory))
    check(saved)
    _load_model(directory, contents[MODEL_FILE], model)
    _load_optimizers(directory, contents[OPTIMIZER_FILE], model, optimizers)
    return saved


def delete_checkpoints(root: Path, after_step: int) -> None:
    """Delete the checkpoints of later steps. Training goes on from `after_step` and writes these checkpoints again."""
    for directory in newest_first(root):
        if int(directory.name.removeprefix("step-")) > after_step:
            shutil.rmtree(directory)


def keep_weights(root: Path) -> None:
    """Delete the optimizer state of the newest undamaged checkpoint, and all other checkpoints, for a run that is done.

    Training cannot go on from what is left; `load_weights` reads it.

    Raises:
        EnvironmentProblem: the manifest cannot be written, or a file cannot be deleted.
    """
    newest = next((directory for directory in newest_first(root) if is_whole(directory)), None)
    if newest is None:
        return
    manifest = fsio.read_table(newest / MANIFEST_FILE)
    files = {name: entry for name, entry in manifest["files"].items() if name != OPTIMIZER_FILE}
    fsio.write_table(newest / MANIFEST_FILE, {**manifest, "files": files})
    fsio.remove(newest / OPTIMIZER_FILE)
    for directory in newest_first(root):
        if directory != newest:
            shutil.rmtree(directory, ignore_errors=True)


def load_weights(directory: Path, model: nn.Module) -> Saved:
    """Load the weights of one checkpoint directory.

    Raises:
        Damaged: a hash does not match, or the tensors do not fit the model.
    """
    saved, contents = _verified(directory)
    _load_model(directory, contents[MODEL_FILE], model)
    return saved


def read_weights(directory: Path) -> tuple[Saved, dict[str, Tensor], str]:
    """The numbers, the tensors of the model and their hash (as `weights_sha256` gives it) of one checkpoint directory.

    Raises:
        Damaged: a hash does not match.
    """
    saved, contents = _verified(directory)
    return saved, load(contents[MODEL_FILE]), _sha256(contents[MODEL_FILE])


def weight_shapes(directory: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the model's tensors in one checkpoint directory. Only the head of the file is read.

    Raises:
        Damaged: the file is missing or is no safetensors file.
    """
    path = directory / MODEL_FILE
    try:
        with safe_open(path, framework="pt") as tensors:
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise Damaged("cannot be read", file=str(path)) from error


def is_whole(directory: Path) -> bool:
    """Whether this checkpoint exists and every hash in its manifest matches."""
    try:
        _verified(directory)
    except Damaged:
        return False
    return True


def newest_first(root: Path) -> list[Path]:
    """The checkpoint directories, newest step first. Links are left out: a link may lead to another run, or out of the store."""
    if root.is_symlink():
        return []
    steps = {path: path.name.removeprefix("step-") for path in root.glob("step-*") if not path.is_symlink()}
    return sorted((path for path in steps if steps[path].isdecimal()), key=lambda path: int(steps[path]), reverse=True)


def newest_saved(root: Path) -> Saved | None:
    """The numbers of the newest checkpoint whose manifest can be read; None if there is none. The tensors are not read."""
    for directory in newest_first(root):
        path = directory / MANIFEST_FILE
        with contextlib.suppress(Damaged):
            return decode_stored(_Manifest, fsio.read_table(path), path)
    return None


def weights_sha256(model: nn.Module) -> str:
    """SHA-256 of the model's tensors in safetensors form: equal bits give an equal hash.

    Where the tensors are cut over processes, every process makes this call.
    """
    digest = hashlib.sha256()
    for piece in pieces(model.state_dict()):
        digest.update(piece)
    return digest.hexdigest()


def _tensors_of(model: nn.Module, optimizers: Optimizers) -> dict[str, dict[str, Tensor]]:
    """File -> the tensors of a checkpoint."""
    return {MODEL_FILE: model.state_dict(), OPTIMIZER_FILE: dict(_optimizer_tensors(model, optimizers))}


def _write(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, str | int]:
    """Write a file of tensors, and return its entry in the manifest."""
    digest, size = hashlib.sha256(), 0
    with fsio.committed(path) as temporary, open(temporary, "wb") as handle:
        for piece in pieces(tensors):
            handle.write(piece)
            digest.update(piece)
            size += len(piece)
    return {"sha256": digest.hexdigest(), "bytes": size}


def _verified(directory: Path) -> tuple[Saved, dict[str, bytes]]:
    path = directory / MANIFEST_FILE
    manifest = decode_stored(_Manifest, fsio.read_table(path), path)
    if manifest.version not in READABLE_VERSIONS:
        raise Damaged(f"checkpoint format {manifest.version} is not {FORMAT_VERSION}", file=str(path))
    if f"step-{manifest.step}" != directory.name:
        raise Damaged(f"is of step {manifest.step}", file=str(path))
    contents = {}
    weights_alone = MODEL_FILE in manifest.files and OPTIMIZER_FILE not in manifest.files  # `keep_weights`
    for name in (MODEL_FILE,) if weights_alone else (MODEL_FILE, OPTIMIZER_FILE):
        contents[name] = _content(directory / name)
        if _sha256(contents[name]) != manifest.files.get(name, {}).get("sha256"):
            raise Damaged("hash does not match its manifest", file=str(directory / name))
    return manifest, contents


def _content(path: Path) -> bytes:
    """The bytes of a file; empty when the file is missing, is a link, or cannot be read."""
    try:
        return path.read_bytes() if path.is_file() and not path.is_symlink() else b""
    except OSError:
        return b""


def _load_model(directory: Path, content: bytes, model: nn.Module) -> None:
    try:
        model.load_state_dict(load(content))
    except (SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise Damaged(f"weights do not fit the model: {reason}", file=str(directory / MODEL_FILE)) from error


def _optimizer_tensors(model: nn.Module, optimizers: Optimizers) -> Iterator[tuple[str, Tensor]]:
    """Each state tensor with the name `<parameter name>/<state name>`. The names stay valid when the order of groups changes."""
    for name, parameter, optimizer in _owners(model, optimizers):
        for key, value in optimizer.state[parameter].items():
            yield f"{name}/{key}", torch.as_tensor(value)


def _load_optimizers(directory: Path, content: bytes, model: nn.Module, optimizers: Optimizers) -> None:
    owners = {name: (parameter, optimizer) for name, parameter, optimizer in _owners(model, optimizers)}
    for optimizer in optimizers:
        optimizer.state.clear()
    try:
        for key, value in load(content).items():
            name, _, state_name = key.rpartition("/")
            parameter, optimizer = owners[name]
            # Adam keeps its step counters on the CPU, whatever the device of the parameter.
            optimizer.state[parameter][state_name] = value if state_name == "step" else value.to(parameter.device)
    except (SafetensorError, KeyError, ValueError) as error:
        raise Damaged(f"optimizer state does not fit: {error}", file=str(directory / OPTIMIZER_FILE)) from error


def _owners(model: nn.Module, optimizers: Optimizers) -> Iterator[tuple[str, nn.Parameter, torch.optim.Optimizer]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                yield names[id(parameter)], parameter, optimizer


def _keep_newest(root: Path, keep: int) -> None:
    kept = 0
    for directory in newest_first(root):
        if kept == keep:
            if not _is_stable(directory):
                shutil.rmtree(directory, ignore_errors=True)
        else:
            kept += is_whole(directory)


def _is_stable(directory: Path) -> bool:
    """Whether the manifest of this checkpoint can be read, and says that longer runs may go on from it."""
    path = directory / MANIFEST_FILE
    try:
        return decode_stored(_Manifest, fsio.read_table(path), path).stable
    except Damaged:
        return False


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
