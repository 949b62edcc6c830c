"""The user's settings, which are in no spec: config.toml, on most systems ~/.config/palinode/config.toml.

[store]
keep = "weights"    # of a run that is done: the last weights alone; default "all"

[executor.lab]      # `palinode run FILE --on lab`
kind = "slurm"      # local | slurm | ray
options = { partition = "gpu", timeout_min = 240 }
setup = ["source /shared/venv/bin/activate"]
processes = 4       # that share each run
parallel = "ddp"    # how: ddp | fsdp2
price_per_hour = 2.0   # of one worker

[prices]            # of an hour, by the name of the device, where no price_per_hour is given; "cpu" is a machine without a GPU
"NVIDIA A100-SXM4-80GB" = 1.8
currency = "EUR"
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import platformdirs

from palinode.base.errors import BadInput, did_you_mean, nearest

Keep = Literal["all", "weights"]
ExecutorKind = Literal["local", "slurm", "ray"]
TABLES: Mapping[str, tuple[str, ...]] = {
    "store": ("keep",),
    "executor": ("kind", "options", "setup", "processes", "parallel", "price_per_hour"),
}
CURRENCY = "currency"
WAYS = ("ddp", "fsdp2")
MOST_PROCESSES = 1024


@dataclass(frozen=True)
class ExecutorTable:
    """The table `[executor.NAME]`. The fields without a value in the file are those of `palinode run` without options."""

    kind: ExecutorKind
    options: Mapping[str, Any] = field(default_factory=dict)
    setup: Sequence[str] = ()
    processes: int = 1
    parallel: str | None = None
    price_per_hour: float | None = None


@dataclass(frozen=True)
class UserSettings:
    """What config.toml says.

    Attributes:
        keep: what is kept of the checkpoints of a run that is done: `all`, or the last `weights` without the optimizer's state.
        executors: name -> table.
        prices: name of a device -> the price of an hour.
        currency: the unit of all prices; empty without prices.
    """

    keep: Keep = "all"
    executors: Mapping[str, ExecutorTable] = field(default_factory=dict)
    prices: Mapping[str, float] = field(default_factory=dict)
    currency: str = ""


def configuration_path() -> Path:
    """The path of config.toml."""
    return Path(platformdirs.user_config_dir("palinode")) / "config.toml"


def kept_of_done_runs() -> Keep:
    """`UserSettings.keep`. Errors in other tables do not matter to a run.

    Raises:
        BadInput: the file is not TOML, or `store.keep` has another value.
    """
    path = configuration_path()
    return _keep(_read(path), path)


def user_settings(path: Path | None = None) -> UserSettings:
    """The settings of the user; the default is `configuration_path`.

    Raises:
        BadInput: a setting is not valid. The error names the file and the field.
    """
    path = path or configuration_path()
    content = _read(path)
    for key in content:
        if key not in (*TABLES, "prices"):
            raise BadInput(f"unknown key {key!r}", file=str(path), hint=did_you_mean(key, (*TABLES, "prices")))
    tables = _table(content, "executor", path)
    executors = {name: _executor(_table(tables, name, path, "executor."), name, path) for name in tables}
    prices = dict(_table(content, "prices", path))
    currency = prices.pop(CURRENCY, "")
    if not isinstance(currency, str) or (CURRENCY in content.get("prices", {}) and not currency.strip()):
        raise BadInput("must be a text", file=str(path), field="prices.currency", hint='such as currency = "EUR"')
    for name, price in prices.items():
        _check_price(price, path, f"prices.{name}")
    priced = [f"executor.{name}.price_per_hour" for name, one in executors.items() if one.price_per_hour is not None]
    if not currency and (places := [*(f"prices.{name}" for name in prices), *priced]):
        hint = 'add currency = "EUR" to the table [prices]'
        raise BadInput("is a price without a unit", file=str(path), field=places[0], hint=hint)
    return UserSettings(_keep(content, path), executors, prices, currency)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise BadInput(f"cannot be read: {error}", file=str(path)) from None


def _keep(content: Mapping[str, Any], path: Path) -> Keep:
    table = _table(content, "store", path)
    _check_keys(table, TABLES["store"], path, "store")
    keep: Keep | None = next((name for name in get_args(Keep) if name == table.get("keep", "all")), None)
    if keep is None:
        hint = nearest(str(table["keep"]), get_args(Keep)) or f"one of {', '.join(get_args(Keep))}"
        raise BadInput(f"{table['keep']!r} is not known", file=str(path), field="store.keep", hint=hint)
    return keep


def _executor(table: Mapping[str, Any], name: str, path: Path) -> ExecutorTable:
    place = f"executor.{name}"
    _check_keys(table, TABLES["executor"], path, place)
    kind: ExecutorKind | None = next((one for one in get_args(ExecutorKind) if one == table.get("kind")), None)
    if kind is None:
        message = f"{table.get('kind')!r} is none of {', '.join(get_args(ExecutorKind))}"
        raise BadInput(message, file=str(path), field=f"{place}.kind")
    setup = table.get("setup", [])
    if not (isinstance(setup, list) and all(isinstance(line, str) for line in setup)):
        raise BadInput("must be a list of shell commands", file=str(path), field=f"{place}.setup")
    processes, parallel = table.get("processes", 1), table.get("parallel")
    if not isinstance(processes, int) or isinstance(processes, bool) or not 1 <= processes <= MOST_PROCESSES:
        hint = f"a number from 1 to {MOST_PROCESSES}"
        raise BadInput(
            f"{processes!r} is no number of processes", file=str(path), field=f"{place}.processes", hint=hint
        )
    if parallel is not None and (parallel not in WAYS or processes == 1):
        why = f"{parallel!r} is none of {', '.join(WAYS)}" if parallel not in WAYS else "one process shares no run"
        raise BadInput(why, file=str(path), field=f"{place}.parallel")
    if (price := table.get("price_per_hour")) is not None:
        _check_price(price, path, f"{place}.price_per_hour")
    return ExecutorTable(kind, dict(_table(table, "options", path, f"{place}.")), setup, processes, parallel, price)


def _table(content: Mapping[str, Any], name: str, path: Path, before: str = "") -> Mapping[str, Any]:
    table = content.get(name, {})
    if not isinstance(table, dict):
        raise BadInput("is not a table", file=str(path), field=f"{before}{name}")
    return table


def _check_keys(table: Mapping[str, Any], keys: Sequence[str], path: Path, place: str) -> None:
    if stray := sorted(table.keys() - set(keys)):
        raise BadInput(f"unknown key {stray[0]!r}", file=str(path), field=place, hint=did_you_mean(stray[0], keys))


def _check_price(price: Any, path: Path, place: str) -> None:
    if not isinstance(price, int | float) or isinstance(price, bool) or not 0 <= price < math.inf:
        raise BadInput(f"{price!r} is no price of an hour", file=str(path), field=place, hint="a number, such as 1.8")
