"""The encoder-decoder against the decoder of the published shape at equal training FLOPs: the decoder reads more tokens.

Settings come from `encdec.py`, where both read the same tokens; the encoder-decoder runs are the same in both experiments. A
decoder block of the encoder-decoder attends twice, so it needs more FLOPs for each token. At `smoke` there are too few steps to
match the FLOPs exactly; they differ by about one percent.
"""

from encdec import (
    AGAINST_DECODER,
    AGAINST_DROPOUT,
    BASE,
    COMBINED,
    DROPOUT,
    ENCDEC,
    METRIC,
    SCALES,
    SHAPES,
    SMALLEST_EFFECT,
    SUBTRACTING,
    WITH_COSINE,
    WITH_MSE,
    Shape,
    laptop,
    sizes,
)
from encdec_parameters import SPECIAL_TOKENS
from palinode import Arm, Decision, Experiment


def flops_per_token(blocks: int, products: int, attentions: int, width: int, vocabulary: int, window: int) -> float:
    """FLOPs of a forward pass: 2 for each weight of a matrix, and 4 D T for each attention (the full T x T square is computed)."""
    return 2.0 * (blocks * products * width**2 + vocabulary * width) + 4.0 * width * window * attentions


def decoder_steps(shape: Shape) -> int:
    """The steps in which the decoder uses the FLOPs of the whole encoder-decoder run."""
    vocabulary, window, layers = shape.vocabulary_tokens + SPECIAL_TOKENS, shape.window_tokens, shape.layers
    bridge = 2.0 * shape.width**2
    encoder_decoder = bridge + flops_per_token(layers, 28, 3 * layers, shape.width, vocabulary, window)
    decoder = flops_per_token(2 * layers, 12, 2 * layers, shape.decoder_width, vocabulary, window)
    return round(shape.steps * encoder_decoder / decoder)


def decoder(name: str, note: str, dropout: float) -> Arm:
    """A decoder that uses as many training FLOPs as the encoder-decoder."""
    at = {shape.name: {"model": shape.decoder(dropout), "recipe.steps": decoder_steps(shape)} for shape in SHAPES}
    return Arm(name=name, note=note, at=at)


experiment = Experiment(
    name="encdec_flops",
    question="Is an autoregressive encoder-decoder better than a decoder for the same FLOPs?",
    about=(
        "The comparison of encdec between a model of two parts, an encoder and a decoder, and a model of one part, "
        "when both are given the same amount of computation. The model of one part is cheaper for each piece of text, "
        "so it may read more. The loss says how badly a model guesses the next character: lower is better."
    ),
    base=BASE,
    arms=(
        decoder("decoder", "decoder only, with more tokens, so that its FLOPs equal the encoder-decoder's", 0.0),
        decoder("decoder-dropout", "that decoder with dropout .2", DROPOUT),
        ENCDEC,
        WITH_COSINE,
        WITH_MSE,
        SUBTRACTING,
        COMBINED,
    ),
    scales=SCALES,
    seeds=(1, 2, 3, 4, 5),
    decision=Decision(metric=METRIC, baseline="decoder", equal="train_flops", smallest_effect=SMALLEST_EFFECT),
    sizes={**sizes(), "laptop": laptop("decoder", "decoder-dropout", COMBINED.name)},
    # Claims that compare encoder-decoders are in encdec.py; the runs are the same.
    claims=(AGAINST_DECODER, AGAINST_DROPOUT),
)
