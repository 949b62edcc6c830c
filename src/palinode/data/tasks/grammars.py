"""Languages with structure over many scales: a random hierarchy, and a context-free grammar; both with exact entropies.

hierarchy   a tree of 2^levels leaves; every symbol has equally likely pairs of symbols below it, and every pair has one parent
grammar     a stream of sentences of a simple grammar; an end token closes each

Shapes: B sequences, T tokens, V ids; M nonterminals, R rules of each.
"""

from __future__ import annotations

import functools
import math
from typing import ClassVar

import torch
from pydantic import Field
from torch import Generator, Tensor

from palinode.base.seeds import generator
from palinode.data.tasks.base import Direction, Language, Sample, exp
from palinode.data.tasks.draws import integers
from palinode.data.tasks.laws import entropy_nats

NONE = -1
MOST_GROWTH = 0.85  # spectral radius of the expected children of one expansion; below 1, so that sentences end


class Hierarchy(Language):
    """Sentences of 2^levels tokens. All pairs of a level are different, so a sentence has one derivation.

    Attributes:
        symbols: V symbols of every level; those of the lowest are the tokens.
        productions: pairs below each symbol.
        levels: of the tree.
        rules_seed: chooses the rules. A tree with one more level keeps the rules of the levels below.
    """

    kind: ClassVar[str] = "hierarchy"
    symbols: int = Field(default=8, ge=2, le=1024)
    productions: int = Field(default=4, ge=1)
    levels: int = Field(default=4, ge=1, le=16)
    rules_seed: int = Field(default=0, ge=0)

    def check_sizes(self) -> None:
        message = f"{self.symbols} symbols have pairs for at most {self.symbols} productions each"
        self.require(self.productions <= self.symbols, message, "productions")

    @property
    def vocab_size(self) -> int:
        return self.symbols

    @property
    def length_tokens(self) -> int:
        return int(2**self.levels)

    def rules(self, level: int) -> Tensor:
        """(V, productions, 2): the pairs below each symbol of a level; level 1 is just above the tokens."""
        return _pairs_below(self.symbols, self.productions, level, self.rules_seed)

    def sample(self, count: int, rng: Generator) -> Sample:
        symbols = integers(self.symbols, (count, 1), rng)
        for level in range(self.levels, 0, -1):
            choice = integers(self.productions, tuple(symbols.shape), rng)
            symbols = self.rules(level)[symbols, choice].view(count, -1)
        return Sample.answered_from(symbols, 0)

    def with_length(self, factor: int) -> Hierarchy:
        """Twice as long is one level more."""
        more = factor.bit_length() - 1
        self.require(factor >= 1 and factor == 1 << more, f"a tree grows by powers of 2, not {factor} times", "factor")
        return self.resized(levels=self.levels + more)

    def sequence_nats(self) -> float:
        """The entropy of the root, and of one choice at each of 2^levels - 1 nodes."""
        return math.log(self.symbols) + (self.length_tokens - 1) * math.log(self.productions)

    def first_token_nats(self) -> float:
        return self._edge_nats(0)

    def last_token_nats(self) -> float:
        return self._edge_nats(1)

    def _edge_nats(self, side: int) -> float:
        law = torch.full((self.symbols,), 1 / self.symbols, dtype=torch.float64)
        for level in range(self.levels, 0, -1):
            below = self.rules(level)[..., side]
            share = (law[:, None] / self.productions).expand(below.shape)
            law = torch.zeros_like(law).scatter_add_(0, below.flatten(), share.flatten())
        return entropy_nats(law.tolist())

    def support(self) -> float:
        return exp(self.sequence_nats())


