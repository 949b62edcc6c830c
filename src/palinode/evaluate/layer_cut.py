"""The scores of a model with only its first k blocks, for every k = 1 .. L, from one reading of the split.

The state after block k does not depend on the blocks above it, so one pass of the stack holds every shorter model. The final norm
and the head are applied to each state, in pieces, so that the logits of all depths never exist at once. A raw cut mixes what the
state holds with how well a head trained for L blocks can read it: `refit.refit` makes the control.
Legend: L blocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch

from palinode.base.errors import BadInput
from palinode.base.example import SpecialTokens, Windows
from palinode.evaluate.losses import Scoring, Sums, device_of, evaluating
from palinode.evaluate.refit import Readout, Refits
from palinode.models.base import LanguageModel
from palinode.models.direction import finished, residuals
from palinode.objectives import Objective
from palinode.objectives.loss import CHUNK_LOGITS, GPU_FACTOR
from palinode.results.layer_cut import CutScores, LayerCut


def cut_layers(
    model: LanguageModel,
    windows: Iterable[Windows],
    passes: Mapping[str, Objective],
    scoring: Scoring,
    refits: Refits | None = None,
) -> LayerCut:
    """Score every window for every pass and every number of blocks; with L blocks these are the scores of `evaluate`.

    Args:
        windows, passes, scoring: as in `evaluate`.
        refits: pass -> a readout for each number of blocks (`refit.refit`), scored as well as the trained one.

    Raises:
        BadInput: the model cannot be cut.
        FloatingPointError: a loss is not finite.
    """
    check_can_be_cut(model)
    device = device_of(model)
    bytes_of, at_once = scoring.bytes_of_ids(), _slots_at_once(scoring.specials, device)
    trained = [Readout(model, {})] * model.depths()
    sums: dict[str, list[Sums]] = {name: [Sums() for _ in trained] for name in passes}
    refitted = {name: [Sums() for _ in readouts] for name, readouts in (refits or {}).items() if name in passes}
    with evaluating(model):
        for name, example in scoring.examples(windows, passes):
            here = example.to(device)
            scored = [(sums[name], trained)]
            if refits is not None and name in refitted:
                scored.append((refitted[name], list(refits[name])))
            for depth, residual in enumerate(residuals(model, here)):
                for totals, readouts in scored:
                    states = finished(here, residual, readouts[depth].finished)
                    totals[depth].add(here, states, readouts[depth].logits, bytes_of, at_once)
    return LayerCut(scores=_curves(sums), refitted=_curves(refitted))


def check_can_be_cut(model: LanguageModel) -> None:
    """Refuse a model whose blocks cannot be taken off one by one.

    Raises:
        BadInput: naming the setting that asks for the cut.
    """
    if not model.can_be_cut():
        raise BadInput(
            f"a {type(model).__name__} cannot be cut",
            field="evaluation.layer_cut",
            hint="a model that can be cut defines depths, residuals and finished as well as its own hidden",
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
