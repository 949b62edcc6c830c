"""Languages whose entropy is exact: Markov chains, sparse XOR, and products of primes.

markov    every token from the one before (or the k before); the same entropy from either end
xor       x1 .. xn y1 .. yn      y = Mx over bits; M is sparse and its inverse is not: easy ltr, hard rtl, equal floors
product   p * q = pq             multiplying ltr, factoring rtl, equal floors
"""

from __future__ import annotations

import functools
import math
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Generator, Tensor

from palinode.base.errors import BadInput
from palinode.base.markov import MarkovChain, asymmetric_chain, symmetric_chain
from palinode.base.seeds import generator
from palinode.data.tasks.base import Direction, Language, Sample, Task, power, require
from palinode.data.tasks.draws import digits_of, integers
from palinode.data.tasks.laws import entropy_nats
from palinode.data.tasks.strings import answers_after

MOST_CONTEXTS = 2**16
SETTLED = 1e-13
MOST_ROUNDS = 10_000
TIMES, EQUALS = 10, 11


class MarkovLanguage(Language):
    """A stationary Markov chain of order k.

    Attributes:
        states: V tokens.
        length: S.
        symmetric: the chain is its own mirror image (order 1 only); otherwise the tables are independent noise.
        order: how many tokens decide the next.
        sharpness: 0 is uniform noise; larger is more predictable.
        chain_seed: which chain.
    """

    kind: ClassVar[str] = "markov"
    length_field: ClassVar[str] = "length"
    states: int = Field(default=16, ge=2, le=4096)
    length: int = Field(default=64, ge=1, le=2**22)
    symmetric: bool = True
    order: int = Field(default=1, ge=1, le=16)
    sharpness: float = Field(default=1.5, ge=0, le=20)
    chain_seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _fits(self) -> MarkovLanguage:
        require(self.order == 1 or not self.symmetric, "a symmetric chain has order 1", "symmetric")
        few = self.states**self.order <= MOST_CONTEXTS
        require(few, f"{self.states} states and order {self.order} have over {MOST_CONTEXTS} contexts", "order")
        require(self.length >= self.order, f"order {self.order} needs as many tokens", "length")
        try:
            self.table()  # made now, and kept: a chain that cannot be made is a mistake in the config
        except ValueError as problem:
            raise BadInput(str(problem), field="sharpness", hint="a smaller one") from None
        return self

    @property
    def vocab_size(self) -> int:
        return self.states

    @property
    def length_tokens(self) -> int:
        return self.length

    @property
    def solved_by(self) -> tuple[str, ...]:
        return ("bigram",) if self.order == 1 else ()

    def chain(self) -> MarkovChain:
        """The chain of order 1."""
        return _chain(self.states, self.sharpness, self.chain_seed, self.symmetric)

    def table(self) -> tuple[Tensor, Tensor]:
        """P(next | k tokens), (V^k, V), and the law of k tokens (V^k,); the oldest token is the highest digit."""
        if self.order == 1:
            return self.chain().transition, self.chain().stationary
        return _order_table(self.states, self.order, self.sharpness, self.chain_seed)

    def sample(self, count: int, rng: Generator) -> Sample:
        if self.order == 1:
            tokens = self.chain().sample(count, self.length, rng)
        else:
            tokens = self._of_order(count, rng)
        return Sample(tokens, torch.ones_like(tokens, dtype=torch.bool))

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

    def step_nats(self) -> float:
        """h: entropy of a token given all before it, or all after it."""
        table, start = self.table()
        return float(-(start[:, None] * torch.special.xlogy(table, table)).sum())

    def nats_by_position(self, direction: Direction) -> Tensor:
        start = self.table()[1].reshape([self.states] * self.order)
        totals = [0.0]
        for known in range(1, self.order + 1):
            law = start.sum(tuple(range(known, self.order))) if known < self.order else start
            totals.append(entropy_nats(law.flatten().tolist()))
        nats = torch.full((self.length,), self.step_nats(), dtype=torch.float64)
        nats[: self.order] = torch.tensor(totals, dtype=torch.float64).diff()
        return nats if direction == "ltr" else nats.flip(0)  # any stationary stretch is as uncertain from either end

    def sequence_nats(self) -> float:
        return float(self.nats_by_position("ltr").sum())

    def first_token_nats(self) -> float:
        return float(self.nats_by_position("ltr")[0])

    def last_token_nats(self) -> float:
        return self.first_token_nats()

    def support(self) -> float:
        return power(self.states, self.length)


class XorLanguage(Task):
    """Uniform bits x, then y = Mx over GF(2); rows of M have one to three ones, those of its inverse far more.

    Attributes:
        bits: n.
        matrix_seed: which M.
    """

    kind: ClassVar[str] = "xor"
    bits: int = Field(default=16, ge=2, le=4096)
    matrix_seed: int = Field(default=0, ge=0)

    @property
    def vocab_size(self) -> int:
        return 2

    @property
    def length_tokens(self) -> int:
        return 2 * self.bits

    def legal_answers(self) -> Tensor:
        return torch.arange(2)

    def matrix(self) -> Tensor:
        """M, (n, n) of 0 and 1."""
        return _sparse_matrix(self.bits, self.matrix_seed)

    def sample(self, count: int, rng: Generator) -> Sample:
        x = integers(2, (count, self.bits), rng)
        tokens = torch.cat([x, x @ self.matrix().T % 2], 1)
        return Sample(tokens, answers_after(tokens, self.bits))

    def nats_by_position(self, direction: Direction) -> Tensor:
        nats = torch.zeros(2 * self.bits, dtype=torch.float64)
        nats[: self.bits] = math.log(2)
        return nats if direction == "ltr" else nats.flip(0)

    def sequence_nats(self) -> float:
        return self.bits * math.log(2)

    def first_token_nats(self) -> float:
        return math.log(2)

    def last_token_nats(self) -> float:
        return math.log(2)

    def support(self) -> float:
        return power(2, self.bits)


