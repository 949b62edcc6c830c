"""A description says of a model what the model itself would say, and makes no weights for it."""

import pytest
import torch
from torch import nn

from palinode.base.errors import BadInput
from palinode.base.visibility import Ltr
from palinode.models import DecoderConfig, EncoderDecoderConfig, LatentConfig, gpt2, modern
from palinode.models.base import LanguageModel, ModelConfig
from palinode.models.cost import Cost
from palinode.models.described import described
from palinode.models.mixers import MIXERS

VOCABULARY, SLOTS = 20, 16
SMALL = {"layers": 2, "width": 32, "heads": 2}
CONFIGS = {
    **{kind: DecoderConfig(**SMALL, position="none", mixer=mixer()) for kind, mixer in MIXERS.items()},
    "gpt2": gpt2(**SMALL),
    "modern": modern(**SMALL),
    "alibi": DecoderConfig(**SMALL, position="alibi"),
    "latent": LatentConfig(layers=2, width=32),
    "encoder_decoder": EncoderDecoderConfig(width=32, heads=2),
    "rotary": EncoderDecoderConfig(width=32, heads=2, position="rotary", subtract_position="none"),
}


def refusal(ask) -> str | None:
    try:
        ask()
    except BadInput as refused:
        return str(refused)
    return None


@pytest.mark.parametrize("name", CONFIGS)
def test_it_says_what_the_model_says(name):
    config = CONFIGS[name]
    model, description = config.build(VOCABULARY, SLOTS, 1), described(config, VOCABULARY, SLOTS)
    assert description.cost(SLOTS, Ltr()) == model.cost(SLOTS, Ltr())
    assert description.total_parameters == sum(parameter.numel() for parameter in model.parameters())
    assert description.answer(LanguageModel.can_be_cut) == model.can_be_cut()
    shapes = {group: [(n, p.shape) for n, p in pairs] for group, pairs in model.parameter_groups().items()}
    assert {
        group: [(n, p.shape) for n, p in pairs] for group, pairs in description.model.parameter_groups().items()
    } == shapes
    long = torch.zeros(1, 4 * SLOTS, dtype=torch.long)
    with torch.no_grad():
        assert refusal(lambda: description.refuse_longer_rows(4 * SLOTS)) == refusal(lambda: model.hidden(long, Ltr()))


@pytest.mark.parametrize("name", CONFIGS)
def test_a_built_in_model_is_not_really_built(name, monkeypatch):
    """Except one: a long convolution looks at its first taps, and refuses those that would never learn."""
    devices, build = [], type(CONFIGS[name]).build

    def counted(self, *arguments):
        devices.append(torch.get_default_device().type)
        return build(self, *arguments)

    monkeypatch.setattr(type(CONFIGS[name]), "build", counted)
    description = described(CONFIGS[name], VOCABULARY + 1, SLOTS)
    description.cost(SLOTS, Ltr())
    refusal(lambda: description.refuse_longer_rows(4 * SLOTS))
    assert described(CONFIGS[name].with_(), VOCABULARY + 1, SLOTS) is description
    assert devices == (["meta", "cpu"] if name == "long_conv" else ["meta"])
    assert all(tensor.is_meta for tensor in (*description.model.parameters(), *description.model.buffers()))


def test_another_vocabulary_row_or_width_is_another_description():
    first = described(gpt2(**SMALL), VOCABULARY, SLOTS)
    others = (
        described(gpt2(**SMALL), VOCABULARY + 2, SLOTS),
        described(gpt2(**SMALL), VOCABULARY, SLOTS + 1),
        described(gpt2(layers=2, width=64, heads=2), VOCABULARY, SLOTS),
    )
    assert len({first.total_parameters, *(other.total_parameters for other in others)}) == 4


def test_a_tensor_of_more_bytes_than_can_be_counted_is_an_overflow():
    with pytest.raises(OverflowError):
        described(gpt2(layers=1, width=10**9, heads=1), VOCABULARY, SLOTS)


class Scaled(LanguageModel):
    """A user's model that divides its weights by their largest number, and whose head is its embedding."""

    def __init__(self, vocab_size: int, max_length: int):
        super().__init__()
        self.vocab_size, self.max_length = vocab_size, max_length
        self.embedding = nn.Embedding(vocab_size, 8)
        self.head = nn.Linear(8, vocab_size, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("offset", torch.zeros(8))
        largest = float(self.embedding.weight.abs().max())
        with torch.no_grad():
            self.embedding.weight /= largest

    def hidden(self, tokens, sees):
        if not float(self.offset.sum()) == 0.0:
            raise AssertionError("a number was changed")
        return self.embedding(tokens) + self.offset

    def logits(self, hidden):
        return self.head(hidden).float()

    def cost(self, slots, sees):
        return Cost(self.parameter_counts(), 0.0, 0.0, 16.0 * self.vocab_size, 0)


class ScaledConfig(ModelConfig):
    """Its config."""

    def build(self, vocab_size, max_length, seed):
        BUILDS.append(torch.get_default_device().type)
        return Scaled(vocab_size, max_length)


BUILDS: list[str] = []


def test_a_users_model_that_computes_with_its_numbers_is_really_built_once():
    BUILDS.clear()
    descriptions = [described(ScaledConfig(), VOCABULARY, SLOTS) for _ in range(3)]
    assert [one.cost(SLOTS, Ltr()).total_parameters for one in descriptions] == [8 * VOCABULARY] * 3
    assert BUILDS == ["meta", "cpu"]
    model = descriptions[0].model
    assert isinstance(model, Scaled)
    assert model.head.weight is model.embedding.weight
    assert all(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))


def test_a_question_that_needs_numbers_is_put_to_a_real_model():
    description = described(ScaledConfig(), VOCABULARY, SLOTS)
    BUILDS.clear()
    description.refuse_longer_rows(4 * SLOTS)
    assert BUILDS == ["cpu"]


class Unwilling(ModelConfig):
    """A user's config that refuses, and one that is not finished."""

    refuses: bool

    def build(self, vocab_size, max_length, seed):
        if self.refuses:
            raise BadInput("not today", field="model")
        return super().build(vocab_size, max_length, seed)


@pytest.mark.parametrize(("refuses", "message"), [(True, "model: not today"), (False, "must define build")])
def test_a_refusal_stays_a_refusal(refuses, message):
    with pytest.raises(BadInput, match=message):
        described(Unwilling(refuses=refuses), VOCABULARY, SLOTS)