class Grammar(Language):
    """A stream of sentences of a random simple grammar, cut to T tokens; the first sentence starts at the first token.

    Every rule is one terminal and then up to two nonterminals. The rules of a nonterminal start with different terminals, so every
    sentence has one derivation, which can be read off it. A sequence ends after T tokens, also inside a sentence.

    Attributes:
        nonterminals: M; sentences start from the first.
        rules: R of each nonterminal.
        terminals: number of terminals, the ids from 0; the next id ends a sentence.
        length: T.
        rules_seed: chooses the grammar.
    """

    kind: ClassVar[str] = "grammar"
    length_field: ClassVar[str] = "length"
    nonterminals: int = Field(default=4, ge=1, le=256)
    rules: int = Field(default=3, ge=2)
    terminals: int = Field(default=8, ge=2, le=4096)
    length: int = Field(default=64, ge=2, le=2**12)
    rules_seed: int = Field(default=0, ge=0)

    def check_sizes(self) -> None:
        message = f"{self.rules} rules need as many terminals, there are {self.terminals}"
        self.require(self.rules <= self.terminals, message, "rules")

    @property
    def vocab_size(self) -> int:
        return self.terminals + 1

    @property
    def length_tokens(self) -> int:
        return self.length

    def table(self) -> tuple[Tensor, Tensor, Tensor]:
        """By nonterminal and rule: probability (M, R), terminal (M, R), nonterminals after it (M, R, 2) or NONE."""
        return _simple_grammar(self.nonterminals, self.rules, self.terminals, self.rules_seed)

    def sample(self, count: int, rng: Generator) -> Sample:
        chances, terminals, children = self.table()
        bounds = chances.cumsum(1)
        stack = torch.zeros(count, self.length + 3, dtype=torch.long)  # an expansion makes it at most one higher
        height = torch.ones(count, dtype=torch.long)
        tokens = torch.empty(count, self.length, dtype=torch.long)
        noise = torch.rand(self.length, count, 1, generator=rng, dtype=torch.float64)
        rows, sentences = torch.arange(count), torch.zeros(count, dtype=torch.long)
        for t in range(self.length):
            inside = height > 0
            top = stack[rows, (height - 1).clamp_min(0)]
            rule = (noise[t] >= bounds[top]).sum(1).clamp_max(self.rules - 1)
            tokens[:, t] = torch.where(inside, terminals[top, rule], self.terminals)
            first, second = children[top, rule].unbind(1)
            height = (height - 1).clamp_min(0)
            # The first child lies on top; after an end token the next sentence starts; NONE is written above the top, uncounted.
            for child in (torch.where(inside, second, NONE), torch.where(inside, first, 0)):
                stack[rows, height] = child
                height = height + (child != NONE)
            sentences += ~inside
        return Sample.answered_from(tokens, 0, sentences=sentences)

    def rule_nats(self) -> Tensor:
        """(M,): entropy of the choice of a rule."""
        chances = self.table()[0]
        nats: Tensor = torch.special.xlogy(chances, chances).sum(1)
        return -nats

    def rate_nats(self) -> float:
        """Nats a token of an endless stream, in either direction: entropy of a sentence / (its mean length + 1)."""
        chances, _, children = self.table()
        expansions = torch.eye(self.nonterminals, dtype=torch.float64) - _expected_children(chances, children)
        inverse = torch.linalg.inv(expansions)
        nats, lengths = inverse @ self.rule_nats(), inverse.sum(1)
        return float(nats[0] / (lengths[0] + 1))

    def tops(self) -> tuple[Tensor, Tensor]:
        """P(a nonterminal is on top of the stack at token t), (T, M), and P(token t ends a sentence), (T,)."""
        return _tops(self)

    def nats_by_position(self, direction: Direction) -> Tensor | None:
        """ltr: the entropy of the choice of a rule for the top of the stack. rtl has no closed form (its total is the same)."""
        return self._step_nats() if direction == "ltr" else None

    def _step_nats(self) -> Tensor:
        return (self.tops()[0] * self.rule_nats()).sum(1)

    def sequence_nats(self) -> float:
        return float(self._step_nats().sum())

    def first_token_nats(self) -> float:
        return float(self.rule_nats()[0])

    def last_token_nats(self) -> float:
        chances, terminals, _ = self.table()
        tops, ends = self.tops()
        law = torch.zeros(self.vocab_size, dtype=torch.float64)
        law.scatter_add_(0, terminals.flatten(), (tops[-1][:, None] * chances).flatten())
        law[-1] = ends[-1]
        return entropy_nats(law.tolist())


@functools.cache
def _pairs_below(symbols: int, productions: int, level: int, seed: int) -> Tensor:
    pairs = torch.randperm(symbols**2, generator=generator(seed, "hierarchy", level))[: symbols * productions]
    return torch.stack([pairs // symbols, pairs % symbols], 1).view(symbols, productions, 2)


@functools.cache
def _simple_grammar(nonterminals: int, rules: int, terminals: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    rng = generator(seed, "grammar")
    shape = (nonterminals, rules)
    leading = torch.rand(nonterminals, terminals, generator=rng).argsort(1)[:, :rules]
    children = torch.randint(nonterminals, (*shape, 2), generator=rng)
    children[..., 1] = torch.where(torch.rand(shape, generator=rng) < 0.5, children[..., 1], NONE)
    children[:, 0] = NONE  # the first rule of each nonterminal has no children
    chances = torch.randn(shape, generator=rng, dtype=torch.float64).softmax(1)
    growth = float(torch.linalg.eigvals(_expected_children(chances, children)).abs().max())
    factor = min(1.0, MOST_GROWTH / growth) if growth else 1.0
    chances = chances * factor
    chances[:, 0] += 1 - factor
    return chances, leading, children


def _expected_children(chances: Tensor, children: Tensor) -> Tensor:
    """(M, M): how many of each nonterminal one expansion makes on average."""
    counts = torch.zeros(len(chances), len(chances), dtype=torch.float64)
    for child in children.unbind(2):
        counts.scatter_add_(1, child.clamp_min(0), torch.where(child != NONE, chances, 0.0))
    return counts


@functools.cache
def _tops(grammar: Grammar) -> tuple[Tensor, Tensor]:
    """By renewal: the law of a nonterminal's size, of what is on top of the stack inside it, and of where sentences start."""
    chances, _, children = grammar.table()
    many, size = len(chances), grammar.length
    first, second = children.clamp_min(0).unbind(2)
    one, two = (children != NONE).double().unbind(2)
    sizes = torch.zeros(many, size, dtype=torch.float64)  # (M, T): P(size t); size 0 has probability 0
    inside = torch.zeros(many, size, many, dtype=torch.float64)  # (M, T, M): P(Y is on top t tokens after X was)
    inside[:, 0] = torch.eye(many, dtype=torch.float64)
    for t in range(1, size):
        left = sizes[first, :t].flip(2)  # the first child has size t - 1 - j ..
        alone = torch.where(one > 0, sizes[first, t - 1], float(t == 1))
        whole = two * (left * sizes[second, :t]).sum(2) + (1 - two) * alone  # .. and the second j
        later = torch.einsum("xrj,xrjy->xry", left, inside[second, :t])
        sizes[:, t] = (chances * whole).sum(1)
        inside[:, t] = (chances[..., None] * (one[..., None] * inside[first, t - 1] + two[..., None] * later)).sum(1)
    starts, ends = torch.zeros(size + 1, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
    starts[0] = 1.0
    for t in range(1, size):
        ends[t] = starts[:t].flip(0) @ sizes[0, 1 : t + 1]
        starts[t + 1] = ends[t]
    tops = [starts[: t + 1].flip(0) @ inside[0, : t + 1] for t in range(size)]
    return torch.stack(tops), ends
