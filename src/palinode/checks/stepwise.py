"""C6: a model that generates token by token gives the same logits as one pass over the finished text.

Four prompts of unequal lengths (one of a single token) are continued, each alone; then one pass reads all four texts. Three kinds
of faulty models give different logits in the two ways: a model that looks ahead, a model whose padding or positions depend on the
length, and a model with a wrong cache. An rtl text grows to the left. A model that keeps a state generates from its state, and
C6.state also feeds the text in chunks. Legend: B rows, T slots, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from palinode.base.config import Config
from palinode.base.example import NO_SOURCE, Example
from palinode.base.finding import Finding
from palinode.base.seeds import generator
from palinode.checks.bench import REFUSALS, Bench
from palinode.checks.copies import exact_arithmetic, randomised_copy, seeded_passes
from palinode.checks.draws import Entry, direction_of, joined_draw
from palinode.checks.influence import largest_change, only_pass, scored_targets, spread
from palinode.checks.laws import LARGEST, finding, outcome_of
from palinode.checks.subject import StateReader, Subject

TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 5e-2}
NATS_TOLERANCE = 1e-5  # the allowed difference of the mean nats per token of 8 windows, in float32
WINDOWS, STATE_WINDOWS = 8, 4
SHORT_TOTAL_TOKENS = 41  # up to this length, every length is compared; beyond it, without a cache, only some lengths

Step = Callable[[nn.Module, Tensor, str], Tensor]
"""(module, (B, n) prefix ids in window order, pass) -> (B, V) logits of the next token in reading order (rtl: the one before).

Each call has one token more than the last, so that an implementation with a cache can keep it between calls. A call with another or
a shorter prefix starts anew.
"""


class StepwiseSettings(Config):
    """The options of C6: the lengths of the prompts, and the length to which the first prompt is continued.

    `total_tokens`: the final length; default: 41 tokens, or one more than the longest used length, because a cache often fails when
    it is full. `random_weights`: whether to run C6.generation and C6.state, which give the module random weights.
    """

    prompt_tokens: tuple[int, ...] = (1, 2, 5, 9)
    total_tokens: int | None = Field(default=None, ge=2)
    random_weights: bool = True

    def total_for(self, subject: Subject) -> int:
        """The wanted final length in tokens. A model may refuse this length."""
        return self.total_tokens or max(SHORT_TOTAL_TOKENS, *(length + 1 for length in subject.used_lengths))


@dataclass(frozen=True)
class OneWay:
    """A pass in one direction with its decisions, on windows of `total_tokens`. Its contract is exactly that of ltr or rtl
    (`reads`).

    Windows and prefixes are (B, tokens) in window order; for rtl the reading order is the reverse of the window order.
    """

    subject: Subject
    group: str
    reads: str
    entry: Entry
    total_tokens: int
    coarse: bool = False

    def tolerance(self, dtype: torch.dtype) -> float:
        """The largest allowed difference between logits computed in two ways, in standard deviations of the logits."""
        exact = TOLERANCES.get(dtype, TOLERANCES[torch.float16])
        return max(exact, TOLERANCES[torch.float32]) if self.coarse else exact

    def example(self, windows: Tensor) -> Example:
        """Only the rows of this pass, from the Example of these windows."""
        return only_pass(self.subject.example(windows, joined_draw([self.entry] * len(windows))), self.group)

    def in_reading_order(self, by_token: Tensor) -> Tensor:
        """(B, tokens, ..) from window order to reading order, or back."""
        return by_token if self.reads == "ltr" else by_token.flip(1)

    def slots_in_reading_order(self, example: Example, by_slot: Tensor) -> Tensor:
        """(B, T, ..) from slot order to the order in which the model reads the slots."""
        return by_slot.flip(1) if example.groups[0].sees.reads_from_end else by_slot

    def slot_ids(self, example: Example) -> Tensor:
        """(B, T) ids of the slots, in the order in which the model reads the slots, on the model's device."""
        return self.slots_in_reading_order(example, example.inputs).to(self.subject.device)

    def grown(self, prefix: Tensor, token: Tensor | None = None) -> Tensor:
        """The prefix and the token that is read next (default: id 0, while the next token is unknown)."""
        token = torch.zeros(len(prefix), 1, dtype=torch.long) if token is None else token
        return torch.cat([prefix, token] if self.reads == "ltr" else [token, prefix], 1)

    def next_slot(self, example: Example, prefix_tokens: int) -> int | None:
        """The slot, in reading order, that predicts the token after the prefix.

        None where no slot predicts it, or where rows differ in this slot.
        """
        target = prefix_tokens if self.reads == "ltr" else 0
        predicts = scored_targets(example) & (example.target_source == target)
        predicts = self.slots_in_reading_order(example, predicts)
        slots = set(predicts.nonzero()[:, 1].tolist())
        return slots.pop() if len(slots) == 1 and bool((predicts.sum(1) == 1).all()) else None

    def finding(
        self, check: str, wrong: bool, message: str, numbers: Mapping[str, float | int], threshold: float
    ) -> Finding:
        """A finding about this pass. C6 needs no positive control, because it compares two computations of the same logits."""
        reproduce = {"pass": self.group, "seed": self.subject.seed, "total_tokens": self.total_tokens}
        outcome = outcome_of(wrong=wrong, can_tell=True)
        return finding(check, outcome, f"{self.group}: {message}", numbers, threshold, reproduce=reproduce)


