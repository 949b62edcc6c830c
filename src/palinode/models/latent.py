"""The latent attention model of hlb-gpt: gate, attention and MLP in one block of two matrices; a learned slope gives positions.

Block, with q = width // 8: (Q, K, a, g) = W_e LN(x); u = a * gelu(g), of which the first half is local and the second the value;
x + W_p (local, softmax(Q K^T / sqrt(q) - slope |i - j|) value). One slope for each layer is the only position signal.

Source: hlb-gpt 0.4.1 (a9f158f) and the options of the mask experiments (337850f), read, and written anew. Differs in:
- distances in float32 at the current length (published: bf16, cut from a longer table);
- every direction has the bias -slope |i - j| (published, right to left: the ltr table with its rows flipped, which favours distant
  slots), and rtl is a flipped row (published: an anti-triangular mask through which the targets leak);
- with `linear_value` the unused half of `a` is left out: D^2 fewer parameters in each layer.
Legend: B rows, T slots, T_new new slots, D width, V vocabulary, H heads.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from palinode.base.bounds import MOST_LAYERS
from palinode.base.errors import BadInput
from palinode.base.head import LinearHead
from palinode.base.visibility import Native, Visibility
from palinode.models.base import ModelConfig
from palinode.models.cost import Cost, LayerCost, attention_cost, visible_pairs
from palinode.models.init import InitRule, initialise
from palinode.models.mixers.base import Mixer, Reading
from palinode.models.parts.exact import exact, exact_dtype
from palinode.models.parts.linear import Linear, Norm, Table, open_near
from palinode.models.parts.positions import distance_table
from palinode.models.parts.state import KeysValues, MixerState, continues
from palinode.models.stack import HeadsOfWidth, Stack, mask_of

QUERY_SHARE = 8  # the width is this many times that of Q and K
START_RAW_SLOPE = 1.0  # slope softplus(1) = 1.3133
AUDIT_RAW_SLOPE = -4.6  # slope .01
# Rows are read in blocks of slots, causal ones with the keys up to the block's end. Milliseconds for one layer's attention, forward
# and backward, on one CPU core, at 128 slots (16 rows of width 128, of width 384) and at 1024 slots (2 rows of each):
#   additive bias through baddbmm 3.6, 9.9, 26, 63; the same in blocks of 128 slots 3.6, 9.9, 19, 45;
#   the bias as a float mask of PyTorch's attention 4.3, 11.5, 30, 67;
#   slope * j as one more feature of the keys, causal kernel 4.8, 10.7, 35, 75; padded to the fused kernel 7.0, 23, 33, 90.
# The extra feature is also less exact: slope * j - slope * i is off by 2e-4 at 1024 slots.
BLOCK_SLOTS = 128


class LatentConfig(ModelConfig):
    """A stack of latent attention blocks over token embeddings, untied head. The defaults are those of `hlb(1)`.

    2 V D + D + L [(2 (D // 8) + 4 D) D + 2 D^2 + D + 1] parameters.

    Attributes:
        layers, width: L blocks of width D.
        heads: the number of heads of Q, K and the value, contiguous, with one slope for all; must divide the width and width // 8.
        linear_value: the value is not gated: it is the second half of g, before the GELU.
    """

    kind: ClassVar[str] = "latent"
    layers: int = Field(default=8, ge=1, le=MOST_LAYERS)
    width: int = Field(default=384, ge=QUERY_SHARE)
    heads: HeadsOfWidth = 1
    linear_value: bool = False

    @field_validator("heads")
    @classmethod
    def _heads_divide_the_queries(cls, heads: int, info: ValidationInfo) -> int:
        width = info.data.get("width", 0)
        if (queries := width // QUERY_SHARE) % heads:
            raise ValueError(f"{heads} heads do not divide the query width {width} // {QUERY_SHARE} = {queries}")
        return heads

    def build(self, vocab_size: int, max_length: int, seed: int) -> Latent:
        model = Latent(self, vocab_size, max_length)
        unit = 1 / math.sqrt(self.width)
        spread = {"embedding": 0.25, "inner": 0.25, "residual": 0.5 / self.layers, "head": 0.5}
        scheme = {role: share * unit for role, share in spread.items()}
        initialise(model, InitRule(scheme, self.layers, zero_residual=False, zero_head=False), seed)  # type: ignore[arg-type]
        return model


class Latent(Stack):
    """x = E[tokens]; blocks; norm; head. Takes rows of any length. Weights are empty until `LatentConfig.build` fills them."""

    def __init__(self, config: LatentConfig, vocab_size: int, max_length: int):
        super().__init__(vocab_size, max_length)
        self.config = config
        self.embedding = Table(vocab_size, config.width, role="embedding")
        self.blocks = nn.ModuleList(LatentBlock(config) for _ in range(config.layers))
        self.final_norm = Norm(config.width, "layer", gain=True)
        self.head = Linear(config.width, vocab_size, bias=False, role="head")

    def linear_head(self) -> LinearHead:
        return LinearHead(self.head.weight, None, exact)

    def cost(self, slots: int, sees: Visibility) -> Cost:
        pairs, computed = visible_pairs(sees, slots), computed_pairs(sees.native, slots)
        return self._cost(sum((block.cost(slots, pairs, computed) for block in self.blocks), LayerCost(0.0, 0.0, 0)))

    def _reading(self, tokens: Tensor, sees: Visibility, before: int = 0) -> Reading:
        mask, slots = mask_of(sees, tokens), before + tokens.shape[1]
        dtype = exact_dtype(self.embedding.weight)
        distance = distance_table(slots, sees.native, mask, device=tokens.device, dtype=dtype, first=before)
        return Reading(sees.native, mask, distance=distance)


class LatentBlock(nn.Module):
    """x + attention(norm x), (B, T, D) -> (B, T, D). There is no MLP: the gate takes its place."""

    def __init__(self, config: LatentConfig):
        super().__init__()
        self.norm = Norm(config.width, "layer", gain=True)
        self.attention = LatentAttention(config)

    def forward(self, x: Tensor, reading: Reading) -> Tensor:
        return x + self.attention(self.norm(x), reading)  # type: ignore[no-any-return]

    def can_step(self) -> bool:
        return continues(self, "forward") and self.attention.can_step() and type(self.norm) is Norm

    def cost(self, slots: int, pairs: int, computed: int) -> LayerCost:
        return self.attention.cost(slots, pairs, computed)

    def begin(self, rows: int, slots: int) -> MixerState:
        return self.attention.begin(rows, slots)

    def extend(self, x: Tensor, reading: Reading, state: KeysValues) -> tuple[Tensor, MixerState]:
        """(B, T_new, D) of the next slots -> (B, T_new, D), and the attention's next state."""
        mixed, kept = self.attention.extend(self.norm(x), reading, state)
        return x + mixed, kept


class LatentAttention(Mixer):
    """W_p (local, attended value), (B, T, D) -> (B, T, D).

    The slope is softplus of a parameter in the training group `slope`, whose rate is 100 times that of the matrices.
    """

    group_of: ClassVar = {"raw_slope": "slope"}

    def __init__(self, config: LatentConfig):
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.width = width
        self.query_width = width // QUERY_SHARE
        self.linear_value = config.linear_value
        self.scale = 1 / math.sqrt(self.query_width // config.heads)
        gated = width if config.linear_value else 2 * width
        self.parts = [self.query_width, self.query_width, gated, 2 * width]
        self.expand = Linear(width, sum(self.parts), bias=False)
        self.project = Linear(2 * width, width, bias=False, role="residual")
        self.raw_slope = nn.Parameter(torch.empty(1))

    def forward(self, x: Tensor, reading: Reading) -> Tensor:
        local, q, k, value = self._expanded(x)
        return self._projected(local, self._attended(q, k, value, self._bias(reading), reading.native))

    def begin(self, rows: int, slots: int) -> MixerState:
        widths = (self.query_width // self.heads, self.width // self.heads)
        return KeysValues.empty(self.expand.weight, (rows * self.heads, slots), *widths)

    def extend(self, x: Tensor, reading: Reading, state: KeysValues) -> tuple[Tensor, MixerState]:
        local, q, k, value = self._expanded(x)
        kept = state.with_next(k, value)
        return self._projected(local, self._attended(q, *kept.seen(), self._bias(reading), "causal")), kept

    def cost(self, slots: int, pairs: int, computed: int | None = None) -> LayerCost:
        """`computed` of the pairs of slots get a score, by default all of them."""
        maps = 2.0 * (self.expand.weight.numel() + self.project.weight.numel())
        return attention_cost(maps, self.query_width + self.width, slots, pairs, computed)

    def start(self, name: str, parameter: Tensor, rng: Generator) -> None:
        parameter.fill_(START_RAW_SLOPE)

    def open_for_audit(self, gain: float, rng: Generator) -> None:
        """A slope near .01: e^-10 is left at a distance of 1024. The start, 1.31, leaves 1e-17 at 30, where no leak would show."""
        open_near(self.raw_slope, AUDIT_RAW_SLOPE, rng)

    def _expanded(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The local part (B, T, D); q, k and the value (B H, T, ..)."""
        q, k, linear, gate = torch.split(self.expand(x), self.parts, -1)
        if self.linear_value:
            gate, value = torch.split(gate, self.width, -1)
            local = linear * F.gelu(gate)
        else:
            local, value = torch.split(linear * F.gelu(gate), self.width, -1)
        return local, self._by_head(q), self._by_head(k), self._by_head(value)

    def _bias(self, reading: Reading) -> Tensor:
        assert reading.distance is not None
        return reading.distance.bias(F.softplus(exact(self.raw_slope)))

    def _projected(self, local: Tensor, attended: Tensor) -> Tensor:
        return self.project(torch.cat((local, self._together(attended)), dim=-1))

    def _by_head(self, x: Tensor) -> Tensor:
        """(B, T, H h) -> (B H, T, h)."""
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2).flatten(0, 1)

    def _together(self, x: Tensor) -> Tensor:
        """(B H, T, h) -> (B, T, H h)."""
        return x.view(-1, self.heads, *x.shape[1:]).transpose(1, 2).flatten(2)

    def _attended(self, q: Tensor, k: Tensor, value: Tensor, bias: Tensor, native: Native) -> Tensor:
        """(B H, T, h) outputs of attention, made in blocks of slots.

        So half of a causal square is never computed, and evaluation holds the scores of one block at a time.

        Where q has fewer slots than k, they are the last ones.
        """
        blocks = []
        for first, end, read in _blocks(native, q.shape[1], k.shape[1] - q.shape[1]):
            weights = self._softmax(q[:, first:end], k[:, :read], bias[first:end, :read])
            blocks.append(weights @ value[:, :read])
        return blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=1)

    def _softmax(self, q: Tensor, k: Tensor, bias: Tensor) -> Tensor:
        """Attention weights in the dtype of q. Bias and softmax stay in float32 or better, under autocast too."""
        if q.dtype == bias.dtype:
            return torch.baddbmm(bias.expand(len(q), -1, -1), q, k.mT, alpha=self.scale).softmax(dim=-1)
        return (exact(q @ k.mT) * self.scale + bias).softmax(dim=-1).to(q.dtype)


def computed_pairs(native: Native, slots: int) -> int:
    """How many (reader, read) pairs of slots get a score, whether visible or not."""
    return sum((end - first) * read for first, end, read in _blocks(native, slots))


def hlb(size: float = 1.0) -> LatentConfig:
    """hlb-gpt's one dial: width 64 round(6 log2(1 + size)), layers round(8 log2(1 + size)).

    Size 1 is 8 x 384, 46 million parameters at 50 304 tokens; .5 is 5 x 256, 4 is 19 x 896.

    Raises:
        BadInput: the size is not a finite number, or gives no width or no layer (below about .06).
    """
    if not math.isfinite(size) or size <= 0:
        raise BadInput(f"hlb's size must be a positive number, not {size}", field="size")
    doublings = math.log2(1 + size)
    width, layers = 64 * round(6 * doublings), round(8 * doublings)
    if width < 64 or layers < 1:
        message = f"hlb's size {size} gives width {width} and {layers} layers; the smallest is about 0.06"
        raise BadInput(message, field="size")
    return LatentConfig(layers=layers, width=width)


def _blocks(native: Native, slots: int, before: int = 0) -> list[tuple[int, int, int]]:
    """(first, end, read): slots first..end - 1, behind `before` others, are computed together over the first `read` slots."""
    ends = [*range(BLOCK_SLOTS, slots, BLOCK_SLOTS), slots]
    read = [before + (end if native == "causal" else slots) for end in ends]
    return list(zip([0, *ends[:-1]], ends, read, strict=True))
