"""Small objectives beyond ltr and rtl, each with the defect that can be planted in it. `broken=False` is the clean twin.

They are written for clarity, a window at a time; the contract of each is that of its definition in the clean form.
"""

from __future__ import annotations

import torch
from small_stacks import Attention, causal
from torch import Generator, Tensor, nn

from palinode.base.example import NO_SOURCE, Draw, Example, Group, SpecialTokens, joined, one_pass
from palinode.base.visibility import Full, Ltr, Prefix, Rtl
from palinode.objectives import Objective, Progress


class ShiftedLtr(Objective):
    """Next-token prediction with its targets `shift` tokens after the input: 1 is right, 0 predicts the own input, 2 skips one."""

    shift: int = 1

    def example(self, windows: Tensor, draw: Draw, specials: SpecialTokens) -> Example:
        index = torch.arange(windows.shape[1])
        sources, targets = index[: len(index) - self.shift], index[self.shift :]
        return one_pass(windows, name="ltr", sees=Ltr(), input_source=sources, target_source=targets)

    def may_inform(self, source: Tensor, target: Tensor, group: str, draw: Draw) -> Tensor:
        return source < target


class TokenAtWrongEnd(Objective):
    """rtl whose direction token stands at the start of the text, so that the text is shifted the wrong way."""

    def example(self, windows: Tensor, draw: Draw, specials: SpecialTokens) -> Example:
        index = torch.arange(windows.shape[1])
        return one_pass(
            windows, name="rtl", sees=Rtl(), input_source=index - 1, target_source=index, special_input=specials["[R]"]
        )

    def may_inform(self, source: Tensor, target: Tensor, group: str, draw: Draw) -> Tensor:
        return source > target

    def groups(self) -> tuple[str, ...]:
        return ("rtl",)


class ParityToken(Objective):
    """ltr whose direction token is `[R]` when the last token is odd."""

    broken: bool = True

    def example(self, windows: Tensor, draw: Draw, specials: SpecialTokens) -> Example:
        index = torch.arange(windows.shape[1])
        special = torch.full((len(windows), len(index)), specials["[L]"])
        if self.broken:
            special += (windows[:, -1:] % 2) * (specials["[R]"] - specials["[L]"])
        return one_pass(
            windows,
            name="ltr",
            sees=Ltr(),
            input_source=(index - 1).expand(len(windows), -1),
            target_source=index,
            special_input=special,
        )

    def may_inform(self, source: Tensor, target: Tensor, group: str, draw: Draw) -> Tensor:
        return source < target


class FalseProvenance(Objective):
    """ltr with the right ids and sources that are all one too low."""

    broken: bool = True

    def example(self, windows: Tensor, draw: Draw, specials: SpecialTokens) -> Example:
        index = torch.arange(windows.shape[1] - 1)
        inputs, targets = windows[:, :-1], windows[:, 1:]
        shift = 1 if self.broken else 0
        sources = (index - shift).clamp_min(0).expand_as(inputs)
        return Example(
            inputs=inputs,
            input_source=sources,
            targets=targets,
            target_source=(index + 1 - shift).expand_as(inputs),
            loss_weight=torch.ones(inputs.shape),
            window_row=torch.arange(len(windows)),
            groups=(Group("ltr", Ltr(), len(windows)),),
        )

    def may_inform(self, source: Tensor, target: Tensor, group: str, draw: Draw) -> Tensor:
        return source < target


