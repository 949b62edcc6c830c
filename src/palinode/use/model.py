"""One trained model, ready to use: `palinode.load(RUN)` scores texts, writes, fills gaps, and gives logits and states.

A long text is scored in overlapping blocks (`evaluate/sliding.py`). Legend: n tokens of a text, D width, V vocabulary.
"""

from __future__ import annotations

import html
import itertools
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from palinode.base.errors import BadInput, Damaged
from palinode.base.finding import Finding
from palinode.base.measures import CHECK_WORDS, DIRECTIONS, Direction
from palinode.base.visibility import Full, Ltr, Visibility
from palinode.data.pairs import Pair
from palinode.data.task_store import TaskData
from palinode.evaluate.layer_cut import check_can_be_cut
from palinode.evaluate.losses import device_of, evaluating
from palinode.evaluate.pairs import won_pairs
from palinode.evaluate.sliding import SlidingContext
from palinode.models.base import LanguageModel
from palinode.objectives import Progress
from palinode.objectives.probability import Constant
from palinode.results.record import Record
from palinode.results.store import DEFAULT_ROOT, Store
from palinode.run.trained import load_trained
from palinode.spec.load import load_run
from palinode.spec.run_spec import RunSpec
from palinode.spec.trained import Trained
from palinode.use.export import export
from palinode.use.generate import START, Sampling, generate_text, in_reading
from palinode.use.infill import Gap, Ids, Middles, infill_ids

SIDES = {"ltr": "before", "rtl": "after"}
HOTTEST_NATS = 8.0  # tokens of this many nats and more have the darkest background
TEXTS_AT_ONCE = 64  # the number of texts whose blocks are read together


def load(run: str, store: Path | str | Store = DEFAULT_ROOT, allow_code: bool = False) -> Model:
    """The trained model of a run, with its newest undamaged weights.

    Args:
        run: (the beginning of) the id of the run, or `ARM:SEED` where one run of the store has this arm and this seed.
        store: the results store, or its directory.
        allow_code: run the code of your own parts that the run's spec names. Only for a store that you trust.

    Raises:
        BadInput: the store has no such run, or the run needs code that may not be run.
        Damaged: the run has no weights that can be used, or another tokenizer than its own.
    """
    place = store if isinstance(store, Store) else Store(store)
    if not place.root.is_dir():
        raise BadInput("there is no results store here", file=str(place.root), field="store")
    run_id = place.find(run)
    spec = load_run(place.run_directory(run_id), allow_code=allow_code)
    return Model(load_trained(spec, place), place.record(run_id), place)


@dataclass(frozen=True)
class Scored:
    """The nats of the tokens of a text, in text order.

    Attributes:
        ids: (n,) the token ids.
        pieces: the text of each token; the bytes of a character that several tokens share are shown as U+FFFD.
        nats: (n,) float64, -ln p of each token; NaN for a first token that a model without direction tokens cannot score.
        bytes: the bytes of the scored tokens; None where the tokens do not spell the text, or have no text.
        difference: the first place where the tokens do not spell the text; None if there is none.
    """

    direction: Direction
    ids: NDArray[np.int64]
    pieces: tuple[str, ...]
    nats: NDArray[np.float64]
    bytes: int | None
    difference: str | None = None

    @property
    def tokens(self) -> int:
        """The number of scored tokens."""
        return int(np.isfinite(self.nats).sum())

    @property
    def nats_sum(self) -> float:
        """The sum over the scored tokens."""
        return float(np.nansum(self.nats))

    @property
    def nats_per_token(self) -> float | None:
        """The mean over the scored tokens; None without any."""
        return self.nats_sum / self.tokens if self.tokens else None

    @property
    def bits_per_byte(self) -> float | None:
        """The sum of the bits divided by the sum of the bytes; None without bytes."""
        return self.nats_sum / (math.log(2) * self.bytes) if self.bytes else None

    def __repr__(self) -> str:
        numbers = ((self.nats_per_token, "nats/token"), (self.bits_per_byte, "bits/byte"))
        parts = [f"{value:.3f} {unit}" for value, unit in numbers if value is not None]
        return ", ".join((f"{self.tokens} tokens {self.direction}", *parts))

    def _repr_html_(self) -> str:
        """The text in a notebook: the more nats a token has, the darker its background."""
        spans = []
        for piece, nats in zip(self.pieces, np.nan_to_num(self.nats).tolist(), strict=True):
            shade = min(nats / HOTTEST_NATS, 1.0)
            style = f"background:rgba(214,96,77,{shade:.2f})"
            spans.append(f'<span title="{nats:.3f} nats" style="{style}">{html.escape(piece)}</span>')
        return f"<p>{html.escape(repr(self))}</p><pre style='white-space:pre-wrap'>{''.join(spans)}</pre>"


