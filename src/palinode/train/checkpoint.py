"""Checkpoints: safetensors files, and a manifest with their hashes that is written last. A part of one never counts as one.

`ckpt/step-N/{model.safetensors, optimizer.safetensors, manifest.json}`. Loading verifies every hash and takes the newest
undamaged checkpoint. A damaged one is reported when it is passed over, and does not count among those to keep.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from palinode.base import fsio
from palinode.base.errors import Damaged

MODEL_FILE, OPTIMIZER_FILE, MANIFEST_FILE = "model.safetensors", "optimizer.safetensors", "manifest.json"
FORMAT_VERSION = 2


@dataclass
class Saved:
    """What a checkpoint holds besides tensors: plain numbers only.

    Attributes:
        runs_together: the largest number of runs whose weights were stacked up to this step.
    """

    run_id: str
    step: int
    counters: dict[str, float] = field(default_factory=dict)
    objective_state: dict[str, float] = field(default_factory=dict)
    recipe_state: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    runs_together: int = 1


def save_checkpoint(
    root: Path, saved: Saved, model: nn.Module, optimizers: list[torch.optim.Optimizer], keep: int
) -> Path:
    """Write `root/step-N` durably, then delete all but the newest `keep` undamaged checkpoints."""
    directory = root / f"step-{saved.step}"
    contents = {
        MODEL_FILE: save(_contiguous(model.state_dict())),
        OPTIMIZER_FILE: save(_contiguous(dict(_optimizer_tensors(model, optimizers)))),
    }
    for name, content in contents.items():
        fsio.write_bytes(directory / name, content)
    files = {name: {"sha256": _sha256(content), "bytes": len(content)} for name, content in contents.items()}
    fsio.write_json(directory / MANIFEST_FILE, {"version": FORMAT_VERSION, "files": files, **asdict(saved)})
    _keep_newest(root, keep)
    return directory


def load_newest(
    root: Path, run_id: str, model: nn.Module, optimizers: list[torch.optim.Optimizer]
) -> tuple[Saved | None, list[str]]:
    """Restore model and optimizers from the newest undamaged checkpoint.

    Returns:
        (its other contents, or None when there is nothing to resume from; one line for each damaged checkpoint passed over)
    """
    problems: list[str] = []
    for directory in newest_first(root):
        try:
            return _restore(directory, run_id, model, optimizers), problems
        except Damaged as problem:
            problems.append(str(problem))
    return None, problems


def delete_checkpoints(root: Path) -> None:
    """Delete all checkpoints, so that training starts again at step 0."""
    for directory in newest_first(root):
        shutil.rmtree(directory)


def load_weights(directory: Path, model: nn.Module) -> Saved:
    """Load the weights of one checkpoint directory.

    Raises:
        Damaged: a hash does not match, or the tensors do not fit the model.
    """
    saved, contents = _verified(directory)
    _load_model(directory, contents[MODEL_FILE], model)
    return saved


def is_whole(directory: Path) -> bool:
    """Whether this checkpoint exists and every hash of it matches."""
    try:
        _verified(directory)
    except Damaged:
        return False
    return True


def newest_first(root: Path) -> list[Path]:
    """Checkpoint directories, newest step first."""
    steps = {path: path.name.removeprefix("step-") for path in root.glob("step-*")}
    return sorted((path for path in steps if steps[path].isdigit()), key=lambda path: int(steps[path]), reverse=True)


def weights_sha256(model: nn.Module) -> str:
    """SHA-256 of the model's tensors in safetensors form: equal bits give an equal hash."""
    return _sha256(save(_contiguous(model.state_dict())))


def _restore(directory: Path, run_id: str, model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> Saved:
    saved, contents = _verified(directory)
    if saved.run_id != run_id:
        raise Damaged(f"checkpoint belongs to run {saved.run_id}, not {run_id}", file=str(directory))
    _load_model(directory, contents[MODEL_FILE], model)
    try:
        _load_optimizers(load(contents[OPTIMIZER_FILE]), model, optimizers)
    except (SafetensorError, KeyError, ValueError) as error:
        raise Damaged(f"optimizer state does not fit: {error}", file=str(directory / OPTIMIZER_FILE)) from error
    return saved


def _verified(directory: Path) -> tuple[Saved, dict[str, bytes]]:
    manifest = fsio.read_json(directory / MANIFEST_FILE)
    try:
        if manifest["version"] != FORMAT_VERSION:
            raise Damaged(f"checkpoint format {manifest['version']} is not {FORMAT_VERSION}", file=str(directory))
        names = ("run_id", "step", "counters", "objective_state", "recipe_state", "seconds")
        saved = Saved(**{name: manifest[name] for name in names}, runs_together=manifest.get("runs_together", 1))
        hashes = {name: manifest["files"][name]["sha256"] for name in (MODEL_FILE, OPTIMIZER_FILE)}
    except (KeyError, TypeError) as error:
        raise Damaged(f"manifest lacks {error}", file=str(directory / MANIFEST_FILE)) from error
    contents = {}
    for name, expected in hashes.items():
        path = directory / name
        contents[name] = path.read_bytes() if path.is_file() else b""
        if _sha256(contents[name]) != expected:
            raise Damaged("hash does not match its manifest", file=str(path))
    return saved, contents


def _load_model(directory: Path, content: bytes, model: nn.Module) -> None:
    try:
        model.load_state_dict(load(content))
    except (SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise Damaged(f"weights do not fit the model: {reason}", file=str(directory / MODEL_FILE)) from error


def _optimizer_tensors(model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> Iterator[tuple[str, Tensor]]:
    """Each state tensor under `<parameter name>/<state name>`; names stay valid when the order of groups changes."""
    for name, parameter, optimizer in _owners(model, optimizers):
        for key, value in optimizer.state[parameter].items():
            yield f"{name}/{key}", torch.as_tensor(value)


def _load_optimizers(tensors: Mapping[str, Tensor], model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> None:
    owners = {name: (parameter, optimizer) for name, parameter, optimizer in _owners(model, optimizers)}
    for optimizer in optimizers:
        optimizer.state.clear()
    for key, value in tensors.items():
        name, _, state_name = key.rpartition("/")
        parameter, optimizer = owners[name]
        # Adam keeps its step counters on the CPU, whatever the device of the parameter.
        optimizer.state[parameter][state_name] = value if state_name == "step" else value.to(parameter.device)


def _owners(
    model: nn.Module, optimizers: list[torch.optim.Optimizer]
) -> Iterator[tuple[str, nn.Parameter, torch.optim.Optimizer]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                yield names[id(parameter)], parameter, optimizer


def _contiguous(tensors: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}


def _keep_newest(root: Path, keep: int) -> None:
    kept = 0
    for directory in newest_first(root):
        if kept == keep:
            shutil.rmtree(directory, ignore_errors=True)
        else:
            kept += is_whole(directory)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
