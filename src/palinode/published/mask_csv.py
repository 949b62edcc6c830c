"""The reader of the published results of the mask system: a CSV file with one trained model in each row, whose curves are lists.

The file is not trusted: no cell is evaluated as code, every number must be finite, and the lists of one group of columns must
be equally long. An error names file, line and column. The file says forward and backward (fw, bw); this module returns ltr and
rtl.

Not all of the author's tables have the same columns. The oldest table lacks the columns of the layer cut and the column
`use_extra_tokens`; its models got no direction token. One table has the column `num_heads`; in the other tables every model has
one head.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from palinode.base.errors import BadInput, nearest

FORMAT = "mask-csv"
LARGEST_BYTES = 2**30  # the published file has 4 MB
LARGEST_CELL_CHARACTERS = 2**28
LARGEST_WHOLE, LARGEST_REAL = 2**53, 1e300  # above 2**53 a float cannot hold every whole number
MASKS = ("bidirectional", "forward", "backward")

# Each mapping is a group: name of a curve -> its column. All lists of one group have the same length.
TRAIN = {
    "steps": "steps_train",
    "tokens_read": "tokens_seen_train",
    "epochs": "epochs_train",
    "nats": "train_losses",
    "accuracy": "train_accs",
}
EVAL = {
    "steps": "steps_val",
    "tokens_read": "tokens_seen_val",
    "epochs": "epochs_val",
    "seconds": "cumulative_times_val",
}
EVAL_SCORES = {"nats_per_token": "val_losses_{}", "accuracy": "val_accs_{}", "perplexity": "val_pplxs_{}"}
CUT_SCORES = {"nats_per_token": "cut_losses_{}", "accuracy": "cut_accs_{}", "perplexity": "cut_pplxs_{}"}
DIRECTIONS = {"ltr": "fw", "rtl": "bw"}
REMOVED, PROBABILITIES = "n_layers_removed", "backward_probs"
# column -> field of MaskRow
WHOLE = {"depth": "depth", "width": "width", "num_params": "parameters", "run_num": "run_number", "seed": "seed"}
REAL = {"model_scale": "model_scale", "initial_backward_prob": "probability"}
FINAL_NATS = "final_val_loss_{}"
DIRECTION_TOKENS, HEADS = "use_extra_tokens", "num_heads"  # columns that only some tables have
WHOLE_LISTS = ("steps_train", "steps_val", "tokens_seen_train", "tokens_seen_val", REMOVED)


@dataclass(frozen=True)
class _Kind:
    """A kind of number: its name in errors, the function that reads it from text, and the values that are accepted."""

    words: str
    read: Callable[[Any], Any]
    accepts: Callable[[Any], bool]


WHOLE_NUMBER = _Kind("a whole number from 0 on", int, lambda value: type(value) is int and 0 <= value < LARGEST_WHOLE)
REAL_NUMBER = _Kind("a finite number", float, lambda value: type(value) in (int, float) and abs(value) < LARGEST_REAL)


@dataclass(frozen=True)
class MaskRow:
    """One trained model of the published table.

    Attributes:
        line: the line of the file where its row begins.
        mask: the directions of training: `bidirectional` means both directions, `forward` and `backward` mean one direction.
        probability: the probability, at the start of training, that a window is also read rtl; if `adjusted` is true, it
            changes during training.
        direction_tokens: whether a token in the input told the model the direction of reading.
        lists: the lists of numbers in the cells of the row: column -> numbers.
    """

    line: int
    depth: int
    width: int
    heads: int
    parameters: int
    seed: int
    run_number: int
    mask: str
    probability: float
    adjusted: bool
    direction_tokens: bool
    model_scale: float
    final_nats: Mapping[str, float]
    lists: Mapping[str, tuple[float, ...]]

    @property
    def scale(self) -> str:
        """The name of the scale, blocks x width: `16x768`, or `16x768, 4 heads` if the model has more heads than the usual 1."""
        return f"{self.depth}x{self.width}" + ("" if self.heads == 1 else f", {self.heads} heads")

    @property
    def directions(self) -> tuple[str, ...]:
        """The directions in which the model was trained."""
        if self.mask == "bidirectional":
            return ("ltr", "rtl") if self.probability > 0 or self.adjusted else ("ltr",)
        return ("ltr",) if self.mask == "forward" else ("rtl",)

    def scores(self, direction: str, index: int) -> dict[str, float]:
        """The scores of one evaluation of the model in one direction."""
        return {name: self.lists[place.format(DIRECTIONS[direction])][index] for name, place in EVAL_SCORES.items()}

    def cuts(self, direction: str) -> list[dict[str, float | int]]:
        """The scores of the model that keeps only its first 1, 2, .. blocks; an empty list for a table without layer cuts.

        The scores of the model with all blocks are the scores of its last evaluation.
        """
        if REMOVED not in self.lists:
            return []
        fields = {name: self.lists[place.format(DIRECTIONS[direction])] for name, place in CUT_SCORES.items()}
        left = [self.depth - int(removed) for removed in self.lists[REMOVED]]
        cuts: list[dict[str, float | int]] = [{"blocks": self.depth, **self.scores(direction, -1)}]
        for index, blocks in enumerate(left):
            cuts.append({"blocks": blocks} | {name: values[index] for name, values in fields.items()})
        return sorted(cuts, key=lambda cut: cut["blocks"])


@dataclass(frozen=True)
class MaskFile:
    """Every row of the file, the name of the file, and the SHA-256 (hex) of the bytes of the file."""

    path: Path
    sha256: str
    rows: tuple[MaskRow, ...]

    @property
    def source(self) -> dict[str, str]:
        """The source that a record names for an imported run: format, file name and SHA-256 of the file."""
        return {"format": FORMAT, "file": self.path.name, "sha256": self.sha256}


def _both_ways(places: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(place.format(way) for way in DIRECTIONS.values() for place in places.values())


# The columns that hold lists. The lists of one group must be equally long.
ALWAYS = (tuple(TRAIN.values()), (*EVAL.values(), *_both_ways(EVAL_SCORES)), (PROBABILITIES,))
CUTS = (REMOVED, *_both_ways(CUT_SCORES))
COLUMNS = (
    *(*WHOLE, *(FINAL_NATS.format(way) for way in DIRECTIONS.values()), *REAL, "adjust_backward_prob", "mask"),
    *(column for group in ALWAYS for column in group),
)


def read_mask_csv(path: Path) -> MaskFile:
    """Read and check the whole file.

    Raises:
        BadInput: a cell or the header is wrong; the message names file, line and column of the first error.
    """
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise BadInput(f"holds more than {LARGEST_BYTES >> 20} MiB", file=str(path))
        content = path.read_bytes()
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise BadInput(f"cannot be read: {error.strerror}", file=str(path)) from error
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise BadInput("is not UTF-8 text", file=str(path), field=f"line {line}") from error
    rows = tuple(_row(cells) for cells in _cells(text, str(path)))
    if not rows:
        raise BadInput("holds no rows", file=str(path), field="line 1" if not text.strip() else "line 2")
    return MaskFile(path, hashlib.sha256(content).hexdigest(), rows)


@dataclass(frozen=True)
class _Cells:
    """One row of the file: its cells as a mapping (column -> text), and the line where the row begins."""

    file: str
    line: int
    texts: Mapping[str, str]

    def refuse(self, column: str, message: str) -> NoReturn:
        raise BadInput(message, file=self.file, field=f"line {self.line}, column {column}")

    def number(self, column: str, kind: _Kind) -> Any:
        text = self.texts[column].strip()
        try:
            value = kind.read(text)
        except ValueError:
            value = None
        if not kind.accepts(value):
            self.refuse(column, f"{text[:20]!r} is not {kind.words}")
        return value

    def numbers(self, column: str, kind: _Kind) -> tuple[float, ...]:
        try:
            values = json.loads(self.texts[column], parse_constant=_refuse_constant)
        except (ValueError, RecursionError):
            self.refuse(column, "is not a list of finite numbers")
        if not isinstance(values, list):
            self.refuse(column, "is not a list")
        for value in values:
            if not kind.accepts(value):
                self.refuse(column, f"holds {str(value)[:20]}, which is not {kind.words}")
        return tuple(map(kind.read, values))

    def flag(self, column: str) -> bool:
        text = self.texts[column].strip()
        if text.lower() not in ("true", "false"):
            self.refuse(column, f"{text[:20]!r} is neither true nor false")
        return text.lower() == "true"


def _cells(text: str, file: str) -> Iterator[_Cells]:
    """The rows of the file below its header."""
    with _long_cells():
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        line, header = 1, None
        try:
            for texts in reader:
                if header is None:
                    header = _header(texts, file)
                elif texts:
                    if len(texts) != len(header):
                        message = f"has {len(texts)} cells, the header {len(header)}"
                        raise BadInput(
                            message, file=file, field=f"line {line}, column {min(len(texts), len(header)) + 1}"
                        )
                    yield _Cells(file, line, dict(zip(header, texts, strict=True)))
                line = reader.line_num + 1
        except csv.Error as error:
            raise BadInput(f"is not CSV: {error}", file=file, field=f"line {line}") from error


def _header(names: Sequence[str], file: str) -> list[str]:
    given = [name.strip() for name in names]
    cuts = CUTS if set(CUTS) & set(given) else ()  # a table has all columns of the layer cut or none of them
    optional = [name for name in (DIRECTION_TOKENS, HEADS) if name in given]
    for name in (*COLUMNS, *cuts, *optional):
        if given.count(name) != 1:
            wrong = "is missing" if name not in given else "is there twice"
            raise BadInput(wrong, file=file, field=f"line 1, column {name}", hint=nearest(name, given))
    return given


def _row(cells: _Cells) -> MaskRow:
    columns = WHOLE | ({HEADS: "heads"} if HEADS in cells.texts else {})
    whole = {field: cells.number(column, WHOLE_NUMBER) for column, field in columns.items()}
    final_nats = {name: cells.number(FINAL_NATS.format(way), REAL_NUMBER) for name, way in DIRECTIONS.items()}
    real = {field: cells.number(column, REAL_NUMBER) for column, field in REAL.items()}
    groups = (*ALWAYS, *((CUTS,) if REMOVED in cells.texts else ()))
    lists = {
        column: cells.numbers(column, WHOLE_NUMBER if column in WHOLE_LISTS else REAL_NUMBER)
        for group in groups
        for column in group
    }
    for column, field in columns.items():
        if field not in ("seed", "run_number") and whole[field] < 1:
            cells.refuse(column, f"must be at least 1, is {whole[field]}")
    if not 0 <= real["probability"] <= 1:
        cells.refuse("initial_backward_prob", "is not a probability")
    _check_lists(cells, lists, groups, whole["depth"])
    if (mask := cells.texts["mask"].strip()) not in MASKS:
        cells.refuse("mask", f"{mask[:20]!r} is none of {', '.join(MASKS)}")
    return MaskRow(
        line=cells.line,
        mask=mask,
        adjusted=cells.flag("adjust_backward_prob"),
        direction_tokens=DIRECTION_TOKENS in cells.texts and cells.flag(DIRECTION_TOKENS),
        final_nats=final_nats,
        lists=lists,
        **{"heads": 1} | whole,
        **real,
    )


def _check_lists(
    cells: _Cells, lists: Mapping[str, tuple[float, ...]], groups: Sequence[tuple[str, ...]], depth: int
) -> None:
    """Check that lists of a group are equally long, steps grow, layer cuts keep a block, and shares are between 0 and 1."""
    for first, *others in groups:
        for name in others:
            if len(lists[name]) != len(lists[first]):
                cells.refuse(name, f"holds {len(lists[name])} numbers, {first} {len(lists[first])}")
    if not lists["steps_val"]:
        cells.refuse("steps_val", "is empty: the model was never evaluated")
    growing = ("steps_train", "steps_val", REMOVED)
    for name in (column for column in growing if column in lists):
        if any(after <= before for before, after in zip(lists[name], lists[name][1:], strict=False)):
            cells.refuse(name, "does not grow")
    if any(not 1 <= removed < depth for removed in lists.get(REMOVED, ())):
        cells.refuse(REMOVED, f"must leave at least one of {depth} blocks")
    for name, values in lists.items():
        if ("_accs" in name or name == PROBABILITIES) and any(not 0 <= value <= 1 for value in values):
            cells.refuse(name, "holds a share that is not between 0 and 1")
        elif any(value < 0 for value in values):
            cells.refuse(name, "holds a number below 0")


@contextmanager
def _long_cells() -> Iterator[None]:
    """Allow long cells: the csv module's limit of 131,072 characters is too low for the list of a long run."""
    before = csv.field_size_limit(LARGEST_CELL_CHARACTERS)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a finite number")