@dataclass(frozen=True)
class Infilled:
    """What a model puts into a gap between two texts.

    Attributes:
        middles: the distinct candidates, the most probable first, as (text, nats per byte given both sides, share of the weights).
            Where ids have no bytes, the nats are per token.
        drawn: the texts that were drawn by the shares.
        found: the same in token ids, with the method and the effective number of candidates.
    """

    middles: tuple[tuple[str, float, float], ...]
    drawn: tuple[str, ...]
    found: Middles

    def __repr__(self) -> str:
        lines = [f"{text!r}  {nats:.3f} nats/byte, share {share:.3f}" for text, nats, share in self.middles[:8]]
        return "\n".join((f"by {self.found.by}, {len(self.middles)} candidates", *lines))


class Model:
    """A trained model and the record of its run.

    Attributes:
        trained: the model with its spec, special tokens and data, as every function that scores or uses a model takes it.
        record: the record of the run: its result, metrics and audit.
        store: the store that has the run; None for a model that was not loaded from one.
    """

    def __init__(self, trained: Trained, record: Record, store: Store | None = None):
        self.trained = trained
        self.record = record
        self.store = store
        self._warned: set[str] = set()

    def __dir__(self) -> list[str]:
        return [*sorted(name for name in (*vars(type(self)), *vars(self)) if not name.startswith("_"))]

    def __repr__(self) -> str:
        return "\n".join((self._what_it_is(), self._how_good_it_is()))

    @property
    def spec(self) -> RunSpec:
        """The spec that the model was trained with."""
        return self.trained.spec

    @property
    def torch(self) -> LanguageModel:
        """The PyTorch module."""
        return self.trained.model

    @cached_property
    def directions(self) -> tuple[Direction, ...]:
        """The directions in which the model was trained, the one with the lower validation loss first."""
        counters = self.record.result.counters if self.record.result is not None else {}
        objective, chances = self.spec.objective, dict[str, float]()
        if objective.reads_in_a_direction:
            moving = not isinstance(getattr(objective, "p", None), Constant | None)
            chances = dict.fromkeys(objective.groups(), 1.0) if moving else objective.pass_probabilities(Progress())
        trained = [way for way in DIRECTIONS if counters.get(f"tokens_scored_{way}", chances.get(way, 0.0))]
        return tuple(sorted(trained, key=lambda way: math.inf if (loss := self._loss(way)) is None else loss))

    # --- scores ----------------------------------------------------------------------------------------------------

    def nats(self, text: str, direction: Direction = "ltr", stride: int | None = None) -> Scored:
        """The nats of every token of a text of any length.

        Args:
            direction: the direction in which the text is read.
            stride: the tokens by which the end of a block moves, from 1 to the window's; default: half a window. A smaller stride
                gives each token more context, and costs more.

        Raises:
            BadInput: the text cannot be written in the model's vocabulary, or the objective gives no probability of a text.
        """
        [scored] = self.nats_of_each([text], direction, stride)
        return scored

    def nats_of_each(
        self, texts: Iterable[str | Sequence[int]], direction: Direction = "ltr", stride: int | None = None
    ) -> list[Scored]:
        """The nats of every token of each text, or of its ids; equal to `nats` of each, up to rounding, and faster."""
        context, found, waiting = self._context(direction, stride), list[Scored](), iter(texts)
        while some := list(itertools.islice(waiting, TEXTS_AT_ONCE)):
            ids = [self._ids(text) for text in some]
            found += [self._scored(*one, direction) for one in zip(some, ids, context.nats(ids), strict=True)]
        return found

    def score(
        self, pairs: Iterable[tuple[str, str]], direction: Direction = "ltr", stride: int | None = None
    ) -> NDArray[np.float64]:
        """(pairs,) the nats of the second text of each pair given the first, which stands before it (ltr) or after it (rtl)."""
        context, sums, waiting = self._context(direction, stride), list[float](), iter(pairs)
        tokenizer = self.trained.data.tokenizer
        while some := list(itertools.islice(waiting, TEXTS_AT_ONCE)):
            texts = some if direction == "ltr" else [(text, given) for given, text in some]
            parts = [(self._ids(first), tokenizer.encode_part(second).tolist()) for first, second in texts]
            for (first, _), nats in zip(parts, context.nats([[*a, *b] for a, b in parts]), strict=True):
                sums.append(float(np.nansum(nats[len(first) :] if direction == "ltr" else nats[: len(first)])))
        return np.array(sums)

    def won(self, pairs: Sequence[Pair], direction: Direction = "ltr") -> NDArray[np.float64]:
        """(pairs,) 1 for each minimal pair whose good sentence has fewer nats, 0.5 for a tie, 0 for a lost pair."""
        return won_pairs(self._context(direction, None), self.trained.data.tokenizer, pairs)

    def logits(self, text: str | Sequence[int], direction: Direction = "ltr") -> Tensor:
        """(n + 1, V) logits in reading order: row i predicts token i, the last row what comes next. One pass, without gradients.

        Row 0 of a model without direction tokens is NaN: nothing stands before the first token.

        Raises:
            BadInput: the text does not fit into a window, or the model reads in no direction.
        """
        start, row = self._row(text, direction)
        self._use(direction)
        with evaluating(self.torch):
            model = in_reading(self.torch, direction)
            logits = model.logits(model.hidden(row, Ltr()))[0] if row.numel() else None
        if start and logits is not None:
            return logits
        nothing = torch.full((1, self.trained.specials.vocab_size), math.nan, device=row.device)
        return nothing if logits is None else torch.cat((nothing, logits))

    def hidden(self, text: str | Sequence[int], direction: str = "ltr", depth: int | None = None) -> Tensor:
        """(n, D) states of the tokens of a text, in text order; (n, 2 D) for `both`. One pass, without gradients.

        Args:
            direction: `ltr` and `rtl`: the state of a token depends on it and on the tokens read before it. `both`: the two side by
                side. `full`: every token sees every token.
            depth: the number of blocks that are run; default: all.

        Raises:
            BadInput: the text does not fit into a window, or the model cannot be read or cut in this way.
        """
        if direction == "both":
            return torch.cat([self.hidden(text, way, depth) for way in DIRECTIONS], dim=1)
        if direction == "full":
            self._refuse_full()
            start, row = self._row(text, "ltr") if self.spec.objective.reads_in_a_direction else (0, self._tensor(text))
            return self._states(self.torch, row, Full(), depth)[start:]
        if direction not in SIDES:
            raise BadInput(f"{direction!r} is none of ltr, rtl, full, both", field="direction")
        way: Direction = "ltr" if direction == "ltr" else "rtl"
        start, row = self._row(text, way)
        self._use(way)
        states = self._states(in_reading(self.torch, way), row, Ltr(), depth)[start:]
        return states if way == "ltr" else states.flip(0)

    # --- writing ---------------------------------------------------------------------------------------------------

    def sample(
        self,
        text: str = "",
        tokens: int = 200,
        direction: Direction = "ltr",
        *,
        rows: int = 1,
        seed: int = 1,
        sampling: Sampling | None = None,
    ) -> list[str]:
        """`rows` texts that begin with `text` (ltr) or end with it (rtl). The same seed gives the same texts.

        Raises:
            BadInput: the model reads in no direction, or an option is not valid.
        """
        self._refuse_without_direction("cannot continue a text")
        self._use(direction)
        options = {"direction": direction, "sampling": sampling, "rows": rows}
        return generate_text(self.trained, text, tokens, seed, **options)  # type: ignore[arg-type]

    def infill(
        self,
        before: str,
        after: str,
        tokens: int,
        *,
        rows: int = 1,
        candidates: int = 32,
        seed: int = 1,
        by: str = "auto",
    ) -> Infilled:
        """What stands in a gap of `tokens` tokens between two texts; see `use/infill.py` for the methods.

        Args:
            rows: the number of texts that are drawn by their shares.
            candidates: the number of candidates that are drawn and ranked.
            by: `resample` (a model that reads in a direction), `order` (a model that fills masks), or `auto`.

        Raises:
            BadInput: the model does not have the method, or the gap does not fit into a window.
        """
        tokenizer = self.trained.data.tokenizer
        gap = Gap(tuple(self._ids(before)), tuple(tokenizer.encode_part(after).tolist()), tokens)
        for way in self.directions:
            self._use(way)
        options = {"directions": self.directions, "rows": rows, "candidates": candidates, "by": by}
        found = infill_ids(self.trained, gap, seed, **options)  # type: ignore[arg-type]
        middles = tuple(
            (tokenizer.decode(one.ids), one.nats / self._units(one.ids), one.share) for one in found.middles
        )
        return Infilled(middles, tuple(middles[index][0] for index in found.drawn), found)

    # --- for other programs ----------------------------------------------------------------------------------------

    def to_hf(self, directory: Path | str, *, allow_code: bool = False, even_if_leaking: bool = False) -> Path:
        """Write the model into a new folder that transformers and lm-eval read (`palinode export`), and return the folder.

        Raises:
            BadInput: the folder is not empty, the run is not done, or it needs the user's code and `allow_code` is not set.
            AuditFailed: the run failed its audit, and `even_if_leaking` is not set.
        """
        if self.store is None:
            raise BadInput("this model was not loaded from a store", field="store", hint="palinode.load(RUN, STORE)")
        folder = Path(directory)
        export(self.spec.run_id, self.store, folder, allow_code=allow_code, even_if_leaking=even_if_leaking)
        return folder

    # --- inside ----------------------------------------------------------------------------------------------------

    def _units(self, ids: Ids) -> int:
        """The bytes of a middle, by which its nats are divided; its tokens where ids have no bytes."""
        return len(self.trained.data.tokenizer.decode(ids).encode()) if not self._is_task else len(ids)

    @property
    def _is_task(self) -> bool:
        return isinstance(self.spec.data, TaskData) or self.trained.data.tokenizer.kind == "ids"

    def _ids(self, text: str | Sequence[int]) -> list[int]:
        return self.trained.data.tokenizer.encode(text) if isinstance(text, str) else list(text)

    def _context(self, direction: Direction, stride: int | None) -> SlidingContext:
        spec, window_tokens = self.spec, self.spec.data.window_tokens
        options = {"slots_at_once": spec.evaluation.batch_windows * window_tokens, "seed": spec.seed}
        if stride is not None:
            options["stride"] = stride
        context = SlidingContext.of(
            self.torch, self.trained.specials, spec.objective, direction, window_tokens, **options
        )
        self._use(direction)
        return context

    def _scored(
        self, text: str | Sequence[int], ids: list[int], nats: NDArray[np.float64], direction: Direction
    ) -> Scored:
        array, tokenizer = np.array(ids, dtype=np.int64), self.trained.data.tokenizer
        sizes = self._bytes_of_ids[array[np.isfinite(nats)]]
        spelled = tokenizer.decode(ids) if not isinstance(text, str) else text
        difference = None if self._is_task else tokenizer.difference(array, spelled)
        pieces = tuple(tokenizer.decode([one]) for one in ids)
        size = int(sizes.sum()) if not self._is_task and difference is None else None
        return Scored(direction, array, pieces, nats, size, difference)

    @cached_property
    def _bytes_of_ids(self) -> NDArray[np.int64]:
        return self.trained.data.tokenizer.bytes_per_token()

    def _tensor(self, text: str | Sequence[int]) -> Tensor:
        """(1, n) the ids of a text."""
        ids, most = self._ids(text), self.torch.max_length
        if outside := [one for one in ids if not 0 <= one < self.trained.specials.vocab_size]:
            message = f"token {outside[0]} is not in the vocabulary of {self.trained.specials.vocab_size}"
            raise BadInput(message, field="text")
        if len(ids) > most:
            raise BadInput(f"has {len(ids)} tokens, and one pass reads at most {most}", field="text")
        return torch.tensor([ids], dtype=torch.long, device=device_of(self.torch))

    def _row(self, text: str | Sequence[int], direction: Direction) -> tuple[int, Tensor]:
        """The number of direction tokens, 0 or 1, and the (1, T) row in reading order: the direction token, then the text."""
        self._refuse_without_direction("has no ltr or rtl reading")
        row = self._tensor(text)
        row = row if direction == "ltr" else row.flip(1)
        if not getattr(self.spec.objective, "direction_token", True):
            return 0, row
        if row.shape[1] >= self.torch.max_length:
            message = f"has {row.shape[1]} tokens, and one pass reads at most {self.torch.max_length - 1}"
            raise BadInput(message, field="text")
        start = row.new_full((1, 1), self.trained.specials[START[direction]])
        return 1, torch.cat((start, row), dim=1)

    def _states(self, model: LanguageModel, row: Tensor, sees: Visibility, depth: int | None) -> Tensor:
        """(T, D) states of a (1, T) row in the order in which it is read, after all blocks or after `depth` blocks."""
        with evaluating(model):
            if depth is None:
                return model.hidden(row, sees)[0]
            check_can_be_cut(model)
            if not 1 <= depth <= model.depths():
                message = f"the model has {model.depths()} blocks, so it cannot stop after {depth}"
                raise BadInput(message, field="depth")
            residual = next(itertools.islice(model.residuals(row, sees), depth - 1, None))
            return model.finished(residual)[0]

    def _refuse_without_direction(self, lacks: str) -> None:
        if not self.spec.objective.reads_in_a_direction:
            message = f"was trained on {self.spec.objective.kind_name()!r}, in no reading direction: it {lacks}"
            raise BadInput(message, field="objective")

    def _refuse_full(self) -> None:
        for mixer in getattr(self.spec.model, "layer_mixers", tuple)():
            if why := mixer.refusal(Full().native):
                raise BadInput(f"{mixer.kind_name()} cannot be read without a direction: {why}", field="direction")

    # --- what it is, and whether it may be believed ------------------------------------------------------------------

    def _what_it_is(self) -> str:
        spec, result = self.spec, self.record.result
        layers, width = (getattr(spec.model, name, None) for name in ("layers", "width"))
        size = f" {layers} x {width}" if layers and width else ""
        parameters = sum(parameter.numel() for parameter in self.torch.parameters())
        data = f"task {spec.data.task.kind_name()}" if isinstance(spec.data, TaskData) else _text_words(spec.data)
        steps = int((result.counters.get("optimizer_steps") or 0) if result is not None else 0) or spec.recipe.steps
        parts = (
            f"{spec.model.kind_name()}{size}, {parameters / 1e6:.2f} M parameters",
            f"{_objective_words(spec.objective)}, {data}, windows of {spec.data.window_tokens}",
            f"{steps} steps, seed {spec.seed}",
        )
        return f"{spec.run_id}  {'; '.join(parts)}"

    def _how_good_it_is(self) -> str:
        split = self.spec.evaluation.split
        rows: Mapping[str, Mapping[str, Any]] = self.record.result.scores.get(split, {}) if self.record.result else {}
        names = [name for name in rows if rows[name].get("nats_per_token") is not None]
        losses = [f"{name} {rows[name]['nats_per_token']:.3f}" for name in names]
        shown = [
            f"[{text}]" if name in DIRECTIONS and name not in self.directions else text
            for name, text in zip(names, losses, strict=True)
        ]
        reads = f"reads {' and '.join(shown)} nats/token ({split})" if shown else self.record.outcome
        return f"{reads}; {self._audit_words()}"

    def _loss(self, direction: Direction) -> float | None:
        result = self.record.result
        return None if result is None else result.score(f"{self.spec.evaluation.split}.{direction}.nats_per_token")

    @cached_property
    def _doubts(self) -> dict[str, tuple[str, ...]] | None:
        """The outcomes of the audit that are no pass -> their checks with their directions; None without an audit."""
        report = self.record.audit_report()
        if report is None:
            return None
        bad = [one for one in report.findings if one.outcome == report.outcome != "pass"]
        names = dict.fromkeys(" ".join(filter(None, (one.check.partition(".")[0], _direction_of(one)))) for one in bad)
        return {CHECK_WORDS[report.outcome]: tuple(names)} if bad else {}

    def _audit_words(self) -> str:
        try:
            doubts = self._doubts
        except Damaged:
            return "AUDIT DAMAGED"
        if doubts is None:
            return "NOT AUDITED"
        words = [f"AUDIT {outcome.upper()}: {', '.join(checks)}" for outcome, checks in doubts.items()]
        return words[0] if words else "audit pass"

    def _use(self, direction: Direction) -> None:
        """Warn at the first use of a direction that the audit did not pass."""
        other = {"ltr": "rtl", "rtl": "ltr"}[direction]
        words = self._audit_words()
        if words == "audit pass" or direction in self._warned:
            return
        checks = [check for group in (self._doubts or {}).values() for check in group] if words[:5] == "AUDIT" else []
        if checks and all(check.endswith(f" {other}") for check in checks):
            return
        self._warned.add(direction)
        warnings.warn(f"run {self.spec.run_id}, {direction}: {words}", stacklevel=2)


def _text_words(data: Any) -> str:
    tokenizer = {"byte": "bytes", "char": "characters"}.get(data.tokenizer, data.tokenizer)
    return f"{Path(data.corpus).name}, {tokenizer}"


def _objective_words(objective: Any) -> str:
    """The kind of an objective, with its p or its rate."""
    if (p := getattr(objective, "p", None)) is not None:
        return (
            f"{objective.kind_name()}(p={p.p:g})"
            if isinstance(p, Constant)
            else f"{objective.kind_name()}({p.kind_name()} p)"
        )
    rate = getattr(objective, "rate", None)
    return f"{objective.kind_name()}(rate={rate:g})" if isinstance(rate, float) else str(objective.kind_name())


def _direction_of(finding: Finding) -> str:
    """The direction that a finding is about; empty for both."""
    if finding.check == "C8.directions":
        return "rtl"
    named = (finding.reproduce.get("pass"), finding.message.partition(":")[0])
    return next((str(name) for name in named if name in DIRECTIONS), "")
