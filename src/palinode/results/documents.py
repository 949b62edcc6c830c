"""documents.safetensors: the tokens, nats and hits of each document, for every split and pass that a run scored at its end.

The file lets a verdict ask whether a difference would hold on other text. For a split `validation` and a pass `ltr` it has the
tensors `validation/ltr/tokens` (int32), `validation/ltr/nats` (float64) and `validation/ltr/hits` (int32), one number for each unit
of text. A unit is a document, a block of a text without documents, or a sequence of a task; neighbouring units are merged into at
most MOST_UNITS. The result of the run holds the size and the hash of the file. The metadata of the file names the kind of its
units.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from palinode.base.errors import Damaged
from palinode.results.files import is_regular

DOCUMENTS_FILE = "documents.safetensors"
MOST_UNITS = 4096
LARGEST_FILE_BYTES = 2**26  # two splits of 4,096 units take 128 KiB for each pass
HEADER_BYTES = 8  # a safetensors file begins with the length of its header, as a little-endian whole number
COLUMNS = {"tokens": np.int32, "nats": np.float64, "hits": np.int32}
NATS_TOLERANCE = 1e-9  # of the sum over all units, against the nats of the scores
Scores = Mapping[str, Mapping[str, Mapping[str, float | int | None]]]
TRAIN_AGAIN = "delete the run's directory and run it again"


@dataclass(frozen=True)
class DocumentNats:
    """The scores of one pass over one split, for each unit of text in the order of the split.

    Attributes:
        tokens: (units,) int32: the number of scored tokens.
        nats: (units,) float64: the sum of loss weight * nats.
        hits: (units,) int32: the number of scored tokens whose most probable id is right.
        kind: `documents`, `blocks` or `sequences`.
    """

    tokens: NDArray[np.int32]
    nats: NDArray[np.float64]
    hits: NDArray[np.int32]
    kind: str


Documents = Mapping[tuple[str, str], DocumentNats]  # (split, pass) -> scores


def documents_content(documents: Documents) -> bytes:
    """The bytes of a documents file. Equal scores give equal bytes."""
    tensors = {
        f"{split}/{name}/{column}": np.ascontiguousarray(getattr(scores, column), dtype=dtype)
        for (split, name), scores in documents.items()
        for column, dtype in COLUMNS.items()
    }
    kinds = {split: scores.kind for (split, _), scores in documents.items()}
    return save(tensors, {"units": json.dumps(kinds, sort_keys=True)})


def documents_seal(content: bytes) -> dict[str, int | str]:
    """The size and the hash of a documents file, as a result stores them."""
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def read_documents(
    directory: Path, seal: Mapping[str, int | str], scores: Scores
) -> dict[tuple[str, str], DocumentNats]:
    """Read the documents file of a run and check it.

    Args:
        seal: the size and the hash of the file, from the result of the run.
        scores: the scores of the result; the sums over all units must equal them.

    Raises:
        Damaged: the file is missing, has other bytes than were written, or does not fit the scores. The error names the file.
    """
    path = directory / DOCUMENTS_FILE
    if not is_regular(path):
        raise Damaged(
            "is missing, or is no regular file, though the result names its hash", file=str(path), hint=TRAIN_AGAIN
        )
    try:
        content = path.read_bytes() if path.stat().st_size <= LARGEST_FILE_BYTES else b""
        if documents_seal(content) != dict(seal):
            raise Damaged(
                "is not what was written: its hash is not that of the result", file=str(path), hint=TRAIN_AGAIN
            )
        documents = _decoded(content)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"cannot be read: {type(error).__name__}", file=str(path), hint=TRAIN_AGAIN) from error
    for (split, name), found in documents.items():
        _check_sums(found, scores.get(split, {}).get(name, {}), f"{split}/{name}", path)
    return documents


def _decoded(content: bytes) -> dict[tuple[str, str], DocumentNats]:
    """The scores in the bytes of a file. A wrong shape raises ValueError, KeyError, TypeError or AttributeError."""
    tensors = load(content)
    end = HEADER_BYTES + int.from_bytes(content[:HEADER_BYTES], "little")
    kinds = json.loads(json.loads(content[HEADER_BYTES:end])["__metadata__"]["units"])
    documents = {}
    for place in sorted({key.rpartition("/")[0] for key in tensors}):
        split, _, name = place.partition("/")
        columns = {column: tensors[f"{place}/{column}"] for column in COLUMNS}
        if len({array.shape for array in columns.values()}) > 1 or columns["nats"].ndim != 1:
            raise ValueError(f"the tensors of {place} differ in shape")
        if any(columns[column].dtype != dtype for column, dtype in COLUMNS.items()):
            raise ValueError(f"the tensors of {place} have other types")
        documents[split, name] = DocumentNats(**columns, kind=str(kinds[split]))
    return documents


def _check_sums(found: DocumentNats, row: Mapping[str, Any], place: str, path: Path) -> None:
    """Refuse scores whose sums over all units are not those of the result."""
    nats, whole = math.fsum(found.nats), row.get("nats_sum")
    counts = {"tokens_scored": int(found.tokens.sum()), "hits": int(found.hits.sum())}
    near = isinstance(whole, float) and abs(nats - whole) <= NATS_TOLERANCE * max(1.0, abs(whole))
    if not near or any(row.get(key) != count for key, count in counts.items()):
        raise Damaged("does not add up to the scores of the result", file=str(path), field=place, hint=TRAIN_AGAIN)
