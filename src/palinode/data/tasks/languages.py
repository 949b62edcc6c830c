"""Languages with a known exact entropy: Markov chains, sparse XOR, products of primes, a random hierarchy and a simple grammar.

markov      every token depends on the k tokens before it; the entropy is the same from either end
xor         x1 .. xn y1 .. yn      y = Mx over bits; M is sparse and its inverse is not: easy ltr, hard rtl, equal floors
product     p * q = pq             an ltr model multiplies, an rtl model factors; both have the same floor
hierarchy   a tree of 2^levels leaves; every symbol has equally likely pairs of symbols below it, and every pair has one parent
grammar     a stream of sentences of a simple grammar; an end token closes each sentence

Shapes: B sequences, T tokens, V ids, k the order of a chain. A grammar has M nonterminals, and R rules for each nonterminal.
"""

from __future__ import annotations

import functools
import math
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Generator, Tensor

from palinode.base.errors import BadInput
from palinode.base.markov import MarkovChain, asymmetric_chain, stationary_law, symmetric_chain
from palinode.base.measures import Direction
from palinode.base.seeds import generator
from palinode.data.tasks.base import Language, Sample, Shape, ShapedTask, exp, power
from palinode.data.tasks.draws import digits_of, entropy_nats, integers

MOST_CONTEXTS = 2**16
TIMES, EQUALS = 10, 11
NONE = -1
# The largest allowed spectral radius of the matrix `_expected_children`; it is below 1, so that sentences end.
MOST_GROWTH = 0.85


class MarkovLanguage(ShapedTask, Language):
    """A stationary Markov chain of order k.

    Attributes:
        states: V, the number of ids.
        length: T, the number of tokens of a sequence.
        symmetric: whether the chain has the same law when it is read rtl (order 1 only); if false, its logits are independent
            noise.
        order: k, the number of tokens that decide the next token.
        sharpness: the factor of the random logits; 0 gives uniform tokens, and a larger factor makes the tokens easier to
            predict.
        chain_seed: the seed that chooses the chain.
    """

    kind: ClassVar[str] = "markov"
    states: int = Field(default=16, ge=2, le=4096)
    length: int = Field(default=64, ge=1, le=2**22)
    symmetric: bool = True
    order: int = Field(default=1, ge=1, le=16)
    sharpness: float = Field(default=1.5, ge=0, le=20)
    chain_seed: int = Field(default=0, ge=0)

    def check_sizes(self) -> None:
        self.require(self.order == 1 or not self.symmetric, "a symmetric chain has order 1", "symmetric")
        message = f"{self.states} states and order {self.order} have over {MOST_CONTEXTS} contexts"
        self.require(self.states**self.order <= MOST_CONTEXTS, message, "order")
        self.require_at_least("length", self.order, "the first context")
        try:
            self.table()  # computed here, so that a config without a chain is refused; the table is cached
        except ValueError as problem:
            raise BadInput(str(problem), field="sharpness", hint="a smaller one") from None

    def shape(self) -> Shape:
        return Shape(self.states, self.length, answers=range(self.states))

    @property
    def solved_by(self) -> tuple[str, ...]:
        return ("bigram",) if self.order == 1 else ()

    def chain(self) -> MarkovChain:
        """The chain of order 1."""
        return _chain(self.states, self.sharpness, self.chain_seed, self.symmetric)

    def table(self) -> tuple[Tensor, Tensor]:
        """(V^k, V) P(next token | k tokens), and (V^k,) P(k tokens). In the index of k tokens, the oldest is the highest digit."""
        if self.order == 1:
            return self.chain().transition, self.chain().stationary
        return _order_table(self.states, self.order, self.sharpness, self.chain_seed)

    def sample(self, count: int, rng: Generator) -> Sample:
        draw = self.chain().sample(count, self.length, rng) if self.order == 1 else self._of_order(count, rng)
        return Sample.answered_from(draw, 0)

    def _of_order(self, count: int, rng: Generator) -> Tensor:
        table, start = self.table()
        bounds = table.cumsum(1)
        tokens = torch.empty(count, self.length, dtype=torch.long)
        noise = torch.rand(self.length - self.order + 1, count, 1, generator=rng, dtype=torch.float64)
        context = torch.searchsorted(start.cumsum(0), noise[0, :, 0], right=True).clamp_max(len(start) - 1)
        tokens[:, : self.order] = digits_of(context, self.order, self.states)
        for t in range(self.order, self.length):
            token = (noise[t - self.order + 1] >= bounds[context]).sum(1).clamp_max(self.states - 1)
            tokens[:, t] = token
            context = (context * self.states + token) % len(start)
        return tokens

    def _token_nats(self) -> Tensor:
        """(T,) float64: the entropy of each token given the tokens before it. For rtl, count from the last token."""
        table, start = self.table()
        step = float(-(start[:, None] * torch.special.xlogy(table, table)).sum())
        first = start.reshape([self.states] * self.order)
        totals = [0.0]
        for tokens in range(1, self.order + 1):
            law = first.sum(tuple(range(tokens, self.order))) if tokens < self.order else first
            totals.append(entropy_nats(law.flatten().tolist()))
        nats = torch.full((self.length,), step, dtype=torch.float64)
        nats[: self.order] = torch.tensor(totals, dtype=torch.float64).diff()
        return nats

    def sequence_nats(self) -> float:
        return float(self._token_nats().sum())

    def edge_nats(self, direction: Direction) -> float:
        return float(self._token_nats()[0])

    def support(self) -> float:
        return power(self.states, self.length)


