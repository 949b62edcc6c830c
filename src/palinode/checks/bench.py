"""What all checks of C1 share: the model under audit, its Draws for each length, its copies with random weights, its precision."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor, nn

from palinode.base.errors import BadInput
from palinode.base.seeds import generator
from palinode.checks.copies import exact_arithmetic, randomised_copy, rounding_noise, seeded_passes
from palinode.checks.draws import DrawBank, draw_bank
from palinode.checks.subject import Subject

# A share of the logits' standard deviation. Models without a leak reach 1e-14; the smallest planted leak at gain 1 is 2e-12.
TOLERANCE = 1e-12
COARSE_TOLERANCE = 1e-4  # used where the arithmetic is coarser than float64: a check can then fail, but it cannot pass
COARSE_ROUNDING = 1e-11  # a smooth model in float64 gives 1e-14, a model with a hidden float32 operation gives 1e-8
BANK_ENTRIES = 64
FEW_IDS = 4
MOST_IDS, SAMPLED_IDS, END_IDS = 4096, 1024, 64
SEVERAL_ROWS = 3  # three rows are enough to detect a module that mixes the rows of a batch
SHORT_TOKENS = 33  # the window length in tokens for the checks of C1 that need only one length
REFUSALS = (BadInput, ValueError, IndexError, RuntimeError, ArithmeticError)


@dataclass
class Bench:
    """One model under audit, and what C1 needs to measure it. Each bank of Draws and each copy of the module is made only once."""

    subject: Subject
    banks: dict[int, DrawBank] = field(default_factory=dict)
    copies: dict[float, nn.Module] = field(default_factory=dict)
    refused: dict[int, bool] = field(default_factory=dict)
    train_refused: dict[int, str] = field(default_factory=dict)
    coarse: bool = False
    mixed: dict[int, str] = field(default_factory=dict)

    @classmethod
    def of(cls, subject: Subject) -> Bench:
        """The bench of a subject. The bench records whether the subject's arithmetic is coarser than float64."""
        bench = cls(subject)
        bench.coarse = bench._rounds_coarsely()
        return bench

    @property
    def bank(self) -> DrawBank:
        """The bank of Draws for windows of the training length. C1 audits the passes that occur in this bank."""
        return self.bank_at(self.subject.window_tokens)

    @property
    def tolerance(self) -> float:
        """The largest allowed difference between two values that must be equal."""
        return COARSE_TOLERANCE if self.coarse else TOLERANCE

    def bank_at(self, length_tokens: int) -> DrawBank:
        """The bank of Draws for windows of this length. Draws are added until every pass of the training length occurs."""
        if length_tokens not in self.banks:
            training = self.subject.window_tokens
            passes = None if length_tokens == training else self.bank_at(training).groups
            self.banks[length_tokens] = draw_bank(self.subject, length_tokens, most_entries=BANK_ENTRIES, passes=passes)
        return self.banks[length_tokens]

    def reach_tokens(self, group: str) -> int | None:
        """The number of tokens that the model is built to see in the pass `group`; None means the whole window."""
        subject = self.subject
        windows = torch.zeros(1, subject.window_tokens, dtype=torch.long)
        example = subject.example(windows, self.bank.with_pass(group).draw)
        return next(subject.reach_in(one) for one, _ in example.by_group() if one.name == group)

    @property
    def short_tokens(self) -> int:
        """33 tokens, if the training windows are longer and the model accepts 33 tokens; else the training length."""
        short = min(SHORT_TOKENS, self.subject.window_tokens)
        return short if self.accepts(short) else self.subject.window_tokens

    def accepts(self, length_tokens: int) -> bool:
        """Whether the objective and the module accept windows of this length.

        The lengths of training and evaluation windows count as accepted without a test.
        """
        if length_tokens in self.subject.used_lengths:
            return True
        if length_tokens not in self.refused:
            subject = self.subject
            fits = 1 <= length_tokens <= subject.max_window_tokens or length_tokens in subject.lengths_beyond
            self.refused[length_tokens] = not fits or self._raises(length_tokens)
        return not self.refused[length_tokens]

    def trains_at(self, length_tokens: int) -> bool:
        """Whether the module accepts windows of this length in train mode too. `train_refused` keeps the message of a refusal."""
        if length_tokens not in self.train_refused:
            try:
                # Read with a copy, because the module may store statistics of a batch.
                self._read_zeros(self.fresh_copy().train(), length_tokens)
                self.train_refused[length_tokens] = ""
            except REFUSALS as refusal:
                self.train_refused[length_tokens] = str(refusal)
        return not self.train_refused[length_tokens]

    def mixes_rows(self, length_tokens: int) -> bool:
        """Whether the module gives logits of the right shape for one row but not for several rows. `mixed` keeps the message."""
        subject = self.subject
        for entry in self.bank_at(length_tokens).covering(1):
            shapes = []
            for rows in (1, SEVERAL_ROWS):
                windows = torch.zeros(rows, length_tokens, dtype=torch.long)
                example = subject.example(windows, entry.draw.repeated(rows))
                read = subject.logits if rows == 1 else subject.forward
                with torch.no_grad(), exact_arithmetic(), seeded_passes(subject.seed, "accepts"):
                    logits = read(self.copy(1.0).eval(), example.to(subject.device))
                shapes.append((tuple(example.inputs.shape), tuple(logits.shape[:2])))
            (one, of_one), (several, of_several) = shapes
            if one == of_one and several != of_several and 0 not in several:
                self.mixed[length_tokens] = (
                    f"{several[0]} rows of {several[1]} slots get logits of shape ({of_several[0]}, {of_several[1]}, V); "
                    "one row alone is read as it should be"
                )
        return length_tokens in self.mixed

    def copy(self, gain: float) -> nn.Module:
        """A copy of the module with random weights, so that information flows on every path. `gain` scales the random matrices."""
        if gain not in self.copies:
            self.copies[gain] = self.fresh_copy(gain)
        return self.copies[gain]

    def fresh_copy(self, gain: float = 1.0) -> nn.Module:
        """A new copy with the same weights as `copy(gain)`. The new copy has not read any row yet."""
        rng = generator(self.subject.seed, "audit", "weights", f"{gain}")
        return randomised_copy(self.subject.module, gain, rng)

    def window(self, kind: str, length_tokens: int, rng: Generator) -> Tensor:
        """(length_tokens,) ids of a window of some kind.

        The kinds: `random`, `repeats` (three ids in turn), `equal` (one id), `distinct` (no id twice), `few` (four ids), `marker`
        (about half of the ids are from `marker_ids`).
        """
        vocabulary = self.subject.content_tokens
        if kind == "repeats":
            return torch.randint(vocabulary, (3,), generator=rng).repeat(length_tokens // 3 + 1)[:length_tokens]
        if kind == "equal":
            return torch.randint(vocabulary, (1,), generator=rng).repeat(length_tokens)
        if kind == "distinct":
            return torch.randperm(vocabulary, generator=rng)[:length_tokens]
        if kind == "few":
            return torch.randint(vocabulary, (FEW_IDS,), generator=rng)[
                torch.randint(FEW_IDS, (length_tokens,), generator=rng)
            ]
        window = torch.randint(vocabulary, (length_tokens,), generator=rng)
        if kind == "marker":
            markers = torch.tensor(self.subject.marker_ids)
            chosen = markers[torch.randint(len(markers), (length_tokens,), generator=rng)]
            window = torch.where(torch.rand(length_tokens, generator=rng) < 0.5, chosen, window)
        return window

    def tried_ids(self) -> Tensor:
        """The ids that C1 puts into a row one by one.

        A vocabulary of at most 4096 ids is tried completely. Of a larger vocabulary C1 tries the marker ids, the first 64 ids, the
        last 64 ids, and a random sample of 1024 ids.
        """
        vocabulary = self.subject.content_tokens
        if vocabulary <= MOST_IDS:
            return torch.arange(vocabulary)
        rng = generator(self.subject.seed, "audit", "ids")
        sample = torch.randperm(vocabulary, generator=rng)[:SAMPLED_IDS].tolist()
        ends = [*range(END_IDS), *range(vocabulary - END_IDS, vocabulary)]
        return torch.tensor(list(dict.fromkeys([*self.subject.marker_ids, *ends, *sample])))

    def _raises(self, length_tokens: int) -> bool:
        try:
            return self.mixes_rows(length_tokens)
        except REFUSALS:
            return True

    def _read_zeros(self, module: nn.Module, length_tokens: int) -> None:
        """Read rows of zeros in every pass. A module that refuses rows of this length raises its error here."""
        window = torch.zeros(SEVERAL_ROWS, length_tokens, dtype=torch.long)
        for entry in self.bank_at(length_tokens).covering(1):
            example = self.subject.example(window, entry.draw.repeated(SEVERAL_ROWS))
            with torch.no_grad(), exact_arithmetic(), seeded_passes(self.subject.seed, "accepts"):
                self.subject.logits(module, example)

    def _rounds_coarsely(self) -> bool:
        """Whether some operation inside the module rounds more coarsely than float64."""
        subject = self.subject
        rng = generator(subject.seed, "audit", "rounding")
        length = self.short_tokens
        entry = self.bank_at(length).covering(1)[0]
        example = subject.example(self.window("random", length, rng)[None], entry.draw)
        module = self.copy(1.0).eval()

        def logits_of(copied: nn.Module) -> Tensor:
            with torch.no_grad(), seeded_passes(subject.seed, "rounding"):
                return subject.logits(copied, example)

        with exact_arithmetic():
            return rounding_noise(logits_of, module, rng) > COARSE_ROUNDING
