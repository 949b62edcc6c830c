"""What the model scores with only its first k blocks, for every k = 1 .. L, from one reading of the split.

The state after block k does not depend on the blocks above it, so one pass of the stack holds every shorter model; the final
norm and the head are applied to each, in pieces, so that the logits of all depths never exist at once. A raw cut mixes what the
state holds with how well a head trained for L blocks can read it: `refit.refit` makes the control.
Legend: R rows, S slots, D width, V vocabulary, L blocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch

from palinode.base.errors import BadInput
from palinode.base.example import SpecialTokens, Windows
from palinode.evaluate.losses import Sums, bytes_of_ids, evaluating, examples_of
from palinode.evaluate.refit import Readout, Refits
from palinode.models.base import LanguageModel
from palinode.models.direction import finished, residuals
from palinode.objectives import Objective
from palinode.objectives.label_mask import Labels
from palinode.objectives.loss import CHUNK_LOGITS, GPU_FACTOR
from palinode.results.layer_cut import CutScores, LayerCut


def cut_layers(
    model: LanguageModel,
    windows: Iterable[Windows],
    passes: Mapping[str, Objective],
    *,
    specials: SpecialTokens,
    bytes_per_token: np.ndarray,
    seed: int,
    device: torch.device,
    labels: Labels = "all",
    refits: Refits | None = None,
) -> LayerCut:
    """Score every window for every pass and every number of blocks; at L blocks these are the scores of `evaluate`.

    Args:
        windows, passes, specials, bytes_per_token, seed, device: as in `evaluate`.
        refits: pass -> a readout for each number of blocks (`refit.refit`), scored beside the trained one.

    Raises:
        BadInput: the model cannot be cut.
    """
    check_can_be_cut(model)
    refits = refits or {}
    bytes_of, at_once = bytes_of_ids(specials, bytes_per_token), _slots_at_once(specials, device)
    trained = Readout(model, {})
    sums = {name: [Sums() for _ in range(model.depths())] for name in passes}
    refitted_sums = {name: [Sums() for _ in refits[name]] for name in passes if name in refits}
    with evaluating(model):
        for name, example in examples_of(windows, passes, specials=specials, seed=seed, labels=labels):
            here = example.to(device)
            for depth, residual in enumerate(residuals(model, here)):
                states = finished(here, residual, trained.finished)
                sums[name][depth].add(here, states, trained.logits, bytes_of, at_once)
                if name in refits:
                    own = refits[name][depth]
                    states = finished(here, residual, own.finished)
                    refitted_sums[name][depth].add(here, states, own.logits, bytes_of, at_once)
    return LayerCut(scores=_curves(sums), refitted=_curves(refitted_sums))


def check_can_be_cut(model: LanguageModel) -> None:
    """Refuse a model whose blocks cannot be taken off one by one.

    Raises:
        BadInput: naming the setting that asks for it.
    """
    if not model.can_be_cut():
        raise BadInput(
            f"a {type(model).__name__} cannot be cut",
            field="evaluation.layer_cut",
            hint="a model that can defines depths, residuals and finished beside its own hidden",
        )


def _slots_at_once(specials: SpecialTokens, device: torch.device) -> int:
    return max(1, CHUNK_LOGITS * (1 if device.type == "cpu" else GPU_FACTOR) // specials.vocab_size)


def _curves(sums: Mapping[str, Sequence[Sums]]) -> dict[str, tuple[CutScores, ...]]:
    return {
        name: tuple(
            CutScores.model_validate({"blocks": blocks, **total.scores().as_row()})
            for blocks, total in enumerate(totals, 1)
        )
        for name, totals in sums.items()
        if totals and totals[0].tokens
    }
