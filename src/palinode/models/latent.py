"""The latent attention model of hlb-gpt: each block has two matrices, which do the work of gate, attention and MLP.

A block computes, with q = width // 8: (Q, K, a, g) = W_e LN(x); u = a * gelu(g), where the first half of u is local and the
second half is the value; the output is x + W_p (local, softmax(Q K^T / sqrt(q) - slope |i - j|) value). Each layer has one learned
slope; the slopes are the model's only information about positions.

Source: hlb-gpt 0.4.1 (a9f158f) and the options of the mask experiments (337850f); their code was read, and this code is new.
Differences from the published code:
- distances are float32 and computed for the current row length (published: bf16, cut from a longer table);
- both directions have the bias -slope |i - j| (published for right to left: the ltr table with flipped rows, which gives distant
  slots more weight), and an rtl row is flipped (published: an anti-triangular mask, which leaks the targets);
- with `linear_value`, half of `a` would not be used and therefore does not exist, so that each layer has D^2 fewer parameters.
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

QUERY_SHARE = 8  # the width D divided by the width of Q and K
START_RAW_SLOPE = 1.0  # the slope starts at softplus(1) = 1.3133
AUDIT_RAW_SLOPE = -4.6  # the audit's slope is softplus(-4.6) = .01
# Attention reads a row in blocks of BLOCK_SLOTS slots; in a causal row a block reads the keys up to the block's end.
# The milliseconds below are for one layer's attention, forward and backward, on one CPU core. The four numbers are for 16 rows of
# 128 slots at width 128 and at width 384, and for 2 rows of 1024 slots at width 128 and at width 384.
#   additive bias through baddbmm: 3.6, 9.9, 26, 63; additive bias through baddbmm in blocks of 128 slots: 3.6, 9.9, 19, 45;
#   the bias as a float mask of PyTorch's attention: 4.3, 11.5, 30, 67;
#   slope * j as one more feature of the keys: 4.8, 10.7, 35, 75 (causal kernel); 7.0, 23, 33, 90 (padded for the fused kernel).
# A bias in one more feature of the keys is also less exact: slope * j - slope * i has an error of 2e-4 at 1024 slots.
BLOCK_SLOTS = 128


class LatentConfig(ModelConfig):
    """A stack of latent attention blocks over token embeddings, with an untied head. The default options are those of `hlb(1)`.

    The model has 2 V D + D + L [(2 (D // 8) + 4 D) D + 2 D^2 + D + 1] parameters.

    Attributes:
        layers, width: the number L of blocks, and their width D.
        heads: the number of heads of Q, K and the value; must divide the width and width // 8. A head is a contiguous part of each
            vector, and all heads of a layer share one slope.
        linear_value: whether the value is the second half of g before the GELU, and so has no gate.
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
    """The latent attention model: x = E[tokens], then blocks, norm and head. It reads rows of any length.

    The weights are empty until `LatentConfig.build` fills them.
    """

    def __init__(self, config: LatentConfig, vocab_size: int, max_length: int):
        super().__init__(vocab_size, max_length)
        self.config = config
        self.embedding = Table(vocab_size, config.width, role="embedding")
        self.blocks = nn.ModuleList(LatentBlock(config) for _ in range(config.layers))
        self.final_norm = Norm(config.width, "layer", gain=True)
        self.head = Linear(config.width, vocab_size, bias=False, role="head")

    def linear_head(self) -> LinearHead:
        return LinearHead(self.head.weight)

    def cost(self, slots: int, sees: Visibility) -> Cost:
        pairs, computed = visible_pairs(sees, slots), computed_pairs(sees.native, slots)
        return self._cost(sum((block.cost(slots, pairs, computed) for block in self.blocks), LayerCost(0.0, 0.0, 0)))

    def _reading(self, tokens: Tensor, sees: Visibility, before: int = 0) -> Reading:
        mask, slots = mask_of(sees, tokens), before + tokens.shape[1]
        dtype = exact_dtype(self.embedding.weight)
        distance = distance_table(slots, sees.native, mask, device=tokens.device, dtype=dtype, first=before)
        return Reading(sees.native, mask, distance=distance)


class LatentBlock(nn.Module):
    """A latent attention block, x + attention(norm x), (B, T, D) -> (B, T, D). The gate of the attention replaces an MLP."""

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
        """(B, T_new, D) states of the next slots -> (B, T_new, D), and the attention's next state."""
        mixed, kept = self.attention.extend(self.norm(x), reading, state)
        return x + mixed, kept


class LatentAttention(Mixer):
    """Latent attention, W_p (local, attended value), (B, T, D) -> (B, T, D).

    The slope is softplus of a parameter in the training group `slope`, whose learning rate is 100 times that of the matrices.
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
        """The cost of the attention; `computed` is the number of pairs of slots that get a score, by default all T^2 pairs."""
        maps = 2.0 * (self.expand.weight.numel() + self.project.weight.numel())
        return attention_cost(maps, self.query_width + self.width, slots, pairs, computed)

    def start(self, name: str, parameter: Tensor, rng: Generator) -> None:
        parameter.fill_(START_RAW_SLOPE)

    def open_for_audit(self, gain: float, rng: Generator) -> None:
        """Set the slope near .01, so that a leak from a distant slot shows in an audit.

        A slope of .01 leaves a weight of e^-10 at a distance of 1024 slots. With the slope that training starts from, 1.31, the
        weight at a distance of 30 slots is only 1e-17, so that an audit could not see a leak.
        """
        open_near(self.raw_slope, AUDIT_RAW_SLOPE, rng)

    def _expanded(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The local part, (B, T, D), then q, k and the value, each (B H, T, its width in one head)."""
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
        """Split the heads: (B, T, H h) -> (B H, T, h), where h is the width of a head."""
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2).flatten(0, 1)

    def _together(self, x: Tensor) -> Tensor:
        """Join the heads: (B H, T, h) -> (B, T, H h), where h is the width of a head."""
        return x.view(-1, self.heads, *x.shape[1:]).transpose(1, 2).flatten(2)

    def _attended(self, q: Tensor, k: Tensor, value: Tensor, bias: Tensor, native: Native) -> Tensor:
        """The (B H, T, h) outputs of attention, computed in blocks of slots; h is the width of a head.

        With blocks, half of the T^2 scores of a causal row is never computed, and evaluation holds the scores of only one block in
        memory. If q has fewer slots than k, the slots of q are the last slots of k.
        """
        blocks = []
        for first, end, read in _blocks(native, q.shape[1], k.shape[1] - q.shape[1]):
            weights = self._softmax(q[:, first:end], k[:, :read], bias[first:end, :read])
            blocks.append(weights @ value[:, :read])
        return blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=1)

    def _softmax(self, q: Tensor, k: Tensor, bias: Tensor) -> Tensor:
        """The attention weights in the dtype of q. Bias and softmax are computed in float32 or better, also under autocast."""
        if q.dtype == bias.dtype:
            return torch.baddbmm(bias.expand(len(q), -1, -1), q, k.mT, alpha=self.scale).softmax(dim=-1)
        return (exact(q @ k.mT) * self.scale + bias).softmax(dim=-1).to(q.dtype)


def computed_pairs(native: Native, slots: int) -> int:
    """The number of pairs (slot that reads, slot that is read) that get a score; some of these pairs are not visible."""
    return sum((end - first) * read for first, end, read in _blocks(native, slots))


def hlb(size: float = 1.0) -> LatentConfig:
    """The config of hlb-gpt for a size of the model: width 64 round(6 log2(1 + size)), layers round(8 log2(1 + size)).

    Size 1 means 8 layers of width 384, with 46 million parameters at a vocabulary of 50 304 tokens. Size .5 means 5 layers of
    width 256; size 4 means 19 layers of width 896.

    Raises:
        BadInput: the size is not a positive finite number, or it is so small (below about .06) that width or layers would be 0.
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
    """List the blocks of slots as (first, end, read): new slots first..end - 1 together read the first `read` slots.

    Args:
        slots: the number of new slots.
        before: the number of slots before the new slots.
    """
    ends = [*range(BLOCK_SLOTS, slots, BLOCK_SLOTS), slots]
    read = [before + (end if native == "causal" else slots) for end in ends]
    return list(zip([0, *ends[:-1]], ends, read, strict=True))
