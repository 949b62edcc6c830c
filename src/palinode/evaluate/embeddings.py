"""The geometry of a trained model's embedding tables (tokens, positions): the lengths of their rows and the angles between rows.

Only the weights are read. If the mean of a number over random tables is known, this mean is stored too, as the value by chance.
For example, the mean |cosine| of two random directions of D dimensions is Gamma(D/2) / (sqrt(pi) Gamma((D+1)/2)), about sqrt(2
/ (pi D)). Legend: D width.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from palinode.base.errors import BadInput
from palinode.models.base import LanguageModel

TOP_SHARE = 0.25  # the share of the D directions that counts as the directions in which tokens vary most


def embedding_geometry(model: LanguageModel) -> dict[str, Any]:
    """Numbers that describe the embedding table of tokens and, if the model learns positions, the table of positions.

    token_norm, position_norm: the mean length of a row. position_norm_about_mean: the mean length of a position after the mean of
    all positions is subtracted. token_position_cosine, token_position_absolute_cosine: the mean cosine and the mean |cosine|
    over all pairs of a token and a position. position_share: the share of the positions' variance in the quarter of the
    directions in which tokens vary most (a quarter by chance). position_cosine_by_distance: the mean cosine of two positions at
    the distances 1, 2, 4, .. (by chance -1 / (positions - 1)). The share and the cosines of two positions are computed after
    the mean of all positions is subtracted, because a vector that all positions share does not tell positions apart.

    Raises:
        BadInput: the model has no table of tokens.
    """
    check_has_embeddings(model)
    tokens, *_ = _tables(model, "embedding")
    tokens, width = tokens.detach().double().cpu(), tokens.shape[1]
    positions = next(iter(_tables(model, "position")), None)
    geometry: dict[str, Any] = {"width": width, "token_norm": float(tokens.norm(dim=1).mean())}
    if positions is None:
        return geometry
    positions = positions.detach().double().cpu()
    centred = positions - positions.mean(0)
    cosines = F.normalize(tokens, dim=1) @ F.normalize(positions, dim=1).T
    return geometry | {
        "position_norm": float(positions.norm(dim=1).mean()),
        "position_norm_about_mean": float(centred.norm(dim=1).mean()),
        "token_position_cosine": float(cosines.mean()),
        "token_position_absolute_cosine": float(cosines.abs().mean()),
        "chance_absolute_cosine": math.exp(math.lgamma(width / 2) - math.lgamma((width + 1) / 2)) / math.sqrt(math.pi),
        "position_share": _share_in_top(tokens, centred),
        "chance_share": _top(width) / width,
        "position_cosine_by_distance": _cosine_by_distance(centred),
        "chance_position_cosine": -1 / max(1, len(positions) - 1),
    }


def check_has_embeddings(model: LanguageModel) -> None:
    """Refuse a model without a table of tokens. It reads only parameter names, so a model on the meta device is enough.

    Raises:
        BadInput: the model has no such table. The error names the setting that needs the table.
    """
    if not _tables(model, "embedding"):
        raise BadInput(f"a {type(model).__name__} has no table of tokens", field="evaluation.embeddings")


def _tables(model: LanguageModel, group: str) -> list[Tensor]:
    """The tables of a parameter group, without a table that the model only subtracts from its states."""
    named = model.parameter_groups().get(group, [])
    return [table for name, table in named if not name.startswith("next_position.")]


def _share_in_top(tokens: Tensor, positions: Tensor) -> float:
    """The share of the positions' variance that lies in the leading directions of the tokens."""
    _, _, directions = torch.linalg.svd(tokens - tokens.mean(0), full_matrices=False)
    leading = directions[: _top(tokens.shape[1])]
    return float((positions @ leading.T).square().sum() / positions.square().sum())


def _top(width: int) -> int:
    return max(1, round(TOP_SHARE * width))


def _cosine_by_distance(positions: Tensor) -> dict[str, float]:
    """Distance -> the mean cosine of the pairs at this distance. The distances are 1, 2, 4, .. up to half of the table."""
    unit = F.normalize(positions, dim=1)
    distances = [2**power for power in range(len(unit).bit_length()) if 2 * 2**power <= len(unit)]
    return {str(distance): float((unit[:-distance] * unit[distance:]).sum(1).mean()) for distance in distances}