@dataclass(frozen=True)
class Route:
    """Two ways to compute the logits of a text with one module: in one pass, or step by step.

    Without `step`, each step reads all earlier tokens again.
    """

    one_way: OneWay
    module: nn.Module
    step: Step | None

    def one_pass(self, windows: Tensor) -> Tensor:
        """(B, tokens, V) logits by target in reading order; zero for a target that is not scored."""
        example = self.one_way.example(windows)
        logits = self.one_way.subject.logits(self.module, example)
        row, slot = scored_targets(example).nonzero(as_tuple=True)
        by_target = torch.zeros(*windows.shape, logits.shape[-1], dtype=logits.dtype)
        by_target[example.window_row[row], example.target_source[row, slot]] = logits[row, slot]
        return self.one_way.in_reading_order(by_target)

    def next_logits(self, prefix: Tensor) -> Tensor:
        """(B, V) logits of the token that follows the prefix (rtl: precedes it)."""
        if self.step is not None:
            return self.step(self.module, prefix.to(self.one_way.subject.device), self.one_way.group).cpu()
        return self.one_pass(self.one_way.grown(prefix))[:, -1]


def check_stepwise(
    subject: Subject, settings: StepwiseSettings | None = None, step: Step | None = None
) -> tuple[Finding, ...]:
    """Run C6 on every pass in one direction: C6.generation (random weights, float64) and C6.nats (the model's own weights).

    Without `step`, a model that keeps a state continues from its state and is also checked by C6.state; any other model reads the
    whole text again at each step.
    """
    settings = settings or StepwiseSettings()
    wanted = settings.total_for(subject)
    if subject.rebuild is not None and wanted > subject.max_window_tokens:
        module = subject.rebuild(subject.vocab_size, subject.slots_of(wanted), subject.seed)
        subject = replace(subject, module=module, max_window_tokens=wanted)
    bench = Bench.of(subject)
    totals = (wanted, min(wanted, subject.max_window_tokens), max(subject.used_lengths))
    total = next((length for length in totals if bench.accepts(length)), subject.window_tokens)
    takes_any = step is not None or all(bench.accepts(length) for length in {2, total // 2, total - 1} if length > 1)
    findings: list[Finding] = []
    for one_way in _one_way_passes(bench, total):
        if not takes_any or total < 2:
            message = (
                "the model does not take windows of any length, so it cannot be read step by step; hand in a `step`"
            )
            cannot = one_way.finding("C6.generation", False, message, {}, TOLERANCES[torch.float64])
            findings.append(cannot.with_(outcome="could_not_tell"))
            continue
        rng = generator(subject.seed, "audit", "stepwise", one_way.group)
        own = _as_it_is(one_way)
        own_step = _own_step(one_way) if step is None else None
        taken = step if own_step is None else own_step
        with torch.no_grad(), seeded_passes(subject.seed, "stepwise"):
            if settings.random_weights:
                opened = randomised_copy(subject.module, 1.0, rng).eval()
                with exact_arithmetic():
                    findings.append(_generation(Route(one_way, opened, taken), settings.prompt_tokens, rng))
                    if own_step is not None:
                        findings.append(_state(one_way, own_step.reader, opened, rng))
            findings.append(_teacher_forced(Route(one_way, own, taken), rng))
    return tuple(findings)


def _as_it_is(one_way: OneWay) -> nn.Module:
    """A copy with the model's own weights. The copy is in float32 if the module cannot run in its own precision."""
    own = copy.deepcopy(one_way.subject.module).eval()
    example = one_way.example(torch.zeros(1, one_way.total_tokens, dtype=torch.long))
    try:
        with torch.no_grad(), seeded_passes(one_way.subject.seed, "stepwise"):
            one_way.subject.logits(own, example)
    except RuntimeError:
        return own.float()
    return own


def _one_way_passes(bench: Bench, total_tokens: int) -> Iterator[OneWay]:
    bank = bench.bank_at(total_tokens)
    for group in bank.groups:
        entry = bank.with_pass(group)
        reads = None if entry.decides_tokens else direction_of(bench.subject.objective, entry, group, total_tokens)
        if reads is not None:
            yield OneWay(bench.subject, group, reads, entry, total_tokens, bench.coarse)


def _generation(route: Route, prompt_tokens: Sequence[int], rng: Generator) -> Finding:
    """C6.generation: continue the prompts one by one, then read all texts at once."""
    one_way, total = route.one_way, route.one_way.total_tokens
    prompts = sorted({min(prompt, total - 1) for prompt in prompt_tokens})
    prefixes = [_checked_prefixes(route, prompt, number == 0) for number, prompt in enumerate(prompts)]
    texts, stepped = zip(*(_continued(route, checked, rng) for checked in prefixes), strict=True)
    whole = route.one_pass(torch.cat(texts))
    tolerance = one_way.tolerance(whole.dtype)
    worst, place, steps, disagreements = 0.0, "", 0, 0
    for row, (prompt, checked, logits) in enumerate(zip(prompts, prefixes, stepped, strict=True)):
        change, other_choices = _difference(logits, whole[row, checked], tolerance)
        disagreements += other_choices
        steps += len(change)
        worst = max(worst, float(change.max()))
        if not place and float(change.max()) > tolerance:
            position = checked[int((change > tolerance).nonzero()[0])]
            target = position if one_way.reads == "ltr" else total - 1 - position
            place = f" first at target {target}, prompt of {prompt}"
    failed = worst > tolerance or disagreements > 0
    verdict = f"differ{place}" if failed else f"agree up to {total} tokens"
    message = f"step by step and in one pass {verdict} ({worst:.1e}, allowed {tolerance:.0e}, {steps} steps)"
    message += "" if failed else f"; not tried: texts above {total} tokens"
    numbers = {"largest_difference": min(worst, LARGEST), "steps": steps, "argmax_disagreements": disagreements}
    return one_way.finding("C6.generation", failed, message, numbers, tolerance)


def _checked_prefixes(route: Route, prompt: int, to_the_end: bool) -> list[int]:
    """The lengths of the prefixes after which the next logits are compared.

    Up to 41 tokens, these are all lengths. Beyond 41 tokens only the first prompt is compared: with a cache, at all lengths;
    without a cache, at the last lengths and next to powers of two, because only the length of the text matters.
    """
    total = route.one_way.total_tokens
    near = range(prompt, min(total, max(SHORT_TOTAL_TOKENS, prompt + 2)))
    if not to_the_end:
        return list(near)
    if route.step is not None:
        return list(range(prompt, total))
    powers = [2**k + step for k in range(2, total.bit_length()) for step in (-1, 0, 1)]
    far = [length for length in (*powers, total - 2, total - 1) if prompt <= length < total]
    return sorted({*near, *far})


def _continued(route: Route, checked: Sequence[int], rng: Generator) -> tuple[Tensor, Tensor]:
    """Continue one prompt by sampling to the whole length: the (1, tokens) text, and the logits after each compared prefix."""
    content = route.one_way.subject.content_tokens
    prefix = torch.randint(content, (1, checked[0]), generator=rng)
    steps, wanted = [], set(checked)
    while prefix.shape[1] < route.one_way.total_tokens:
        token = torch.randint(content, (1, 1), generator=rng)
        if prefix.shape[1] in wanted:
            steps.append(logits := route.next_logits(prefix))
            chances = torch.nan_to_num(logits[:, :content].double()).softmax(-1)
            token = torch.multinomial(chances, 1, generator=rng)
        prefix = route.one_way.grown(prefix, token)
    return prefix, torch.cat(steps)


def _teacher_forced(route: Route, rng: Generator) -> Finding:
    """C6.nats: read fixed windows with the model's own weights, token by token and in one pass; compare logits and mean nats."""
    one_way, total = route.one_way, route.one_way.total_tokens
    windows = torch.randint(one_way.subject.content_tokens, (WINDOWS, total), generator=rng)
    reading = one_way.in_reading_order(windows)
    checked = _checked_prefixes(route, 1, True)
    whole = route.one_pass(windows)[:, checked]
    fed = torch.stack([route.next_logits(one_way.in_reading_order(reading[:, :prefix])) for prefix in checked], 1)
    tolerance = one_way.tolerance(whole.dtype)
    change, disagreements = _difference(fed, whole, tolerance)
    worst = float(change.max())
    fed_nats, whole_nats = (
        float(-logits.double().log_softmax(-1).gather(-1, reading[:, checked, None]).mean()) for logits in (fed, whole)
    )
    nats_tolerance = NATS_TOLERANCE * max(1.0, tolerance / TOLERANCES[torch.float32])
    failed = worst > tolerance or abs(fed_nats - whole_nats) > nats_tolerance or disagreements > 0
    message = (
        f"{fed_nats:.6f} nats per token step by step, {whole_nats:.6f} in one pass; logits differ by {worst:.1e} "
        f"(allowed {tolerance:.0e}, {WINDOWS} windows, {str(whole.dtype).removeprefix('torch.')})"
    )
    numbers = {"difference_nats": abs(fed_nats - whole_nats), "largest_difference": min(worst, LARGEST)}
    return one_way.finding("C6.nats", failed, message, numbers, nats_tolerance)


def _difference(stepped: Tensor, whole: Tensor, tolerance: float) -> tuple[Tensor, int]:
    """(steps,) the largest change in standard deviations of the logits, and how often the most probable token differs where it is
    clear.
    """
    stepped, whole = stepped.double(), whole.double()
    best = whole.topk(2, -1).values
    clear = (best[..., 0] - best[..., 1]) / spread(whole) > 2 * tolerance
    disagreements = int((clear & (stepped.argmax(-1) != whole.argmax(-1))).sum())
    return largest_change(stepped, whole) / spread(whole), disagreements


def _own_step(one_way: OneWay) -> OwnStep | None:
    """The step that reads this pass from the model's state; None where there is none.

    There is none if the model keeps no state, if the pass is not one causal row per window, or if some next token is not
    scored (label masks and hidden prompts leave some tokens out).
    """
    subject, total = one_way.subject, one_way.total_tokens
    if subject.state is None or not subject.state.keeps_state(subject.module):
        return None
    examples = {tokens: one_way.example(torch.zeros(2, tokens, dtype=torch.long)) for tokens in range(2, total + 1)}
    if examples[total].groups[0].sees.native != "causal" or examples[total].window_row.tolist() != [0, 1]:
        return None
    slots = {}
    for prefix in range(1, total):
        example = examples[prefix + 1]
        if (slot := one_way.next_slot(example, prefix)) is None:
            return None
        ids, sources = (one_way.slots_in_reading_order(example, by) for by in (example.inputs, example.input_source))
        slots[prefix] = (ids[0, : slot + 1], sources[0, : slot + 1])
    is_turned = examples[total].groups[0].sees.reads_from_end
    reader = subject.state.of_flipped_rows() if is_turned else subject.state
    return OwnStep(one_way, reader, examples[total].inputs.shape[1], slots)


@dataclass
class OwnStep:
    """A `Step` that uses the model's own state. A call that continues the previous tokens reads only the new tokens.

    Attributes:
        total_slots: the number of slots that the state has room for.
        slots: for each number of tokens in a prefix, the ids and the sources of the slots up to the one that predicts the next
            token, in the order in which the model reads the slots.
    """

    one_way: OneWay
    reader: StateReader
    total_slots: int
    slots: Mapping[int, tuple[Tensor, Tensor]]
    module: nn.Module | None = None
    read_ids: Tensor = field(default_factory=lambda: torch.empty(0, 0, dtype=torch.long))
    state: Any = None

    def __call__(self, module: nn.Module, prefix: Tensor, group: str) -> Tensor:
        """(B, V) logits of the token after (rtl: before) the prefix."""
        tokens = self._tokens_before_the_next(prefix)
        count = self.read_ids.shape[1]
        fits = len(tokens) == len(self.read_ids) and count < tokens.shape[1]
        continues = fits and torch.equal(tokens[:, :count], self.read_ids)
        if self.state is None or module is not self.module or not continues:
            self.module, self.state, count = module, self.reader.begin(module, len(tokens), self.total_slots), 0
        new = tokens[:, count:].to(self.one_way.subject.device)
        hidden, self.state = self.reader.extend(module, new, self.state)
        self.read_ids = tokens
        return self.reader.logits(module, hidden[:, -1])

    def _tokens_before_the_next(self, prefix: Tensor) -> Tensor:
        """(B, slots) ids up to the slot that predicts the next token, in the order in which the model reads the slots."""
        ids, sources = self.slots[prefix.shape[1]]
        window = self.one_way.grown(prefix.cpu())
        return torch.where(sources == NO_SOURCE, ids, window[:, sources.clamp_min(0)])


def _state(one_way: OneWay, reader: StateReader, module: nn.Module, rng: Generator) -> Finding:
    """C6.state: read four windows at once in chunks of several sizes, up to the last slot that the state has room for, and one
    beyond.
    """
    subject, tolerance = one_way.subject, one_way.tolerance(torch.float64)
    windows = torch.randint(subject.content_tokens, (STATE_WINDOWS, one_way.total_tokens), generator=rng)
    example = one_way.example(windows)
    whole = one_way.slots_in_reading_order(example, subject.logits(module, example)).double()
    worst, place, scale = 0.0, "", spread(whole)
    for way, logits in _ways(reader, module, one_way.slot_ids(example)):
        change = largest_change(logits.cpu().double(), whole[:, : logits.shape[1]]) / scale
        if float(change.max()) > worst:
            worst, (row, slot) = float(change.max()), divmod(int(change.argmax()), change.shape[1])
            place = f"at slot {slot} of row {row}, {way}"
    verdict = f"differ {place}" if worst > tolerance else "agree"
    message = f"logits from its state and in one pass {verdict} ({worst:.1e}, allowed {tolerance:.0e})"
    return one_way.finding(
        "C6.state", worst > tolerance, message, {"largest_difference": min(worst, LARGEST)}, tolerance
    )


def _ways(reader: StateReader, module: nn.Module, tokens: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The (B, T, V) logits of each way to read the rows. Fewer than T slots if the model refused some for lack of room.

    C6.generation and C6.nats read slot by slot.
    """
    slots = tokens.shape[1]
    half = slots // 2
    growing = [size for size in range(1, slots) if size * (size + 1) // 2 <= slots]
    room = slots - half
    for way, chunks, room_slots in (
        ("with half of it read at once", [half] + [1] * (slots - half), slots),
        ("read in growing chunks", [*growing, slots - sum(growing)], slots),
        ("with room for half of it", [room - 1] + [1] * (half + 1), room),
    ):
        yield way, _read(reader, module, tokens, chunks, room_slots)


def _read(reader: StateReader, module: nn.Module, tokens: Tensor, chunks: Sequence[int], room: int) -> Tensor:
    """The logits of the slots that were read: all slots, or the slots before the first one that is refused for lack of room."""
    state, first, logits = reader.begin(module, len(tokens), room), 0, []
    for size in filter(None, chunks):
        try:
            hidden, state = reader.extend(module, tokens[:, first : first + size], state)
        except REFUSALS:
            if first + size <= room:
                raise
            break
        logits.append(reader.logits(module, hidden))
        first += size
    return torch.cat(logits, 1)