class ProductLanguage(Task):
    """Two primes p < q of D digits, uniform over such pairs, and their product of 2 D digits.

    The floor is that of a reader who does not know which pairs the splits keep apart.

    Attributes:
        digits: D.
    """

    kind: ClassVar[str] = "product"
    digits: int = Field(default=4, ge=1, le=6)

    @property
    def vocab_size(self) -> int:
        return EQUALS + 1

    @property
    def length_tokens(self) -> int:
        return 4 * self.digits + 2

    def legal_answers(self) -> Tensor:
        return torch.arange(10)

    def sample(self, count: int, rng: Generator) -> Sample:
        primes = _primes(self.digits)
        one = integers(len(primes), (count,), rng)
        other = integers(len(primes) - 1, (count,), rng)
        other = other + (other >= one)
        tokens = self._said(primes[torch.minimum(one, other)], primes[torch.maximum(one, other)])
        return Sample(tokens, answers_after(tokens, 2 * self.digits + 2))

    def _said(self, p: Tensor, q: Tensor) -> Tensor:
        sign = torch.full((len(p), 1), TIMES)
        product = digits_of(p * q, 2 * self.digits)
        return torch.cat([digits_of(p, self.digits), sign, digits_of(q, self.digits), sign + 1, product], 1)

    def nats_by_position(self, direction: Direction) -> Tensor | None:
        """By counting all pairs; None from D = 5 on, where they are tens of millions."""
        if self.digits > 4:
            return None
        primes = _primes(self.digits)
        index = torch.triu_indices(len(primes), len(primes), 1)
        tokens = self._said(primes[index[0]], primes[index[1]])
        return _prefix_nats(tokens) if direction == "ltr" else _prefix_nats(tokens.flip(1)).flip(0)

    def sequence_nats(self) -> float:
        return math.log(self.support())

    def first_token_nats(self) -> float:
        primes = _primes(self.digits)
        larger = torch.arange(len(primes) - 1, -1, -1)  # the i-th prime is the smaller of so many pairs
        leading = primes // 10 ** (self.digits - 1)
        counts = torch.zeros(10, dtype=torch.long).scatter_add_(0, leading, larger)
        return entropy_nats((counts / counts.sum()).tolist())

    def last_token_nats(self) -> float:
        ends = torch.bincount(_primes(self.digits) % 10, minlength=10)
        ordered = torch.outer(ends, ends) - torch.diag(ends)
        last = torch.outer(torch.arange(10), torch.arange(10)) % 10
        counts = torch.zeros(10, dtype=torch.long).scatter_add_(0, last.flatten(), ordered.flatten())
        return entropy_nats((counts / counts.sum()).tolist())

    def support(self) -> float:
        many = len(_primes(self.digits))
        return many * (many - 1) / 2


@functools.cache
def _chain(states: int, sharpness: float, seed: int, symmetric: bool) -> MarkovChain:
    return (symmetric_chain if symmetric else asymmetric_chain)(states, sharpness, seed)


@functools.cache
def _order_table(states: int, order: int, sharpness: float, seed: int) -> tuple[Tensor, Tensor]:
    shape = (states**order, states)
    noise = torch.randn(shape, generator=generator(seed, "markov", order), dtype=torch.float64)
    table = (sharpness * noise).softmax(1)
    law = torch.full((states**order,), float(states) ** -order, dtype=torch.float64)
    for _ in range(MOST_ROUNDS):
        following = (law[:, None] * table).view(states, -1).sum(0)
        settled = (following - law).abs().max() < SETTLED
        law = following / following.sum()
        if settled:
            return table, law
    raise ValueError(f"sharpness {sharpness}: the stationary law did not settle")


@functools.cache
def _sparse_matrix(bits: int, seed: int) -> Tensor:
    """Ones on the diagonal and below it, and with probability a half one more to the left; rows and columns shuffled."""
    rng = generator(seed, "xor-matrix")
    matrix = torch.eye(bits, dtype=torch.long)
    row = torch.arange(2, bits)
    matrix[torch.arange(1, bits), torch.arange(bits - 1)] = 1
    extra = (torch.rand(len(row), generator=rng) * (row - 1)).long()
    matrix[row, extra] = (torch.rand(len(row), generator=rng) < 0.5).long()
    return matrix[torch.randperm(bits, generator=rng)][:, torch.randperm(bits, generator=rng)]


@functools.cache
def _primes(digits: int) -> Tensor:
    """All primes of so many digits, ascending."""
    limit = 10**digits
    prime = np.ones(limit, dtype=bool)
    prime[:2] = False
    for number in range(2, int(limit**0.5) + 1):
        if prime[number]:
            prime[number * number :: number] = False
    found = np.flatnonzero(prime)
    return torch.from_numpy(found[found >= limit // 10])


def _prefix_nats(tokens: Tensor) -> Tensor:
    """(S,): entropy of each token given those before it, the rows being equally likely."""
    group = torch.zeros(len(tokens), dtype=torch.long)
    totals = [0.0]
    for column in tokens.T:
        _, group, counts = torch.unique(group * 16 + column, return_inverse=True, return_counts=True)
        share = counts.double() / len(tokens)
        totals.append(float(-torch.special.xlogy(share, share).sum()))
    return torch.tensor(totals, dtype=torch.float64).diff()
