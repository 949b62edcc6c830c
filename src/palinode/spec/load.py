"""Read an experiment from a Python file, a TOML file or a JSON file.

.py    defines `experiment = Experiment(...)`, and the user's own classes
.toml  an experiment made of built-in parts
.json  the same as TOML; or the spec.json of a run; or the entry of an experiment in a store, whose runs are not resolved again
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from palinode.base import fsio
from palinode.base.config import decode
from palinode.base.decision import UNTIL_DECIDED, Decision
from palinode.base.errors import BadInput, Damaged, PalinodeError
from palinode.base.measures import OWN, Metric
from palinode.results.store import decode_entry
from palinode.spec.code import Code, code_for_spec, run_file, user_kinds
from palinode.spec.experiment import Arm, Experiment, ResolvedExperiment, ResolvedRun
from palinode.spec.grid import seeds_until_decided
from palinode.spec.names import checked, good_seeds
from palinode.spec.run_spec import RunSpec
from palinode.spec.start import with_seed
from palinode.spec.text import parse_json, parse_toml, read_text

SPEC_FILE = "spec.json"
FIRST_NUMERICS = (
    1  # the numerics version of specs that do not name one: every program that left it out computed with version 1
)
EXPERIMENT_NAME = "experiment"  # the name that a Python file must define


@dataclass(frozen=True)
class Source:
    """A loaded experiment, ready to be resolved.

    Attributes:
        file: the path as the user gave it; errors name this path.
        experiment: the experiment; None if the file holds an experiment that is already resolved.
        fixed: the experiment of a file that holds a resolved experiment; None for other files.
        code: the user's Python code that defines some parts of the experiment; None when all parts are built in.
    """

    file: str
    experiment: Experiment | None
    fixed: ResolvedExperiment | None = None
    code: Code | None = None

    def resolve(
        self,
        size: str | None = None,
        overrides: Mapping[str, Any] | None = None,
        seeds: str | None = None,
        *,
        runs_limit: int | None = None,
    ) -> ResolvedExperiment:
        """The runs, with the options of the command line applied; `parse_seeds` reads `seeds`.

        Raises:
            BadInput: the experiment or an option is not valid; the error names this file and the field.
        """
        try:
            if self.experiment is None:
                assert self.fixed is not None
                for option, value in (("--size", size), ("--set", overrides), ("--seeds", seeds)):
                    if value:
                        raise BadInput("a resolved experiment takes no changes", field=option)
                return self.fixed
            own = self.experiment.sizes[size].seeds if size is not None and size in self.experiment.sizes else None
            planned = own or self.experiment.seeds
            if planned == UNTIL_DECIDED:
                planned = seeds_until_decided(self.experiment.decision)
            chosen = parse_seeds(seeds, planned) if seeds is not None else None
            return self.experiment.resolve(size, overrides, chosen, runs_limit=runs_limit)
        except PalinodeError as error:
            raise error.at(file=self.file) from None


def load(path: Path, *, code_file: Path | None = None, allow_code: bool = False) -> Source:
    """Read an experiment file.

    Args:
        code_file: the user's own file with the parts that a stored spec names (`--code`).
        allow_code: run the code that a stored spec names.

    Raises:
        BadInput: the file is not valid; the error names the file, and the field or line.
    """
    suffix = path.suffix.lower()
    if code_file is not None and suffix != ".json":
        raise BadInput("is for the spec of a run or of an experiment in a store", file=str(path), field="--code")
    if suffix in (".yaml", ".yml"):
        raise BadInput("YAML is not read", file=str(path), hint="write the experiment as TOML or Python")
    if suffix not in (".py", ".toml", ".json"):
        text = "a directory is not an experiment" if path.is_dir() else f"unknown kind of file {suffix or path.name!r}"
        raise BadInput(text, file=str(path), hint="an experiment is a .py, .toml or .json file")
    if suffix == ".py":
        return _from_python(path)
    text = read_text(path)
    if suffix == ".toml":
        return Source(str(path), decode(Experiment, parse_toml(text, str(path)), file=str(path)))
    data = fsio.unsealed(parse_json(text, str(path)), str(path))
    if "runs" in data and "base" not in data:
        return _from_entry(data, path, code_file, allow_code=allow_code)
    if "seed" in data and "arms" not in data:
        return _from_run_spec(data, path, code_file, allow_code=allow_code)
    return Source(str(path), decode(Experiment, data, file=str(path)))


def load_run(directory: Path, *, code_file: Path | None = None, allow_code: bool = False) -> RunSpec:
    """The spec of a run in a store. The user's code that the spec needs is run first; the arguments are those of `load`.

    Raises:
        Damaged: the file of the spec cannot be read, or the file holds the spec of another run.
        BadInput: the spec does not decode, or its code may not be run.
    """
    return _stored_run(directory, code_file, allow_code=allow_code)[0]


def parse_seeds(text: str, own: tuple[int, ...]) -> tuple[int, ...]:
    """Read `--seeds`: a list such as `1,2,3`, or one number n for the first n seeds of the experiment.

    When the experiment has fewer than n seeds, the further seeds are the numbers after its largest seed.

    Raises:
        BadInput: the text is neither a list nor a number, or a seed is out of range or repeated.
    """
    steps = [step.strip() for step in text.split(",") if step.strip()]
    if not steps or not all(step.lstrip("-").isdecimal() and step.isascii() and len(step) < 25 for step in steps):
        hint = "such as 1,2,3, or a number of seeds"
        raise BadInput(f"{text[:40]!r} is not a list of seeds", field="--seeds", hint=hint)
    seeds = tuple(int(step) for step in steps)
    if "," not in text:
        count = seeds[0]
        if not 1 <= count <= 10**6:
            raise BadInput(f"{count} is not a number of seeds", field="--seeds")
        further = (seed for seed in range(max(own) + 1, max(own) + 1 + count))
        seeds = (*own, *further)[:count]
    return checked(good_seeds, seeds, field="--seeds")


def parse_overrides(texts: Sequence[str]) -> dict[str, Any]:
    """Read the `name.of.field=value` texts of `--set`.

    Returns:
        dotted path -> value. A value is read as TOML, `null` as None, and a value that is not TOML as text.

    Raises:
        BadInput: a text is not name=value, or a name is repeated.
    """
    overrides: dict[str, Any] = {}
    for text in texts:
        path, equals, value = text.partition("=")
        if not equals or not path.strip() or not all(step.strip() for step in path.split(".")):
            raise BadInput(f"{text[:60]!r} is not name=value", field="--set", hint="such as --set recipe.steps=100")
        if (path := path.strip()) in overrides:
            raise BadInput(f"{path!r} is given twice", field="--set")
        overrides[path] = _value(value.strip())
    return overrides


def _value(text: str) -> Any:
    if text == "null":
        return None
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return parsed["value"] if list(parsed) == ["value"] else text


def _from_python(path: Path) -> Source:
    code = run_file(path)
    experiment = code.names.get(EXPERIMENT_NAME)
    if not isinstance(experiment, Experiment):
        others = [name for name, value in code.names.items() if isinstance(value, Experiment)]
        hint = f"name it experiment, not {others[0]}" if others else f"write {EXPERIMENT_NAME} = Experiment(...)"
        what = "defines no experiment" if experiment is None else f"experiment is a {type(experiment).__name__}"
        raise BadInput(what, file=str(path), field=EXPERIMENT_NAME, hint=hint)
    return Source(str(path), experiment, code=code if code.user_parts else None)


def _from_run_spec(data: dict[str, Any], path: Path, code_file: Path | None, *, allow_code: bool) -> Source:
    spec, code = _run_spec(data, path, code_file, allow_code=allow_code)
    direction = spec.evaluation.directions[0] if spec.objective.reads_in_a_direction else OWN
    experiment = Experiment(
        name=f"run-{spec.run_id}",
        question="One run, again.",
        base=spec.settings,
        arms=(Arm(name="run"),),
        decision=Decision(baseline="run", metric=str(Metric(spec.evaluation.split, direction, "nats_per_token"))),
        seeds=(spec.seed,),
    )
    return Source(str(path), experiment, code=code)


def _stored_run(directory: Path, code_file: Path | None, *, allow_code: bool) -> tuple[RunSpec, Code | None]:
    """The spec in a run's directory. The id of the spec must be the directory's name: the weights were trained with this spec."""
    path = directory / SPEC_FILE
    try:
        data = fsio.unsealed(parse_json(read_text(path), str(path)), str(path))
    except BadInput as error:
        raise Damaged(error.message, file=str(path), field=error.field) from None
    spec, code = _run_spec(data, path, code_file, allow_code=allow_code)
    if spec.run_id != (run_id := directory.absolute().name):
        hint = "it was changed, or another version of palinode wrote it"
        raise Damaged(f"holds the spec of run {spec.run_id}, not {run_id}", file=str(path), hint=hint)
    return spec, code


def _run_spec(
    data: dict[str, Any], path: Path, code_file: Path | None, *, allow_code: bool
) -> tuple[RunSpec, Code | None]:
    code = code_for_spec(path, named=code_file, allow_code=allow_code) if user_kinds(data) else None
    data = {"numerics_version": FIRST_NUMERICS, **data}
    return decode(RunSpec, data, file=str(path), user_parts=code.user_parts if code else {}), code


def _from_entry(data: dict[str, Any], path: Path, code_file: Path | None, *, allow_code: bool) -> Source:
    """Read an experiment's entry in a store. The specs are in the directories of the runs. Every cell has a run of every seed."""
    entry = decode_entry(data, path)
    store = path.resolve().parent.parent
    runs: list[ResolvedRun] = []
    needed: Code | None = None
    for run in entry.runs:
        spec, code = _stored_run(store / run.run_id, code_file, allow_code=allow_code)
        runs.append(ResolvedRun(arm=run.arm, scale=run.scale, spec=spec))
        needed = needed or code
    arms = [arm.name for arm in entry.arms]
    places = sorted((run.arm, run.scale, run.seed) for run in runs)
    if not runs or places != sorted(product(arms, entry.scales, entry.seeds)):
        planned = f"not the {len(arms)} arms x {len(entry.scales)} scales x {len(entry.seeds)} seeds"
        raise Damaged(f"these are {planned}" if runs else "there are none", file=str(path), field="runs")
    try:
        decision = entry.rule
    except BadInput as error:
        raise Damaged(error.message, file=str(path), field=error.field, hint=error.hint) from None
    seeds = entry.seeds
    if entry.seeds_planned == UNTIL_DECIDED:  # the same command goes on with the seeds that are not in the entry yet
        seeds = seeds_until_decided(decision)
        first = [run for run in runs if run.seed == seeds[0]]
        later = [seed for seed in seeds if seed not in entry.seeds]
        runs += [with_seed(run, seed, first) for seed in later for run in first]
    fixed = ResolvedExperiment(
        name=entry.name,
        size=entry.size,
        question=entry.question,
        about=entry.about,
        decision=decision,
        arms=entry.arms,
        scales=entry.scales,
        seeds=seeds,
        runs=tuple(runs),
        claims=entry.claims,
        seeds_planned=entry.seeds_planned,
    )
    return Source(str(path), None, fixed=fixed, code=needed)
