"""The autoregressive encoder-decoder: a causal encoder, whose state a causal decoder starts from and reads at every block.

x = E[tokens] + P; o = encoder(x), without a norm; y = W_b o; each decoder block adds self-attention, cross-attention to o and an
MLP; z = norm(y) - P[t + 1]; logits = z E^T. Encoder, decoder and cross-attention see the same slots, so it is a language model like
any other: for causal rows slot t reads slots s <= t everywhere, and rows with another visibility (prefix, full, a mask) use that
same visibility in all three.

Source: yiphei's autoregressive encoder-decoder (no licence: its formulas only), written anew. Differs in: no dropout on attention
probabilities in evaluation (there it stayed on), no norm that nothing uses, an embedding loss whose norms learn no gain and whose
two sides are centred (`parts/embedding_loss.py`).
Legend: B rows, T slots, T_new new slots, D width, V vocabulary, L_e and L_d blocks of encoder and decoder, C longest row.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from palinode.base.head import LinearHead
from palinode.base.visibility import Ltr, Visibility
from palinode.models.auxiliary import AuxiliaryTerm, PairTerm
from palinode.models.base import LanguageModel, ModelConfig
from palinode.models.block import Block
from palinode.models.cost import Cost, LayerCost, visible_pairs
from palinode.models.cross_block import DecoderBlock, DecoderBlockState, Readings
from palinode.models.decoder import explicit_mask
from palinode.models.init import GPT2_STD, InitRule, initialise
from palinode.models.mixers.attention import Attention
from palinode.models.mixers.base import Place, Reading
from palinode.models.parts.cross_attention import CrossAttention, Memory
from palinode.models.parts.embedding_loss import EmbeddingLoss, EmbeddingTerm
from palinode.models.parts.exact import exact
from palinode.models.parts.linear import Linear, Table
from palinode.models.parts.mlp import Mlp
from palinode.models.parts.next_position import (
    SubtractPosition,
    SubtractTable,
    next_position_of,
    refuse_long_rows,
    refuse_subtraction,
)
from palinode.models.parts.norm import Norm
from palinode.models.parts.rotary import RotaryTable, rotary_table
from palinode.models.parts.state import MixerState, ModelState

Order = Literal["self_first", "cross_first"]
EMBEDDING_LOSS = "embedding_loss"  # the name of its term in records


def _none_is_no_value(value: Any) -> Any:
    """TOML has no null: "none" says that there is no embedding loss."""
    return None if value == "none" else value


class EncoderDecoderConfig(ModelConfig):
    """Options of the model; the defaults are its author's but for two options of the embedding loss.

    Its norms learn no gain (`norm_affine` false; published: true), and its sides are centred (`centred` true; published: false).

    Attributes:
        encoder_layers, decoder_layers, width: L_e and L_d blocks of width D.
        heads, cross_heads: of self- and of cross-attention; must divide the width. None: twice `heads`.
        order: whether a decoder block attends to itself or to the encoder first.
        position: `learned` table, or `rotary` (base `rotary_base`): q and k are turned in all three attentions.
        subtract_position, subtract_table: the next slot's position is taken from the last state, from the positions' own table or a
            `separate` one, which rotary positions need (`parts/next_position.py`); `norm`: and one more norm follows.
        add_next_position: P[t + 1] is added to what the decoder starts from.
        bridge_norm: a norm of the encoder's state before the bridge W_b.
        cross_gate: each cross-attention is multiplied by tanh(g), g learned from 0.
        memory: cross-attention reads the `last` state of the encoder; or each block a `weighted` mean of the states after each
            of the encoder's blocks; or, `stack`, of those and of the states after the decoder's blocks below it: a block whose
            gate stays shut is then one more that encodes. With gates and one block in the encoder it is learned how many do.
        residual_init: maps that write into the stream start with .02 / sqrt(2 L) of their own side (`per_stack`, although a
            decoder block has three), or .02 / sqrt(2 L_e + 3 L_d) (`total`).
        bias: linear maps have biases and norms have shifts.
        dropout: on the embedding, the attention probabilities and all branch outputs; in training only.
        embedding_loss: its options, or None ("none" in TOML).
    """

    kind: ClassVar[str] = "encoder_decoder"
    encoder_layers: int = Field(default=2, ge=1)
    decoder_layers: int = Field(default=2, ge=1)
    width: int = Field(default=128, ge=1)
    heads: int = Field(default=4, ge=1)
    cross_heads: int | None = Field(default=None, ge=1)
    order: Order = "self_first"
    position: Literal["learned", "rotary"] = "learned"
    rotary_base: float = Field(default=10_000.0, gt=1)
    subtract_position: SubtractPosition = "plain"
    subtract_table: SubtractTable = "shared"
    add_next_position: bool = False
    bridge_norm: bool = False
    cross_gate: bool = False
    memory: Literal["last", "weighted", "stack"] = "last"
    residual_init: Literal["per_stack", "total"] = "per_stack"
    bias: bool = False
    dropout: float = Field(default=0.0, ge=0, lt=1)
    embedding_loss: Annotated[EmbeddingLoss | None, BeforeValidator(_none_is_no_value)] = EmbeddingLoss()

    @field_validator("heads", "cross_heads")
    @classmethod
    def _heads_divide_width(cls, heads: int | None, info: ValidationInfo) -> int | None:
        width = info.data.get("width")
        if width is not None and heads is not None and width % heads:
            raise ValueError(f"{heads} heads do not divide width {width}")
        return heads

    @model_validator(mode="after")
    def _options_fit(self) -> EncoderDecoderConfig:
        if self.width % self.all_cross_heads:
            raise ValueError(f"cross_heads: {self.all_cross_heads} (twice heads) do not divide width {self.width}")
        learned = self.position == "learned"
        for name, heads in (("heads", self.heads), ("cross_heads", self.all_cross_heads)):
            if not learned and (self.width // heads) % 2:
                raise ValueError(f"{name}: rotary positions need an even head width, not {self.width // heads}")
        if self.add_next_position and not learned:
            raise ValueError("add_next_position: there is no table of learned positions to add from")
        refuse_subtraction(self.subtract_position, self.subtract_table, learned)
        return self

    @property
    def all_cross_heads(self) -> int:
        """Heads of cross-attention, whether they were given or not."""
        return 2 * self.heads if self.cross_heads is None else self.cross_heads

    def build(self, vocab_size: int, max_length: int, seed: int) -> EncoderDecoder:
        model = EncoderDecoder(self, vocab_size, max_length)
        encoder, decoder = 2 * self.encoder_layers, 2 * self.decoder_layers
        if self.residual_init == "total":
            encoder = decoder = 2 * self.encoder_layers + 3 * self.decoder_layers
        initialise(model, _rule(decoder), seed, parts={"encoder": _rule(encoder)})
        return model

    def with_terms_times(self, factor: float) -> EncoderDecoderConfig:
        loss = self.embedding_loss
        return self if loss is None else self.with_(embedding_loss=loss.with_(coefficient=factor * loss.coefficient))


@dataclass(frozen=True)
class EncoderDecoderState(ModelState):
    """What the blocks of both stacks keep."""

    encoder: tuple[MixerState, ...]
    blocks: tuple[DecoderBlockState, ...]


class EncoderDecoder(LanguageModel):
    """See the top of this file. Weights are empty until `EncoderDecoderConfig.build` fills them.

    It can be cut: its depths are the decoder's blocks, each over the whole encoder.
    """

    compiled_methods: ClassVar[tuple[str, ...]] = ("_read",)

    def __init__(self, config: EncoderDecoderConfig, vocab_size: int, max_length: int):
        super().__init__()
        self.config = config
        self.vocab_size = vocab_size
        self.max_length = max_length
        width, subtracts = config.width, config.subtract_position != "none"
        separate = subtracts and config.subtract_table == "separate"
        needs_next = config.add_next_position or (subtracts and not separate)
        learned = config.position == "learned"
        self.embedding = Table(vocab_size, width, role="embedding")
        self.position = Table(max_length + needs_next, width, role="position") if learned else None
        self.encoder = nn.ModuleList(
            _encoder_block(config, layer, max_length) for layer in range(config.encoder_layers)
        )
        self.bridge_norm = _norm(config) if config.bridge_norm else None
        self.bridge = Linear(width, width, bias=config.bias)
        self.blocks = nn.ModuleList(_decoder_block(config, layer, max_length) for layer in range(config.decoder_layers))
        self.final_norm = _norm(config)
        subtraction = (config.subtract_position, config.subtract_table)
        self.next_position = next_position_of(*subtraction, width, max_length, lambda: _norm(config))
        loss = config.embedding_loss
        self.embedding_loss = None if loss is None else EmbeddingTerm(loss, width, max_length)

    def hidden(self, tokens: Tensor, sees: Visibility) -> Tensor:
        """States of (B, T) tokens.

        Raises:
            BadInput: the row is longer than a table of positions, or a slot of an explicit mask may see nothing.
            ValueError: the rows still read from the end.
        """
        return self._read(tokens, sees)[0]

    def hidden_and_terms(self, tokens: Tensor, sees: Visibility) -> tuple[Tensor, dict[str, AuxiliaryTerm]]:
        """The states, and in training the embedding loss."""
        states, x, encoded = self._read(tokens, sees)
        if self.embedding_loss is None or not self.training:
            return states, {}
        return states, {EMBEDDING_LOSS: self.embedding_loss(x, encoded, self._readings(tokens, sees).own)}

    def pair_terms(self) -> dict[str, PairTerm]:
        return {} if self.embedding_loss is None else {EMBEDDING_LOSS: self.embedding_loss}

    def depths(self) -> int:
        return len(self.blocks)

    def residuals(self, tokens: Tensor, sees: Visibility) -> Iterator[Tensor]:
        readings = self._readings(tokens, sees)
        encoded = self._encoded(self._embedded(tokens), readings)
        yield from self._decoded(encoded, readings)

    def finished(self, residual: Tensor, positions: Tensor | None = None) -> Tensor:
        states: Tensor = self.final_norm(residual)
        return states if self.next_position is None else self.next_position(states, self.position, positions)

    def can_step(self) -> bool:
        blocks = (*self.encoder, *self.blocks)
        return super().can_step() and all(isinstance(one, Block | DecoderBlock) and one.can_step() for one in blocks)

    def begin(self, rows: int, slots: int) -> ModelState:
        self._check_length(slots)
        encoder = tuple(block.mixer.begin(rows, slots) for block in self.encoder)  # type: ignore[union-attr, operator]
        return EncoderDecoderState(slots, 0, encoder, tuple(block.begin(rows, slots) for block in self.blocks))  # type: ignore[operator]

    def extend(self, tokens: Tensor, state: ModelState) -> tuple[Tensor, ModelState]:
        assert isinstance(state, EncoderDecoderState)
        positions = state.next_positions(tokens)
        readings, x = self._readings(tokens, Ltr(), positions), self._embedded(tokens, positions)
        encoded, encoder, blocks = [], [], []
        for block, kept in zip(self.encoder, state.encoder, strict=True):
            x, after = block.extend(x, readings.own, kept)  # type: ignore[operator]
            encoded.append(x)
            encoder.append(after)
        y = self._bridged(x, positions)
        for block, held in zip(self.blocks, state.blocks, strict=True):
            y, after = block.extend(y, encoded, readings, held)  # type: ignore[operator]
            encoded = self._known_after(encoded, y)
            blocks.append(after)
        read = state.read + tokens.shape[1]
        return self.finished(y, positions), replace(state, read=read, encoder=tuple(encoder), blocks=tuple(blocks))

    def logits(self, hidden: Tensor) -> Tensor:
        return self.linear_head()(hidden)

    def linear_head(self) -> LinearHead:
        return LinearHead(self.embedding.weight, None, exact)

    def cost(self, slots: int, sees: Visibility) -> Cost:
        pairs, width = visible_pairs(sees, slots), self.config.width
        bridge = LayerCost(2.0 * width * width, 2.0 * width * width, 0)
        stack = sum((block.cost(slots, pairs) for block in (*self.encoder, *self.blocks)), bridge)
        return Cost(
            parameters=self.parameter_counts(),
            executed_flops_per_slot=stack.executed,
            useful_flops_per_slot=stack.useful,
            head_flops_per_slot=2.0 * width * self.vocab_size,
            state_elements=stack.state_elements,
            terms_flops_per_slot=0.0 if self.embedding_loss is None else self.embedding_loss.flops_per_slot(slots),
        )

    def _read(self, tokens: Tensor, sees: Visibility) -> tuple[Tensor, Tensor, Tensor]:
        """The last states, the embeddings, and the encoder's last state, each (B, T, D)."""
        readings, x = self._readings(tokens, sees), self._embedded(tokens)
        encoded = self._encoded(x, readings)
        *_, y = self._decoded(encoded, readings)
        return self.finished(y), x, encoded[-1]

    def _decoded(self, known: list[Tensor], readings: Readings) -> Iterator[Tensor]:
        """The (B, T, D) after each block of the decoder, over the states after each block of the encoder."""
        y = self._bridged(known[-1])
        for block in self.blocks:
            y = block(y, known, readings)
            known = self._known_after(known, y)
            yield y

    def _known_after(self, known: list[Tensor], y: Tensor) -> list[Tensor]:
        """The states that the next block of the decoder may read across."""
        return [*known, y] if self.config.memory == "stack" else known

    def _check_length(self, slots: int) -> None:
        refuse_long_rows(slots, self.max_length, self.position, self.next_position)

    def _embedded(self, tokens: Tensor, positions: Tensor | None = None) -> Tensor:
        """(B, T, D) before the encoder; `positions` (T,) are those of the slots, by default 0..T-1."""
        slots, dropout = tokens.shape[1], self.config.dropout
        self._check_length(slots)
        x: Tensor = self.embedding(tokens)
        if self.position is not None:
            x = x + (self.position.weight[:slots] if positions is None else self.position.weight[positions])
        return F.dropout(x, dropout) if self.training and dropout else x

    def _encoded(self, x: Tensor, readings: Readings) -> list[Tensor]:
        """The (B, T, D) after each block of the encoder."""
        states = []
        for block in self.encoder:
            x = block(x, readings.own)
            states.append(x)
        return states

    def _bridged(self, encoded: Tensor, positions: Tensor | None = None) -> Tensor:
        """What the decoder starts from, in float32 as every stream. There is no skip: it starts small."""
        y = exact(self.bridge(encoded if self.bridge_norm is None else self.bridge_norm(encoded)))
        if self.config.add_next_position:
            assert self.position is not None
            weight = self.position.weight
            y = y + (weight[1 : y.shape[1] + 1] if positions is None else weight[positions + 1])
        return y

    def _readings(self, tokens: Tensor, sees: Visibility, positions: Tensor | None = None) -> Readings:
        if sees.reads_from_end:
            raise ValueError("rows that read from the end must be flipped first: call models.direction.read")
        mask = explicit_mask(sees, tokens.shape[1]).to(tokens.device) if sees.native == "mask" else None
        where = torch.arange(tokens.shape[1], device=tokens.device) if positions is None else positions
        own, across = (
            Reading(native=sees.native, mask=mask, rotary=self._rotary(where, heads))
            for heads in (self.config.heads, self.config.all_cross_heads)
        )
        return Readings(own, across)

    def _rotary(self, positions: Tensor, heads: int) -> RotaryTable | None:
        config = self.config
        if config.position != "rotary":
            return None
        dtype = torch.promote_types(self.embedding.weight.dtype, torch.float32)
        return rotary_table(positions, config.width // heads, "full", config.rotary_base, dtype)


def _rule(residual_writes: int) -> InitRule:
    """Everything starts as N(0, .02^2), maps into the stream at .02 / sqrt(their number)."""
    spread = dict.fromkeys(("embedding", "position", "inner", "mlp_in"), GPT2_STD)
    return InitRule(spread | {"residual": GPT2_STD / math.sqrt(residual_writes)}, 0, False, False)  # type: ignore[arg-type]


def _norm(config: EncoderDecoderConfig) -> Norm:
    return Norm(config.width, "layer", gain=True, shift=config.bias)


def _place(config: EncoderDecoderConfig, layer: int, layers: int, max_length: int) -> Place:
    return Place(
        width=config.width,
        heads=config.heads,
        max_length=max_length,
        layer=layer,
        layers=layers,
        bias=config.bias,
        dropout=config.dropout,
    )


def _decoder_block(config: EncoderDecoderConfig, layer: int, max_length: int) -> DecoderBlock:
    cross = CrossAttention(
        config.width, config.all_cross_heads, bias=config.bias, dropout=config.dropout, gated=config.cross_gate
    )
    return DecoderBlock(
        Attention(_place(config, layer, config.decoder_layers, max_length)),
        cross,
        Memory(_states_known(config, layer)),
        Mlp(config.width, "gelu", 4.0, bias=config.bias),
        (_norm(config), _norm(config), _norm(config), _norm(config)),
        self_first=config.order == "self_first",
        dropout=config.dropout,
    )


def _states_known(config: EncoderDecoderConfig, layer: int) -> int | None:
    """How many states this block of the decoder weighs; None: it reads the encoder's last one."""
    return {"last": None, "weighted": config.encoder_layers, "stack": config.encoder_layers + layer}[config.memory]


def _encoder_block(config: EncoderDecoderConfig, layer: int, max_length: int) -> Block:
    attention = Attention(_place(config, layer, config.encoder_layers, max_length))
    return Block(
        attention, Mlp(config.width, "gelu", 4.0, bias=config.bias), _norm(config), _norm(config), config.dropout
    )
