"""The decoder: a model that consists of an embedding, blocks, a final norm and a head.

The file has two presets: `gpt2` (nanoGPT's layout) and `modern` (rotary positions, QK-norm, ReLU squared).

Legend: B rows, T slots, T_new new slots, D width, V vocabulary, L layers, C longest row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, ValidationInfo, field_validator, model_validator
from torch import Tensor, nn

from palinode.base.bounds import LARGEST_MULTIPLE, MOST_LAYERS
from palinode.base.config import LATER, one_of
from palinode.base.errors import BadInput
from palinode.base.head import LinearHead, SoftCap, SoftCapKind
from palinode.base.visibility import Native, Visibility
from palinode.models.base import ModelConfig
from palinode.models.block import Block, Mlp, MlpKind, hidden_width
from palinode.models.cost import Cost, LayerCost, visible_pairs
from palinode.models.init import InitRule, SchemeName, initialise
from palinode.models.mixers import MIXERS
from palinode.models.mixers.attention import AttentionConfig
from palinode.models.mixers.base import MixerConfig, Place, Reading, refuse_unread
from palinode.models.parts.exact import exact_dtype
from palinode.models.parts.linear import Linear, Norm, NormKind, Table
from palinode.models.parts.positions import (
    RotaryKind,
    RotaryTable,
    SubtractPosition,
    SubtractTable,
    alibi_slopes,
    distance_table,
    next_position_of,
    refuse_subtraction,
)
from palinode.models.parts.state import StackState
from palinode.models.stack import HeadsOfWidth, Stack, mask_of, positions_of

PositionKind = Literal["learned", "rotary", "alibi", "none"]


class DecoderConfig(ModelConfig):
    """A stack of blocks over token embeddings. The default options are those of the preset `gpt2`.

    Attributes:
        layers, width: the number L of blocks, and their width D.
        heads: the number of heads of the mixer; must divide the width.
        mlp, mlp_mult: the kind of the MLP (`none`: no MLP), and its hidden width as a multiple of D (`swiglu`: two thirds of this
            width).
        mlp_blocks: the number of blocks in each matrix of a `block_diagonal` MLP.
        position: the kind of positions. `learned`: a table of C rows. `rotary`: q and k are rotated. `alibi`: attention scores
            fall linearly with distance, at a fixed rate for each head. `none`: no positions.
        rotary, rotary_base: which pairs of features are rotated, and the base of the angles. `full` rotates all pairs, pair i by
            base^(-2i/head width) radians per slot; `half` rotates only half of the pairs and does not use the base.
        norm, norm_gain: the kind of the norms (LayerNorm or RMSNorm), and whether they learn a gain.
        embed_norm: whether a norm follows the embedding.
        qk_norm: whether q and k are normalised over each head.
        attention_scale: the factor of the attention logits q.k * attention_scale / sqrt(head width).
        bias: whether linear maps (also an untied head) have biases, and LayerNorms shifts.
        tied_head: whether the head uses the embedding matrix.
        soft_cap, cap_value: the function that keeps each |logit| below c, and c: `rsqrt` c z / sqrt(z^2 + c^2), or `tanh`
            c tanh(z / c).
        init, zero_residual, zero_head: how the weights start; see `models.init.InitRule`.
        dropout: the dropout rate of the embedding, the attention probabilities and both branch outputs, in training only.
        mixer: the layer that moves information between slots, of the same kind in every block.
        mixers: the mixers of a hybrid model, in place of `mixer`: layer l has mixers[l mod len(mixers)].
        subtract_position: whether the position of the next slot is subtracted from each last state (`parts/positions.py`):
            `plain` subtracts the position, `norm` subtracts the position and then applies a norm, `none` does neither.
        subtract_table: the table of the positions that are subtracted: the table of learned positions (`shared`, which then has one
            more row), or a `separate` table.
    """

    kind: ClassVar[str] = "decoder"
    layers: int = Field(default=4, ge=1, le=MOST_LAYERS)
    width: int = Field(default=128, ge=1)
    heads: HeadsOfWidth = 4
    mlp: MlpKind = "gelu"
    mlp_mult: float = Field(default=4.0, gt=0, le=LARGEST_MULTIPLE)
    position: PositionKind = "learned"
    rotary: RotaryKind = "full"
    rotary_base: float = Field(default=10_000.0, gt=1)
    norm: NormKind = "layer"
    norm_gain: bool = True
    embed_norm: bool = False
    qk_norm: bool = False
    attention_scale: float = Field(default=1.0, gt=0)
    bias: bool = False
    tied_head: bool = True
    soft_cap: SoftCapKind = "none"
    cap_value: float = Field(default=15.0, gt=0)
    init: SchemeName = "gpt2"
    zero_residual: bool = False
    zero_head: bool = False
    dropout: float = Field(default=0.0, ge=0, lt=1)
    mixer: Annotated[MixerConfig, one_of(lambda: MIXERS, "mixer")] = AttentionConfig()
    subtract_position: Annotated[SubtractPosition, LATER] = "none"
    subtract_table: Annotated[SubtractTable, LATER] = "shared"
    mixers: Annotated[tuple[Annotated[MixerConfig, one_of(lambda: MIXERS, "mixer")], ...], LATER] = ()
    mlp_blocks: Annotated[int, LATER] = Field(default=4, ge=1)

    @field_validator("zero_head")
    @classmethod
    def _zero_head_is_untied(cls, zero_head: bool, info: ValidationInfo) -> bool:
        if zero_head and info.data.get("tied_head"):
            raise ValueError("a tied head is the embedding and cannot start at zero; set tied_head = false")
        return zero_head

    @model_validator(mode="after")
    def _options_have_readers(self) -> DecoderConfig:
        rotary, head_width = self.position == "rotary", self.width // self.heads
        part = 4 if self.rotary == "half" else 2
        if rotary and head_width % part:
            raise ValueError(f"heads: rotary {self.rotary} needs a head width divisible by {part}, not {head_width}")
        if self.mixers and self.mixer != AttentionConfig():
            unused = f"mixer = {self.mixer.kind_name()} has no layer"
            raise ValueError(f"mixers lists the mixer of each layer, so {unused}; set only one")
        used = self.layer_mixers()
        for mixer in dict.fromkeys(used):
            mixer.check_width(self.width)
        set_options = {
            "qk_norm": self.qk_norm,
            "rotary": rotary,
            "alibi": self.position == "alibi",
            "attention_scale": self.attention_scale != 1.0,
        }
        refuse_unread([name for name, is_set in set_options.items() if is_set], used)
        refuse_subtraction(self.subtract_position, self.subtract_table, self.position == "learned")
        inner, blocks = hidden_width(self.width, self.mlp, self.mlp_mult), self.mlp_blocks
        if self.mlp == "block_diagonal" and (self.width % blocks or inner % blocks):
            raise ValueError(f"mlp_blocks: {blocks} blocks do not divide the MLP's widths {self.width} and {inner}")
        return self

    def layer_mixers(self) -> tuple[MixerConfig, ...]:
        """The mixer of each layer, from the first to the last."""
        listed = self.mixers or (self.mixer,)
        return tuple(listed[layer % len(listed)] for layer in range(self.layers))

    def build(self, vocab_size: int, max_length: int, seed: int) -> Decoder:
        model = Decoder(self, vocab_size, max_length)
        initialise(model, InitRule(self.init, self.layers, self.zero_residual, self.zero_head), seed)
        return model


@dataclass(frozen=True)
class DecoderState(StackState):
    """The state of a decoder; `turning` is the table of rotations of all its positions.

    The state keeps the table, because computing the table again for each token would take a tenth of the time of reading a token.
    """

    turning: RotaryTable | None


class Decoder(Stack):
    """The decoder: x = E[tokens] + P, then blocks, norm and head. The weights are empty until `DecoderConfig.build` fills them."""

    def __init__(self, config: DecoderConfig, vocab_size: int, max_length: int):
        super().__init__(vocab_size, max_length, config.dropout)
        self.config = config
        learned = config.position == "learned"
        self.embedding = Table(vocab_size, config.width, role="embedding")
        subtraction = (config.subtract_position, config.subtract_table)
        self.next_position = next_position_of(*subtraction, config.width, max_length, lambda: _norm(config))
        shares = self.next_position is not None and config.subtract_table == "shared"
        self.position = Table(max_length + shares, config.width, role="position") if learned else None
        self.embed_norm = _norm(config) if config.embed_norm else None
        self.blocks = nn.ModuleList(_block(config, mixer, max_length) for mixer in config.layer_mixers())
        self.final_norm = _norm(config)
        self.head = None if config.tied_head else Linear(config.width, vocab_size, bias=config.bias, role="head")

    def reach_slots(self, sees: Visibility) -> int | None:
        reaches = [block.mixer.reach_slots(sees.native) for block in self.blocks]
        return None if None in reaches else sum(reaches)

    def begin(self, rows: int, slots: int) -> DecoderState:
        turning = self._turning(torch.arange(slots, device=self.embedding.weight.device))
        return DecoderState(slots, 0, super().begin(rows, slots).layers, turning)

    def linear_head(self) -> LinearHead:
        made_by = self.embedding if self.head is None else self.head
        cap = SoftCap(self.config.soft_cap, self.config.cap_value)
        return LinearHead(made_by.weight, None if self.head is None else self.head.bias, cap)

    def cost(self, slots: int, sees: Visibility) -> Cost:
        pairs = visible_pairs(sees, slots)
        return self._cost(sum((block.cost(slots, pairs) for block in self.blocks), LayerCost(0.0, 0.0, 0)))

    def _reading(self, tokens: Tensor, sees: Visibility, before: int = 0) -> Reading:
        mask, config = mask_of(sees, tokens), self.config
        for mixer in config.layer_mixers():
            if why := mixer.refusal(sees.native):
                raise BadInput(f"the mixer {mixer.kind_name()} cannot read {sees.kind_name()}: {why}", field="mixer")
        bias = self._bias(before + tokens.shape[1], sees.native, mask, first=before)
        return Reading(sees.native, mask, self._turning(positions_of(tokens, before)), bias=bias)

    def _reading_on(self, tokens: Tensor, state: DecoderState) -> Reading:
        end = state.read + tokens.shape[1]
        turning = None if state.turning is None else state.turning.part(state.read, end)
        return Reading("causal", None, turning, bias=self._bias(end, "causal", None, first=state.read))

    def _turning(self, positions: Tensor) -> RotaryTable | None:
        config = self.config
        if config.position != "rotary":
            return None
        return self._rotary(positions, config.heads, config.rotary, config.rotary_base)

    def _bias(self, slots: int, native: Native, mask: Tensor | None, first: int) -> Tensor | None:
        """The (heads, T - first, T) score biases of the slots from `first` on, when positions are `alibi`; else None."""
        if self.config.position != "alibi":
            return None
        device, dtype = self.embedding.weight.device, exact_dtype(self.embedding.weight)
        table = distance_table(slots, native, mask, device=device, dtype=dtype, first=first)
        slopes = torch.tensor(alibi_slopes(self.config.heads), device=device, dtype=dtype)
        return table.bias(slopes[:, None, None])


def gpt2(*, layers: int, width: int, heads: int, dropout: float = 0.0, bias: bool = False) -> DecoderConfig:
    """The config of nanoGPT's layout: LayerNorm, GELU, learned positions, tied head.

    The model has V D + C D + L (12 D^2 + 2 D) + D parameters.

    Args:
        layers, width, heads: the number L of blocks, their width D, and the number of attention heads.
    """
    return DecoderConfig(layers=layers, width=width, heads=heads, dropout=dropout, bias=bias)


def modern(
    *, layers: int, width: int, heads: int, dropout: float = 0.0, preset: Literal["S", "N"] = "S"
) -> DecoderConfig:
    """A config with RMSNorm, ReLU squared, rotary positions, QK-norm, soft-cap, residual maps that start at 0, and an untied head.

    Preset `S` follows modded-nanogpt's track-3 simple script: biases, gains, half rotary, attention scale 1.36, rsqrt cap; the head
    starts at 0. Preset `N` follows nanochat without value embeddings, residual scalars, smear and windows: no bias, no gains, full
    rotary, attention scale 1.44, tanh cap. Both presets have rotary base 100 000.
    """
    simple = preset == "S"
    return DecoderConfig(
        layers=layers,
        width=width,
        heads=heads,
        dropout=dropout,
        mlp="relu2",
        position="rotary",
        rotary="half" if simple else "full",
        rotary_base=100_000.0,
        norm="rms",
        norm_gain=simple,
        embed_norm=True,
        qk_norm=True,
        attention_scale=1.36 if simple else 1.44,
        bias=simple,
        tied_head=False,
        soft_cap="rsqrt" if simple else "tanh",
        init="fan_in" if simple else "nanochat",
        zero_residual=True,
        zero_head=simple,
    )


def _norm(config: DecoderConfig) -> Norm:
    return Norm(config.width, config.norm, gain=config.norm_gain, shift=config.bias)


def _block(config: DecoderConfig, mixer_config: MixerConfig, max_length: int) -> Block:
    place = Place(
        width=config.width,
        heads=config.heads,
        max_length=max_length,
        bias=config.bias,
        dropout=config.dropout,
        qk_norm=config.qk_norm,
        attention_scale=config.attention_scale,
    )
    mixer = mixer_config.build(place)
    if config.mlp == "none":
        return Block(mixer, None, _norm(config), None, config.dropout)
    mlp = Mlp(config.width, config.mlp, config.mlp_mult, bias=config.bias, blocks=config.mlp_blocks)
    return Block(mixer, mlp, _norm(config), _norm(config), config.dropout)
