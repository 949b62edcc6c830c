"""What the author of the encoder-decoder planned to try next, each as an arm against the combined configuration.

The arms: unequal sides, and sides whose share is learned; rotary positions, with a table of their own to subtract; subtraction in a
decoder; other aggregations than the mean; other scores; dropout; and the same model trained right to left, in both directions, or
with hidden inputs. For an arm with two changes there is an arm with one of them: `rotary` and `sub-separate` for `rotary-sub`,
`decoder` for `decoder-sub`. Every arm is judged in the direction it was trained in.

Scores differ in scale. Each has a coefficient with which its gradient on the embeddings, relative to that of the cross-entropy,
is at the start of training as large as that of the MSE times 8 (a test checks this).
"""

from encdec import BASE, MSE, ON_WIKITEXT, SCALES, SMALLEST_EFFECT, Shape, arm, sizes
from palinode import (
    Arm,
    BothObjective,
    Constant,
    Decision,
    DecoderConfig,
    EmbeddingLoss,
    EncoderDecoderConfig,
    Experiment,
    MaskedInputObjective,
    RtlObjective,
)

METRIC = "validation.own.nats_per_token"
LOSS = MSE.with_(coefficient=8.0)
BOTH_WAYS = BASE.with_(evaluation=BASE.evaluation.with_(directions=("ltr", "rtl")))


def combined(shape: Shape, **options: object) -> EncoderDecoderConfig:
    return shape.encoder_decoder(embedding_loss=LOSS, subtract_position="plain").with_(**options)


def sides(shape: Shape, encoder_share: float) -> EncoderDecoderConfig:
    """The same number of blocks, with this share of them in the encoder (at least one on each side)."""
    encoder = min(2 * shape.layers - 1, max(1, round(2 * shape.layers * encoder_share)))
    return combined(shape, encoder_layers=encoder, decoder_layers=2 * shape.layers - encoder)


def subtracting_decoder(shape: Shape) -> DecoderConfig:
    return shape.decoder().with_(subtract_position="plain")


def with_loss(name: str, note: str, coefficient: float = 8.0, **options: object) -> Arm:
    loss = EmbeddingLoss(coefficient=coefficient, **options)
    return arm(name, note, lambda shape: combined(shape, embedding_loss=loss))


experiment = Experiment(
    name="encdec_next",
    question="Which of the next steps improves the combined encoder-decoder?",
    base=BOTH_WAYS,
    arms=(
        arm("combined", "MSE embedding loss times 8 and positional subtraction", combined),
        arm("encoder-quarter", "a quarter of the blocks encode", lambda shape: sides(shape, 0.25)),
        arm("encoder-three-quarters", "three quarters of the blocks encode", lambda shape: sides(shape, 0.75)),
        arm(
            "sides-learned",
            "one block encodes; all others have a gate on their cross-attention, which reads a learned mean of all earlier blocks",
            lambda shape: sides(shape, 0.0).with_(cross_gate=True, memory="stack"),
        ),
        arm("sub-separate", "a table of its own to subtract", lambda shape: combined(shape, subtract_table="separate")),
        arm(
            "rotary",
            "rotary positions, as many cross-attention heads as others, nothing subtracted",
            lambda shape: combined(shape, position="rotary", subtract_position="none", cross_heads=shape.heads),
        ),
        arm(
            "rotary-sub",
            "rotary positions, as many cross-attention heads as others, and a table of its own to subtract",
            lambda shape: combined(shape, position="rotary", subtract_table="separate", cross_heads=shape.heads),
        ),
        arm("decoder", "a decoder", Shape.decoder),
        arm("decoder-sub", "a decoder with positional subtraction", subtracting_decoder),
        with_loss("aggregate-window", "a learned causal window for the mean", aggregate="window"),
        with_loss("aggregate-ema", "a learned decay for the mean", aggregate="ema"),
        with_loss("aggregate-matrix", "a learned causal matrix for the mean", aggregate="matrix"),
        with_loss(
            "not-centred",
            "states are not centred, so a vector that all slots share makes the term almost 0",
            centred=False,
        ),
        with_loss("score-infonce", "find the right pair among 256", coefficient=0.25, score="infonce"),
        with_loss("score-cosine", "cosine instead of the MSE", coefficient=4.8, score="cosine"),
        with_loss("score-log-cosine", "log-cosine instead of the MSE", coefficient=2.7, score="log_cosine"),
        arm("dropout", "dropout .1", lambda shape: combined(shape, dropout=0.1)),
        arm(
            "rtl",
            "right to left",
            combined,
            change={"objective": RtlObjective()},
        ),
        arm(
            "both",
            "one batch in ten right to left as well",
            combined,
            change={"objective": BothObjective(p=Constant(p=0.1))},
        ),
        arm("masked-input", "15 % of the inputs hidden", combined, change={"objective": MaskedInputObjective()}),
    ),
    scales=SCALES,
    seeds=(1, 2, 3, 4, 5),
    decision=Decision(metric=METRIC, baseline="combined", equal="window_tokens", smallest_effect=SMALLEST_EFFECT),
    sizes={**sizes(), "laptop": ON_WIKITEXT},
)
