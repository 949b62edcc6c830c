"""Models trained together get the gradients they would get alone: every model, every mixer, every option that changes the way."""

import numpy as np
import pytest
import torch
from mixer_variants import VARIANTS

from palinode.base.example import SpecialTokens
from palinode.base.seeds import generator
from palinode.data.windows import TrainWindows
from palinode.models.decoder import DecoderConfig, gpt2, modern
from palinode.models.encoder_decoder import EncoderDecoderConfig
from palinode.models.latent import LatentConfig
from palinode.models.parts.embedding_loss import EmbeddingLoss
from palinode.objectives import BothObjective, LtrObjective, MaskedObjective
from palinode.train.loop import Training, accumulate_gradients, batch_examples
from palinode.train.optim import AdamW, build_optimizers
from palinode.train.recipe import Gpt2AdamW
from palinode.train.schedule import Cosine
from palinode.train.stacked import Stack

TOKENS, SLOTS, VOCABULARY = 2000, 12, 20
TOLERANCE = 1e-5  # of a parameter's largest gradient: what the module promises
# Smaller gradients are compared as if they had this size, because they are sums of terms that cancel: with AVX-512 the gradient of
# h3's log_step, 8e-7, differs by 1.2e-11.
LEAST_GRADIENT = 1e-5
SMALL = {"layers": 2, "width": 16, "heads": 2}
MODELS = {
    **{f"decoder, {name}": DecoderConfig(**SMALL, position="none", mixer=mixer) for name, mixer in VARIANTS.items()},
    "gpt2, bias": gpt2(**SMALL, bias=True),
    "modern": modern(**SMALL),
    "modern, alibi": DecoderConfig(**SMALL, position="alibi", norm="rms"),
    "block diagonal": DecoderConfig(**SMALL, mlp="block_diagonal"),
    "latent": LatentConfig(layers=2, width=16),
    "encoder-decoder": EncoderDecoderConfig(encoder_layers=1, decoder_layers=2, width=16, heads=2),
    "encoder-decoder, terms": EncoderDecoderConfig(
        encoder_layers=2, decoder_layers=1, width=16, heads=2, embedding_loss=EmbeddingLoss(score="cosine")
    ),
}
RECIPE = Gpt2AdamW(
    steps=20, batch_windows=4, schedule=Cosine(warmup_steps=2), optimizer=AdamW(learning_rate=1e-2), gradient_clip=1.0
)


LTR = LtrObjective()


def training(model, seed, objective=LTR, recipe=RECIPE, labels="all") -> Training:
    specials = SpecialTokens(VOCABULARY)
    built = model.build(specials.vocab_size, SLOTS, seed)
    built.train()
    tokens = torch.randint(0, VOCABULARY, (TOKENS,), generator=generator(0, "tokens")).numpy().astype(np.uint16)
    return Training(
        model=built,
        optimizers=build_optimizers(recipe.optimizer, built, built.parameter_groups()),
        objective=objective,
        recipe=recipe,
        windows=TrainWindows(tokens, SLOTS, seed),
        specials=specials,
        seed=seed,
        device=torch.device("cpu"),
        labels=labels,
        objective_state=objective.state(),
    )


def gradients(member: Training) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in member.model.named_parameters() if p.grad is not None}


def assert_as_alone(make, count=3):
    """The gradients of a stack's first step, against `accumulate_gradients` of each member."""
    alone, together = [make(seed) for seed in range(count)], [make(seed) for seed in range(count)]
    losses = [accumulate_gradients(member, batch_examples(member)) for member in alone]
    stack = Stack(together)
    stacked = stack.gradients([batch_examples(member) for member in together])
    for member, other, loss, same in zip(alone, together, losses, stacked, strict=True):
        assert same.nats_by_group == pytest.approx(loss.nats_by_group, rel=1e-5)
        assert same.scored_by_group == loss.scored_by_group
        assert same.loss_nats == pytest.approx(loss.loss_nats, rel=1e-5)
        assert same.terms_nats == pytest.approx(loss.terms_nats, rel=1e-4, abs=1e-7)
        assert set(same.auxiliary) == set(loss.auxiliary)
        for name, measurements in loss.auxiliary.items():
            assert same.auxiliary[name] == pytest.approx(measurements, rel=1e-4, abs=1e-6)
        expected, got = gradients(member), gradients(other)
        assert set(got) == set(expected), "what is not read gets no gradient, so nothing decays it"
        for name, gradient in expected.items():
            scale = max(float(gradient.abs().max()), LEAST_GRADIENT)
            assert float((got[name] - gradient).abs().max()) <= TOLERANCE * scale, name


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_gradients_are_those_of_separate_runs(model):
    assert_as_alone(lambda seed: training(model, seed))


FULL = {
    name: DecoderConfig(**SMALL, position="none", mixer=mixer)
    for name, mixer in VARIANTS.items()
    if mixer.refusal("full") is None
}


@pytest.mark.parametrize("model", FULL.values(), ids=FULL)
def test_so_are_those_of_models_that_see_everything(model):
    assert_as_alone(lambda seed: training(model, seed, MaskedObjective(rate=0.3)), count=2)


def test_so_are_those_of_both_directions_in_micro_batches():
    recipe = RECIPE.with_(micro_batches=2)
    assert_as_alone(lambda seed: training(LatentConfig(layers=2, width=16), seed, BothObjective(), recipe))


def test_so_are_those_of_runs_with_different_labels():
    assert_as_alone(lambda seed: training(gpt2(**SMALL), seed, labels="last" if seed else "all"))


def test_so_are_those_under_bfloat16():
    """To the precision of bfloat16, 2^-8, over two layers."""
    recipe = RECIPE.with_(precision="bfloat16")
    alone, together = (
        training(modern(**SMALL), 1, recipe=recipe),
        [training(modern(**SMALL), s, recipe=recipe) for s in (1, 2)],
    )
    loss = accumulate_gradients(alone, batch_examples(alone))
    stacked = Stack(together).gradients([batch_examples(member) for member in together])[0]
    assert stacked.loss_nats == pytest.approx(loss.loss_nats, rel=2**-7)
    # The head and the loss stay float32 in both: a head in bfloat16 would be off by 2^-9.
    head, other = (gradients(member)["head.weight"] for member in (alone, together[0]))
    assert float((head - other).norm()) <= 1e-5 * float(head.norm())