class XorLanguage(ShapedTask):
    """Uniform bits x, then y = Mx over GF(2). A row of M has one to three ones; a row of the inverse of M has far more ones.

    Attributes:
        bits: the number of bits of x, and the number of bits of y.
        matrix_seed: the seed that chooses M.
    """

    kind: ClassVar[str] = "xor"
    length_field: ClassVar[str] = ""
    bits: int = Field(default=16, ge=2, le=4096)
    matrix_seed: int = Field(default=0, ge=0)

    def shape(self) -> Shape:
        return Shape(2, 2 * self.bits, answers=range(2), drawn=(self.bits, 2))

    def matrix(self) -> Tensor:
        """M, (bits, bits) of 0 and 1."""
        return _sparse_matrix(self.bits, self.matrix_seed)

    def sample(self, count: int, rng: Generator) -> Sample:
        x = integers(2, (count, self.bits), rng)
        return Sample.answered_from(torch.cat([x, x @ self.matrix().T % 2], 1), self.bits)


class ProductLanguage(ShapedTask):
    """Two primes p < q of `digits` digits, drawn uniformly from all such pairs, and their product with twice as many digits.

    The floor is the least loss of a model that does not know which pairs are in its split.

    Attributes:
        digits: the number of digits of each prime.
    """

    kind: ClassVar[str] = "product"
    length_field: ClassVar[str] = ""
    digits: int = Field(default=4, ge=1, le=6)

    def shape(self) -> Shape:
        return Shape(EQUALS + 1, 4 * self.digits + 2, answers=range(10))

    def sample(self, count: int, rng: Generator) -> Sample:
        primes = _primes(self.digits)
        one = integers(len(primes), (count,), rng)
        other = integers(len(primes) - 1, (count,), rng)
        other = other + (other >= one)
        p, q = primes[torch.minimum(one, other)], primes[torch.maximum(one, other)]
        sign, product = torch.full((count, 1), TIMES), digits_of(p * q, 2 * self.digits)
        tokens = torch.cat([digits_of(p, self.digits), sign, digits_of(q, self.digits), sign + 1, product], 1)
        return Sample.answered_from(tokens, 2 * self.digits + 2)

    def sequence_nats(self) -> float:
        return math.log(self.support())

    def edge_nats(self, direction: Direction) -> float:
        primes = _primes(self.digits)
        if direction == "ltr":
            larger = torch.arange(len(primes) - 1, -1, -1)  # the number of pairs in which each prime is the smaller
            return _digit_nats(primes // 10 ** (self.digits - 1), larger)
        ends = torch.bincount(primes % 10, minlength=10)
        ordered = torch.outer(ends, ends) - torch.diag(ends)
        return _digit_nats(torch.outer(torch.arange(10), torch.arange(10)).flatten() % 10, ordered.flatten())

    def support(self) -> float:
        many = len(_primes(self.digits))
        return many * (many - 1) / 2


class Hierarchy(ShapedTask, Language):
    """Sentences of 2^levels tokens. Each pair of symbols of a level has only one parent, so a sentence has only one derivation.

    Attributes:
        symbols: V, the number of different symbols of a level; the symbols of the lowest level are the tokens.
        productions: the number of different pairs of symbols that one symbol can become on the level below.
        levels: the number of levels of the tree below its root.
        rules_seed: the seed that chooses the rules. A tree with one more level keeps the rules of the levels below.
    """

    kind: ClassVar[str] = "hierarchy"
    length_field: ClassVar[str] = ""
    symbols: int = Field(default=8, ge=2, le=1024)
    productions: int = Field(default=4, ge=1)
    levels: int = Field(default=4, ge=1, le=16)
    rules_seed: int = Field(default=0, ge=0)

    def check_sizes(self) -> None:
        message = f"{self.symbols} symbols have pairs for at most {self.symbols} productions each"
        self.require(self.productions <= self.symbols, message, "productions")

    def shape(self) -> Shape:
        return Shape(self.symbols, int(2**self.levels), answers=range(self.symbols))

    def rules(self, level: int) -> Tensor:
        """(V, productions, 2): the pairs below each symbol of a level; level 1 is the level just above the tokens."""
        return _pairs_below(self.symbols, self.productions, level, self.rules_seed)

    def sample(self, count: int, rng: Generator) -> Sample:
        symbols = integers(self.symbols, (count, 1), rng)
        for level in range(self.levels, 0, -1):
            choice = integers(self.productions, tuple(symbols.shape), rng)
            symbols = self.rules(level)[symbols, choice].view(count, -1)
        return Sample.answered_from(symbols, 0)

    def with_length(self, factor: int) -> Hierarchy:
        """The task with sequences `factor` times as long: a tree with one more level has sentences of twice the length.

        Raises:
            BadInput: the factor is not a power of 2, or the tree would have too many levels.
        """
        more = factor.bit_length() - 1
        self.require(factor >= 1 and factor == 1 << more, f"a tree grows by powers of 2, not {factor} times", "factor")
        return self.resized(levels=self.levels + more)

    def sequence_nats(self) -> float:
        """The entropy of the root symbol, plus the entropy of the choice of a pair at each of 2^levels - 1 nodes."""
        return math.log(self.symbols) + (self.length_tokens - 1) * math.log(self.productions)

    def edge_nats(self, direction: Direction) -> float:
        side = 0 if direction == "ltr" else 1
        law = torch.full((self.symbols,), 1 / self.symbols, dtype=torch.float64)
        for level in range(self.levels, 0, -1):
            below = self.rules(level)[..., side]
            share = (law[:, None] / self.productions).expand(below.shape)
            law = torch.zeros_like(law).scatter_add_(0, below.flatten(), share.flatten())
        return entropy_nats(law.tolist())

    def support(self) -> float:
        return exp(self.sequence_nats())


class Grammar(ShapedTask, Language):
    """A stream of sentences of a random simple grammar, cut to T tokens; the first sentence starts at the first token.

    Every rule is one terminal and then up to two nonterminals. The rules of a nonterminal start with different terminals, so
    the tokens of a sentence show its only derivation. A sequence ends after T tokens, even in the middle of a sentence.

    Attributes:
        nonterminals: M, the number of nonterminals; every sentence starts from the first nonterminal.
        rules: R, the number of rules of each nonterminal.
        terminals: the number of terminals; their ids start at 0, and the id after the last terminal is the end token of a
            sentence.
        length: T, the number of tokens of a sequence.
        rules_seed: the seed that chooses the grammar.
    """

    kind: ClassVar[str] = "grammar"
    nonterminals: int = Field(default=4, ge=1, le=256)
    rules: int = Field(default=3, ge=2)
    terminals: int = Field(default=8, ge=2, le=4096)
    length: int = Field(default=64, ge=2, le=2**12)
    rules_seed: int = Field(default=0, ge=0)

    def check_sizes(self) -> None:
        message = f"{self.rules} rules need as many terminals, there are {self.terminals}"
        self.require(self.rules <= self.terminals, message, "rules")

    def shape(self) -> Shape:
        return Shape(self.terminals + 1, self.length, answers=range(self.terminals + 1))

    def table(self) -> tuple[Tensor, Tensor, Tensor]:
        """For each nonterminal and rule: the probability (M, R), the terminal (M, R), the nonterminals or NONE (M, R, 2)."""
        return _simple_grammar(self.nonterminals, self.rules, self.terminals, self.rules_seed)

    def sample(self, count: int, rng: Generator) -> Sample:
        chances, terminals, children = self.table()
        bounds = chances.cumsum(1)
        stack = torch.zeros(count, self.length + 3, dtype=torch.long)  # an expansion adds at most 1 to the height
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
            # The first child is written last, so it is on top. After an end token the next sentence starts. NONE is written,
            # but it does not add to the height.
            for child in (torch.where(inside, second, NONE), torch.where(inside, first, 0)):
                stack[rows, height] = child
                height = height + (child != NONE)
            sentences += ~inside
        return Sample.answered_from(tokens, 0, sentences=sentences)

    def rule_nats(self) -> Tensor:
        """(M,): the entropy of the choice of a rule for each nonterminal."""
        chances = self.table()[0]
        nats: Tensor = torch.special.xlogy(chances, chances).sum(1)
        return -nats

    def sequence_nats(self) -> float:
        """The sum, over tokens, of the entropy of the choice of a rule for the nonterminal on top of the stack."""
        return float((stack_law(self)[0] * self.rule_nats()).sum(1).sum())

    def edge_nats(self, direction: Direction) -> float:
        if direction == "ltr":
            return float(self.rule_nats()[0])
        chances, terminals, _ = self.table()
        tops, ends = stack_law(self)
        law = torch.zeros(self.vocab_size, dtype=torch.float64)
        law.scatter_add_(0, terminals.flatten(), (tops[-1][:, None] * chances).flatten())
        law[-1] = ends[-1]
        return entropy_nats(law.tolist())


@functools.cache
def _chain(states: int, sharpness: float, seed: int, symmetric: bool) -> MarkovChain:
    return (symmetric_chain if symmetric else asymmetric_chain)(states, sharpness, seed)


@functools.cache
def _order_table(states: int, order: int, sharpness: float, seed: int) -> tuple[Tensor, Tensor]:
    shape = (states**order, states)
    noise = torch.randn(shape, generator=generator(seed, "markov", order), dtype=torch.float64)
    table = (sharpness * noise).softmax(1)
    start = torch.full((states**order,), float(states) ** -order, dtype=torch.float64)
    return table, stationary_law(start, lambda law: (law[:, None] * table).view(states, -1).sum(0), sharpness)


@functools.cache
def _sparse_matrix(bits: int, seed: int) -> Tensor:
    """A matrix of 0 and 1 with one to three ones in each row, and with rows and columns in a random order.

    Before the shuffle, the ones are on the diagonal and just below it. With probability 1/2, a row has one more 1 further left.
    """
    rng = generator(seed, "xor-matrix")
    matrix = torch.eye(bits, dtype=torch.long)
    row = torch.arange(2, bits)
    matrix[torch.arange(1, bits), torch.arange(bits - 1)] = 1
    extra = (torch.rand(len(row), generator=rng) * (row - 1)).long()
    matrix[row, extra] = (torch.rand(len(row), generator=rng) < 0.5).long()
    return matrix[torch.randperm(bits, generator=rng)][:, torch.randperm(bits, generator=rng)]


@functools.cache
def _primes(digits: int) -> Tensor:
    """All primes with this number of digits, ascending."""
    limit = 10**digits
    is_prime = np.ones(limit, dtype=bool)
    is_prime[:2] = False
    for number in range(2, int(limit**0.5) + 1):
        if is_prime[number]:
            is_prime[number * number :: number] = False
    primes = np.flatnonzero(is_prime)
    return torch.from_numpy(primes[primes >= limit // 10])


def _digit_nats(digits: Tensor, weights: Tensor) -> float:
    """The entropy of a random digit: each of the given digits has a probability proportional to its weight."""
    counts = torch.zeros(10, dtype=torch.long).scatter_add_(0, digits, weights)
    return entropy_nats((counts / counts.sum()).tolist())


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
    """(M, M): entry [i, j] is the mean number of nonterminals j that one expansion of nonterminal i makes."""
    counts = torch.zeros(len(chances), len(chances), dtype=torch.float64)
    for child in children.unbind(2):
        counts.scatter_add_(1, child.clamp_min(0), torch.where(child != NONE, chances, 0.0))
    return counts


@functools.cache
def stack_law(grammar: Grammar) -> tuple[Tensor, Tensor]:
    """P(a nonterminal is on top of the stack at token t), (T, M), and P(token t ends a sentence), (T,).

    The computation treats the starts of sentences as a renewal process. It uses three laws: the law of the number of tokens
    that a nonterminal becomes, the law of the stack top while a nonterminal is expanded, and the law of the places where
    sentences start.
    """
    chances, _, children = grammar.table()
    many, size = len(chances), grammar.length
    first, second = children.clamp_min(0).unbind(2)
    one, two = (children != NONE).double().unbind(2)
    sizes = torch.zeros(many, size, dtype=torch.float64)  # (M, T): P(size t); size 0 has probability 0
    inside = torch.zeros(many, size, many, dtype=torch.float64)  # (M, T, M): P(Y is on top t tokens after X was)
    inside[:, 0] = torch.eye(many, dtype=torch.float64)
    for t in range(1, size):
        left = sizes[first, :t].flip(2)  # the first child has size t - 1 - j
        alone = torch.where(one > 0, sizes[first, t - 1], float(t == 1))
        whole = two * (left * sizes[second, :t]).sum(2) + (1 - two) * alone  # the second child has size j
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