class Masked(Objective):
    """What masked objectives share: a hidden set H of round(rate N) tokens."""

    rate: float = 0.25

    def draw(self, batch: int, window_tokens: int, generator: Generator, progress: Progress) -> Draw:
        ranks = torch.rand(batch, window_tokens, generator=generator).argsort(1).argsort(1)
        count = max(1, round(self.rate * window_tokens))
        return Draw({"hidden": ranks < count, "kept": ranks < max(1, count // 10)})


class MaskedLm(Masked):
    """Masked LM. `kept`: a tenth of the hidden tokens stays visible, undeclared; `all_slots`: shown tokens are scored too."""

    kept: bool = False
    all_slots: bool = False

    def example(self, windows: Tensor, draw: Draw, specials: SpecialTokens) -> Example:
        index = torch.arange(windows.shape[1]).expand_as(windows)
        covered = draw["hidden"] & ~draw["kept"] if self.kept else draw["hidden"]
        return one_pass(
            windows,
            name="mlm",
            sees=Full(),
            input_source=index.masked_fill(covered, NO_SOURCE),
            target_source=index,
            special_input=specials["[MASK]"],
            loss_weight=torch.ones(windows.shape) if self.all_slots else draw["hidden"].float(),
        )

    def may_inform(self, source: Tensor, target: Tensor, group: str, draw: Draw) -> Tensor:
        return ~draw["hidden"][source] & (target >= 0)

    def groups(self) -> tuple[str, ...]:
        return ("mlm",)


class Meap(Masked):
    """ltr with masked inputs. `masked_targets`: the targets are masked too; `chosen_by_ids`: low ids are hidden instead."""

    masked_targets: bool = False
    chosen_by_ids: bool = False

    def example(self, windows: Tensor, draw: Draw, specials: SpecialTokens) -> Example:
        hidden = windows % 4 == 0 if self.chosen_by_ids else draw["hidden"]
        index = torch.arange(windows.shape[1]).expand_as(windows)
        source = torch.where(hidden, NO_SOURCE, index).roll(1, 1)
        source[:, 0] = NO_SOURCE
        special = torch.full(windows.shape, specials["[MASK]"])
        special[:, 0] = specials["[L]"]
        example = one_pass(
            windows, name="ltr", sees=Ltr(), input_source=source, target_source=index, special_input=special
        )
        if self.masked_targets:
            example.targets.masked_fill_(hidden, specials["[MASK]"])
        return example

    def may_inform(self, source: Tensor, target: Tensor, group: str, draw: Draw) -> Tensor:
        return (source < target) & ~draw["hidden"][source]


class PrefixLm(Objective):
    """Prefix of P tokens seen in full, the rest predicted. `scored_too_early` tokens of the prefix are scored as well."""

    scored_too_early: int = 0

    def draw(self, batch: int, window_tokens: int, generator: Generator, progress: Progress) -> Draw:
        return Draw({"prefix": torch.full((batch,), window_tokens // 2)})

    def example(self, windows: Tensor, draw: Draw, specials: SpecialTokens) -> Example:
        index = torch.arange(windows.shape[1])
        prefix = int(draw["prefix"][0])
        return one_pass(
            windows,
            name="prefix",
            sees=Prefix(length_slots=prefix + 1),
            input_source=index - 1,
            target_source=index,
            special_input=specials["[L]"],
            loss_weight=(index >= prefix - self.scored_too_early).float(),
        )

    def may_inform(self, source: Tensor, target: Tensor, group: str, draw: Draw) -> Tensor:
        return ((source < draw["prefix"]) | (source < target)) & (target >= draw["prefix"])

    def groups(self) -> tuple[str, ...]:
        return ("prefix",)


class FillInTheMiddle(Objective):
    """`[PRE] prefix [SUF] suffix [MID] middle [EOM]` of the first N - 3 tokens. `broken`: the prefix keeps the middle."""

    broken: bool = False

    def _parts(self, window_tokens: int) -> tuple[list[int], list[int], list[int]]:
        used = window_tokens - 3
        if used < 3:
            raise ValueError(f"a window of {window_tokens} tokens has no middle")
        start, end = used // 3, 2 * used // 3
        return list(range(start)), list(range(end, used)), list(range(start, end))

    def example(self, windows: Tensor, draw: Draw, specials: SpecialTokens) -> Example:
        prefix, suffix, middle = self._parts(windows.shape[1])
        marks = [specials[mark] for mark in ("[PRE]", "[SUF]", "[MID]", "[EOM]")]
        shown = [*prefix, *middle] if self.broken else prefix
        stream = torch.tensor([NO_SOURCE, *shown, NO_SOURCE, *suffix, NO_SOURCE, *middle, NO_SOURCE])
        special = torch.zeros_like(stream)
        special[stream == NO_SOURCE] = torch.tensor(marks)
        return one_pass(
            windows,
            name="fim",
            sees=Ltr(),
            input_source=stream[:-1],
            target_source=stream[1:],
            special_input=special[:-1],
            special_target=special[1:],
        )

    def may_inform(self, source: Tensor, target: Tensor, group: str, draw: Draw) -> Tensor:
        window_tokens = int(max(source.max(), target.max())) + 1
        rank = torch.full((window_tokens,), -1)
        order = [token for part in self._parts(window_tokens) for token in part]
        rank[order] = torch.arange(len(order))
        return (rank[source] >= 0) & (rank[source] < rank[target])

    def groups(self) -> tuple[str, ...]:
        return ("fim",)


class SpanCorruption(Objective):
    """One span is cut out and predicted after the rest. `broken`: the left part may read the right part, where the span is."""

    broken: bool = False

    def draw(self, batch: int, window_tokens: int, generator: Generator, progress: Progress) -> Draw:
        span = max(1, window_tokens // 4)
        return Draw({"start": torch.randint(1, window_tokens - span, (batch,), generator=generator)})

    def example(self, windows: Tensor, draw: Draw, specials: SpecialTokens) -> Example:
        length = windows.shape[1]
        span = max(1, length // 4)
        rows = []
        for start in draw["start"].tolist():
            left = [*range(start), NO_SOURCE, *range(start + span, length)]
            rows.append([*left, NO_SOURCE, *range(start, start + span)])
        stream = torch.tensor(rows)
        left_slots = length - span + 1
        weight = (torch.arange(length + 1) >= left_slots).float()
        return one_pass(
            windows,
            name="span",
            sees=Full() if self.broken else Prefix(length_slots=left_slots),
            input_source=stream[:, :-1],
            target_source=stream[:, 1:],
            special_input=specials["[Sm]"],
            special_target=specials["[Sm]"],
            loss_weight=weight,
        )

    def may_inform(self, source: Tensor, target: Tensor, group: str, draw: Draw) -> Tensor:
        start = draw["start"]
        span = max(1, (int(max(source.max(), target.max())) + 1) // 4)
        inside = (source >= start) & (source < start + span)
        return ~inside | (source < target)

    def groups(self) -> tuple[str, ...]:
        return ("span",)


class MultiToken(Objective):
    """Two heads on one trunk, the second for the token after next. `broken`: both heads share the shift of the first."""

    broken: bool = False

    def example(self, windows: Tensor, draw: Draw, specials: SpecialTokens) -> Example:
        index = torch.arange(windows.shape[1])
        later = index + (0 if self.broken else 1)
        later = torch.where(later < len(index), later, NO_SOURCE)
        passes = []
        for name, targets in (("head 1", index), ("head 2", later)):
            passes.append(
                one_pass(
                    windows,
                    name=name,
                    sees=Ltr(),
                    input_source=index - 1,
                    target_source=targets,
                    special_input=specials["[L]"],
                )
            )
        return joined(passes)

    def may_inform(self, source: Tensor, target: Tensor, group: str, draw: Draw) -> Tensor:
        return source <= target - int(group[-1])

    def groups(self) -> tuple[str, ...]:
        return ("head 1", "head 2")


class TwoHeads(nn.Module):
    """A causal stack with a head for each of MultiToken's passes."""

    def __init__(self, trunk: nn.Module, width: int, vocab_size: int):
        super().__init__()
        self.trunk = trunk
        self.heads = nn.ModuleList(nn.Linear(width, vocab_size) for _ in range(2))


def read_two_heads(module: nn.Module, example: Example) -> Tensor:
    return torch.cat(
        [
            module.heads[int(group.name[-1]) - 1](module.trunk(example.inputs[rows]))
            for group, rows in example.by_group()
        ]
    )


class BeliefPairs(Objective):
    """next w_i and previous w_j from w_<i and w_>j, for one pair i <= j a window. `broken`: j = i - 1, an empty interior.

    The pair travels with the Example as two more slots after the window, which hold the numbers i and j.
    """

    broken: bool = False

    def draw(self, batch: int, window_tokens: int, generator: Generator, progress: Progress) -> Draw:
        first = torch.randint(1, window_tokens - 1, (batch,), generator=generator)
        width = torch.randint(0, 3, (batch,), generator=generator)
        last = first - 1 if self.broken else (first + width).clamp_max(window_tokens - 1)
        return Draw({"i": first, "j": last})

    def example(self, windows: Tensor, draw: Draw, specials: SpecialTokens) -> Example:
        count, length = windows.shape
        pair = torch.stack([draw["i"], draw["j"]], 1)
        nowhere = torch.full((count, 2), NO_SOURCE)
        sources = torch.cat([torch.arange(length).expand(count, -1), nowhere], 1)
        index = torch.arange(length + 2)
        return one_pass(
            windows,
            name="pairs",
            sees=Full(),
            input_source=sources,
            target_source=sources,
            special_input=torch.cat([torch.zeros_like(windows), pair], 1),
            loss_weight=((index == pair[:, :1]) | (index == pair[:, 1:])).float(),
        )

    def may_inform(self, source: Tensor, target: Tensor, group: str, draw: Draw) -> Tensor:
        return ((source < draw["i"]) | (source > draw["j"])) & (target >= 0)

    def groups(self) -> tuple[str, ...]:
        return ("pairs",)


class BeliefStack(nn.Module):
    """A causal encoder from each side, and two heads on [F_i; B_j]."""

    def __init__(self, vocab_size: int, width: int = 32):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        self.ltr, self.rtl = Attention(width), Attention(width)
        self.next = nn.Sequential(nn.Linear(2 * width, 2 * width), nn.GELU(), nn.Linear(2 * width, vocab_size))
        self.previous = nn.Sequential(nn.Linear(2 * width, 2 * width), nn.GELU(), nn.Linear(2 * width, vocab_size))

    def states(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """F (R, S + 1, D), B (R, S + 1, D): what is known before slot i, and after slot j."""
        x = self.embedding(tokens)
        mask = causal(tokens.shape[1])
        from_left = x + self.ltr(x, mask)
        from_right = (x.flip(1) + self.rtl(x.flip(1), mask)).flip(1)
        nothing = torch.zeros_like(x[:, :1])
        return torch.cat([nothing, from_left], 1), torch.cat([from_right, nothing], 1)


def read_pairs(module: nn.Module, example: Example) -> Tensor:
    """Logits of w_i at slot i from the head `next`, of w_j at the other slots from `previous`."""
    first, last = example.inputs[:, -2], example.inputs[:, -1]
    before, after = module.states(example.inputs[:, :-2])
    row = torch.arange(len(first))
    pair = torch.cat([before[row, first], after[row, last + 1]], -1)
    is_first = (torch.arange(example.inputs.shape[1]) == first[:, None])[..., None]
    return torch.where(is_first, module.next(pair)[:, None], module.previous(pair)[:, None])
