"""The autoregressive encoder-decoder: a causal decoder starts from the last state of a causal encoder; each block reads this state.

x = E[tokens] + P; o = encoder(x), without a norm; y = W_b o; each decoder block adds self-attention, cross-attention to o and an
MLP to y; z_i = norm(y)_i - P[i + 1]; logits = z E^T. Encoder, decoder and cross-attention see the same slots, so that the model
is an ordinary language model: in causal rows slot i reads slots j <= i in all three; another visibility (prefix, full, a mask)
also holds in all three.

Source: yiphei's autoregressive encoder-decoder, written anew from its formulas only, because its code has no licence. This model
differs from the published one in three points: evaluation has no dropout on attention probabilities (published: dropout); the
published norm that nothing uses is left out; the norms of the embedding loss learn no gain, and the two sides of this loss are
centred (`parts/embedding_loss.py`).
Legend: B rows, T slots, T_new new slots, D width, V vocabulary, L_e and L_d blocks of encoder and decoder, C longest row.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator
from torch import Tensor, nn

from palinode.base.bounds import MOST_LAYERS
from palinode.base.head import LinearHead
from palinode.base.visibility import Ltr, Visibility
from palinode.models.base import AuxiliaryTerm, ModelConfig, PairTerm
from palinode.models.block import Block, CrossAttention, DecoderBlock, Memory, Mlp, Readings
from palinode.models.cost import Cost, LayerCost, visible_pairs
from palinode.models.init import GPT2_STD, InitRule, initialise
from palinode.models.mixers.attention import Attention
from palinode.models.mixers.base import Place, Reading
from palinode.models.parts.embedding_loss import EmbeddingLoss, EmbeddingTerm
from palinode.models.parts.exact import exact
from palinode.models.parts.linear import Linear, Norm, Table
from palinode.models.parts.positions import SubtractPosition, SubtractTable, next_position_of, refuse_subtraction
from palinode.models.parts.state import MixerState, ModelState, StackState
from palinode.models.stack import HeadsOfWidth, Stack, can_step, mask_of, positions_of

Order = Literal["self_first", "cross_first"]
EMBEDDING_LOSS = "embedding_loss"  # the name of the auxiliary term in records


def _none_is_no_value(value: Any) -> Any:
    """Translate the string "none" to None, which means no embedding loss, because TOML has no null."""
    return None if value == "none" else value


class EncoderDecoderConfig(ModelConfig):
    """Options of the encoder-decoder. The defaults are the published values, except for two options of the embedding loss.

    The norms of the embedding loss learn no gain (`norm_affine` is false; published: true), and the two sides of the embedding loss
    are centred (`centred` is true; published: false).

    Attributes:
        encoder_layers, decoder_layers, width: the number L_e of encoder blocks, the number L_d of decoder blocks, and the width D.
        heads: the number of heads of self-attention; must divide the width.
        cross_heads: the number of heads of cross-attention; must divide the width. None: twice `heads`.
        order: whether self-attention or cross-attention comes first in a decoder block.
        position: the kind of positions: a `learned` table, or `rotary`, where q and k are rotated in all attention layers.
        rotary_base: the base of the angles of rotary positions.
        subtract_position: whether the position of the next slot is subtracted from each last state (`parts/positions.py`):
            `plain` subtracts the position, `norm` subtracts the position and then applies a norm, `none` does neither.
        subtract_table: the table of the positions that are subtracted: the table of learned positions (`shared`), or a `separate`
            table, which a model with rotary positions needs.
        add_next_position: whether P[i + 1] is added to the state of slot i that the decoder starts from.
        bridge_norm: whether a norm is applied to the encoder's state before the bridge W_b.
        cross_gate: whether each cross-attention is multiplied by tanh(g), where g is a learned number that starts at 0.
        memory: the states that cross-attention reads. `last`: the last state of the encoder. `weighted`: a learned mean of the
            states after each encoder block. `stack`: a learned mean of the states after each encoder block and after each earlier
            decoder block; with `stack`, a decoder block whose gate stays at 0 works as one more encoder block, so that the model
            learns the number of its encoder blocks.
        residual_init: the standard deviation of the first weights of the maps that write into the residual stream. `per_stack`:
            .02 / sqrt(2 L), where L is the number of blocks of the map's own stack, although a decoder block has three of these
            maps. `total`: .02 / sqrt(2 L_e + 3 L_d).
        bias: whether linear maps have biases and norms have shifts.
        dropout: the dropout rate of the embedding, the attention probabilities and all branch outputs, in training only.
        embedding_loss: the options of the embedding loss; None ("none" in TOML) means no embedding loss.
    """

    kind: ClassVar[str] = "encoder_decoder"
    encoder_layers: int = Field(default=2, ge=1, le=MOST_LAYERS)
    decoder_layers: int = Field(default=2, ge=1, le=MOST_LAYERS)
    width: int = Field(default=128, ge=1)
    heads: HeadsOfWidth = 4
    cross_heads: HeadsOfWidth | None = None
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
        """The number of heads of cross-attention: `cross_heads`, or twice `heads` where `cross_heads` is None."""
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
class EncoderDecoderState(StackState):
    """What generation keeps between two tokens: `encoder` for the encoder's blocks, `layers` for the decoder's blocks."""

    encoder: tuple[MixerState, ...]


class EncoderDecoder(Stack):
    """The encoder-decoder model; the docstring at the top of this file has the formulas.

    The weights are empty until `EncoderDecoderConfig.build` fills them. Decoder blocks can be cut off from the top; the encoder
    always stays whole.
    """

    compiled_methods: ClassVar[tuple[str, ...]] = ("_read",)

    def __init__(self, config: EncoderDecoderConfig, vocab_size: int, max_length: int):
        super().__init__(vocab_size, max_length, config.dropout)
        self.config = config
        width, subtracts = config.width, config.subtract_position != "none"
        separate = subtracts and config.subtract_table == "separate"
        needs_next = config.add_next_position or (subtracts and not separate)
        learned = config.position == "learned"
        self.embedding = Table(vocab_size, width, role="embedding")
        self.position = Table(max_length + needs_next, width, role="position") if learned else None
        place = Place(width, config.heads, max_length, config.bias, config.dropout)
        self.encoder: Any = nn.ModuleList(_encoder_block(config, place) for _ in range(config.encoder_layers))
        self.bridge_norm = _norm(config) if config.bridge_norm else None
        self.bridge = Linear(width, width, bias=config.bias)
        self.blocks = nn.ModuleList(_decoder_block(config, layer, place) for layer in range(config.decoder_layers))
        self.final_norm = _norm(config)
        subtraction = (config.subtract_position, config.subtract_table)
        self.next_position = next_position_of(*subtraction, width, max_length, lambda: _norm(config))
        loss = config.embedding_loss
        self.embedding_loss = None if loss is None else EmbeddingTerm(loss, width, max_length)

    def hidden(self, tokens: Tensor, sees: Visibility) -> Tensor:
        return self._read(tokens, sees)[0]

    def hidden_and_terms(self, tokens: Tensor, sees: Visibility) -> tuple[Tensor, dict[str, AuxiliaryTerm]]:
        """The states of `hidden` and, in training mode, the embedding loss."""
        states, x, encoded = self._read(tokens, sees)
        if self.embedding_loss is None or not self.training:
            return states, {}
        return states, {EMBEDDING_LOSS: self.embedding_loss(x, encoded, self._readings(tokens, sees).own)}

    def pair_terms(self) -> dict[str, PairTerm]:
        return {} if self.embedding_loss is None else {EMBEDDING_LOSS: self.embedding_loss}

    def residuals(self, tokens: Tensor, sees: Visibility) -> Iterator[Tensor]:
        readings = self._readings(tokens, sees)
        encoded = self._encoded(self._embedded(tokens), readings)
        yield from self._decoded(encoded, readings)

    def can_step(self) -> bool:
        return super().can_step() and all(can_step(block) for block in self.encoder)

    def begin(self, rows: int, slots: int) -> EncoderDecoderState:
        encoder = tuple(block.begin(rows, slots) for block in self.encoder)
        return EncoderDecoderState(slots, 0, super().begin(rows, slots).layers, encoder)

    def extend(self, tokens: Tensor, state: EncoderDecoderState) -> tuple[Tensor, ModelState]:
        positions = state.next_positions(tokens)
        readings, x = self._readings(tokens, Ltr(), state.read), self._embedded(tokens, positions)
        encoded, encoder, layers = [], [], []
        for block, kept in zip(self.encoder, state.encoder, strict=True):
            x, after = block.extend(x, readings.own, kept)
            encoded.append(x)
            encoder.append(after)
        y = self._bridged(x, positions)
        for block, before in zip(self.blocks, state.layers, strict=True):
            y, after = block.extend(y, encoded, readings, before)
            encoded = self._readable_after(encoded, y)
            layers.append(after)
        read = state.read + tokens.shape[1]
        return self.finished(y, positions), replace(state, read=read, encoder=tuple(encoder), layers=tuple(layers))

    def linear_head(self) -> LinearHead:
        return LinearHead(self.embedding.weight)

    def cost(self, slots: int, sees: Visibility) -> Cost:
        pairs, width = visible_pairs(sees, slots), self.config.width
        blocks = (*self.encoder, *self.blocks)
        stack = sum((block.cost(slots, pairs) for block in blocks), LayerCost.of(2.0 * width * width, 0))
        return self._cost(stack, 0.0 if self.embedding_loss is None else self.embedding_loss.flops_per_slot(slots))

    def _read(self, tokens: Tensor, sees: Visibility) -> tuple[Tensor, Tensor, Tensor]:
        """The decoder's last states, the embeddings, and the encoder's last states, each (B, T, D)."""
        readings, x = self._readings(tokens, sees), self._embedded(tokens)
        encoded = self._encoded(x, readings)
        *_, y = self._decoded(encoded, readings)
        return self.finished(y), x, encoded[-1]

    def _encoded(self, x: Tensor, readings: Readings) -> list[Tensor]:
        """The list of the (B, T, D) states after each block of the encoder."""
        states = []
        for block in self.encoder:
            x = block(x, readings.own)
            states.append(x)
        return states

    def _decoded(self, readable: list[Tensor], readings: Readings) -> Iterator[Tensor]:
        """Yield the (B, T, D) states after each decoder block; `readable` lists the states after each encoder block."""
        y = self._bridged(readable[-1])
        for block in self.blocks:
            y = block(y, readable, readings)
            readable = self._readable_after(readable, y)
            yield y

    def _readable_after(self, readable: list[Tensor], y: Tensor) -> list[Tensor]:
        """The states that the next block of the decoder may read by cross-attention."""
        return [*readable, y] if self.config.memory == "stack" else readable

    def _bridged(self, encoded: Tensor, positions: Tensor | None = None) -> Tensor:
        """The (B, T, D) states that the decoder starts from, in float32 like every residual stream.

        No skip connection goes around the bridge, so that these states are small at the start of training.
        """
        y = exact(self.bridge(encoded if self.bridge_norm is None else self.bridge_norm(encoded)))
        if self.config.add_next_position:
            assert self.position is not None
            weight = self.position.weight
            y = y + (weight[1 : y.shape[1] + 1] if positions is None else weight[positions + 1])
        return y

    def _readings(self, tokens: Tensor, sees: Visibility, before: int = 0) -> Readings:
        config, mask, where = self.config, mask_of(sees, tokens), positions_of(tokens, before)
        turning = (
            self._rotary(where, heads, "full", config.rotary_base) if config.position == "rotary" else None
            for heads in (config.heads, config.all_cross_heads)
        )
        return Readings(*(Reading(native=sees.native, mask=mask, rotary=table) for table in turning))


def _rule(residual_writes: int) -> InitRule:
    """The start of all weights: N(0, .02^2), but N(0, .02^2 / residual_writes) for maps that write into the residual stream.

    Args:
        residual_writes: the number of these maps.
    """
    spread = dict.fromkeys(("embedding", "position", "inner", "mlp_in"), GPT2_STD)
    return InitRule(spread | {"residual": GPT2_STD / math.sqrt(residual_writes)}, 0, False, False)  # type: ignore[arg-type]


def _norm(config: EncoderDecoderConfig) -> Norm:
    return Norm(config.width, "layer", gain=True, shift=config.bias)


def _decoder_block(config: EncoderDecoderConfig, layer: int, place: Place) -> DecoderBlock:
    weighed = {"last": None, "weighted": config.encoder_layers, "stack": config.encoder_layers + layer}[config.memory]
    return DecoderBlock(
        Attention(place),
        CrossAttention(replace(place, heads=config.all_cross_heads), gated=config.cross_gate),
        Memory(weighed),
        Mlp(config.width, "gelu", 4.0, bias=config.bias),
        (_norm(config), _norm(config), _norm(config), _norm(config)),
        self_first=config.order == "self_first",
        dropout=config.dropout,
    )


def _encoder_block(config: EncoderDecoderConfig, place: Place) -> Block:
    mlp = Mlp(config.width, "gelu", 4.0, bias=config.bias)
    return Block(Attention(place), mlp, _norm(config), _norm(config), config.dropout)
