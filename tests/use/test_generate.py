"""Sampling: the right distribution, the right direction, the same text for the same seed."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palinode import Gpt2AdamW, LtrObjective, RunSpec
from palinode.base.errors import BadInput
from palinode.base.example import SpecialTokens
from palinode.base.seeds import generator
from palinode.data.source import prepare
from palinode.data.task_store import TaskData
from palinode.data.tasks import Copy
from palinode.data.tokenizer import ByteTokenizer
from palinode.models import EncoderDecoderConfig, LatentConfig, gpt2, modern
from palinode.models.base import LanguageModel
from palinode.spec.trained import Trained
from palinode.use.generate import Sampling, generate, generate_text, next_logits, probabilities

SPECIALS = SpecialTokens(10)


def trained(model, *, direction_token=True):
    """This model as that of a run; only the objective of its spec matters here."""
    spec = RunSpec(
        data=TaskData(task=Copy(length=4)),
        model=gpt2(layers=1, width=16, heads=2),
        objective=LtrObjective(direction_token=direction_token),
        recipe=Gpt2AdamW(),
        seed=0,
    )
    return Trained(spec, model, SPECIALS, prepare(spec.data))


class Counter(LanguageModel):
    """After token t comes t + 1 (mod 10) with certainty, whatever the direction; special tokens are the most probable of all."""

    vocab_size = SPECIALS.vocab_size
    max_length = 4

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.rows_read: list[list[int]] = []

    def hidden(self, tokens, sees):
        assert sees.native == "causal"
        assert not sees.reads_from_end
        assert tokens.shape[1] <= self.max_length
        self.rows_read.append(tokens[0].tolist())
        return torch.nn.functional.one_hot(torch.where(tokens < 10, (tokens + 1) % 10, 0), self.vocab_size).float() * 50

    def logits(self, hidden):
        logits = hidden.clone()
        logits[..., 10:] = 100.0
        return logits


def test_ltr_grows_to_the_right_and_rtl_to_the_left():
    assert generate(trained(Counter()), [3, 4], 3, 0).tolist() == [[3, 4, 5, 6, 7]]
    assert generate(trained(Counter()), [4, 3], 3, 0, direction="rtl").tolist() == [[7, 6, 5, 4, 3]]


def test_special_tokens_are_never_written():
    assert generate(trained(Counter()), [], 12, 0, rows=2).max() < 10


def test_reading_starts_with_the_direction_token_and_keeps_the_newest_tokens():
    model = Counter()
    generate(trained(model), [3, 4], 3, 0)
    left = SPECIALS["[L]"]
    assert model.rows_read == [[left, 3, 4], [left, 3, 4, 5], [left, 4, 5, 6]]
    model = Counter()
    generate(trained(model), [4, 3], 1, 0, direction="rtl")
    assert model.rows_read == [[SPECIALS["[R]"], 3, 4]]
    model = Counter()
    generate(trained(model, direction_token=False), [3, 4], 3, 0)
    assert model.rows_read == [[3, 4], [3, 4, 5], [3, 4, 5, 6]]


@pytest.mark.parametrize("direction", ["ltr", "rtl"])
def test_same_seed_same_text_and_rows_do_not_depend_on_their_number(direction):
    model = gpt2(layers=1, width=16, heads=2).build(SPECIALS.vocab_size, 8, 0)
    call = {"direction": direction, "sampling": Sampling(temperature=2.0)}
    state = torch.get_rng_state()
    four = generate(trained(model), [1, 2], 12, 7, rows=4, **call)
    assert torch.equal(torch.get_rng_state(), state), "the global generator was touched"
    assert torch.equal(four, generate(trained(model), [1, 2], 12, 7, rows=4, **call))
    assert torch.equal(four[:2], generate(trained(model), [1, 2], 12, 7, rows=2, **call))
    assert not torch.equal(four, generate(trained(model), [1, 2], 12, 8, rows=4, **call))
    assert len({tuple(row) for row in four.tolist()}) == 4
    kept = four[:, :2] if direction == "ltr" else four[:, -2:]
    assert kept.tolist() == [[1, 2]] * 4


STEPPING = {
    "gpt2": gpt2(layers=2, width=16, heads=2),
    "modern": modern(layers=2, width=16, heads=2).with_(zero_head=False, zero_residual=False),
    "latent": LatentConfig(layers=2, width=16),
    "encoder-decoder": EncoderDecoderConfig(encoder_layers=1, decoder_layers=1, width=16, heads=2),
}
SAMPLINGS = {"plain": Sampling(), "greedy": Sampling(temperature=0), "cut": Sampling(temperature=2, top_k=7, top_p=0.9)}


@pytest.mark.parametrize("name", STEPPING)
@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("direction", ["ltr", "rtl"])
@pytest.mark.parametrize("prompt", [[], [1, 2, 3], list(range(10)) * 2])
def test_the_text_is_that_of_a_pass_for_every_token(name, sampling, direction, prompt, monkeypatch):
    """Beyond the longest row too (12 slots): then the oldest tokens are dropped, and every token is a pass."""
    model = STEPPING[name].build(SPECIALS.vocab_size, 12, 0).double()
    call = {"direction": direction, "sampling": SAMPLINGS[sampling], "rows": 2}
    subject = trained(model, direction_token=not prompt or name != "latent")
    assert model.can_step()
    written = generate(subject, prompt, 15, 3, **call)
    monkeypatch.setattr(model, "can_step", lambda: False)
    assert torch.equal(written, generate(subject, prompt, 15, 3, **call))


def test_each_token_is_read_once_until_the_row_is_full(monkeypatch):
    model, read, passes = gpt2(layers=1, width=16, heads=2).build(SPECIALS.vocab_size, 8, 0), [], []
    extend, hidden = model.extend, type(model).hidden
    monkeypatch.setattr(model, "extend", lambda tokens, state: read.append(tokens.shape[1]) or extend(tokens, state))
    monkeypatch.setattr(type(model), "can_step", lambda self: True)
    monkeypatch.setattr(type(model), "hidden", lambda *a, **k: passes.append(a[1].shape[1]) or hidden(*a, **k))
    written = generate(trained(model), [1, 2, 3], 9, 0)
    assert read == [4, 1, 1, 1, 1]
    assert passes == [8, 8, 8, 8]
    assert not written.is_inference()


def test_dropout_is_off_while_writing_and_the_mode_is_put_back():
    model = modern(layers=1, width=16, heads=2, dropout=0.5).with_(zero_head=False).build(SPECIALS.vocab_size, 8, 0)
    model.train()
    texts = [generate(trained(model), [1], 8, 3) for _ in range(2)]
    assert torch.equal(*texts)
    assert model.training


def test_onednn_and_modules_are_put_back_even_when_writing_fails(monkeypatch):
    model = gpt2(layers=1, width=16, heads=2).build(SPECIALS.vocab_size, 8, 0)
    seen = []

    def broken(hidden):
        seen.append(torch.backends.mkldnn.enabled)
        assert vars(model.embedding)["weight"] is model.embedding.weight, "the weight is not found at once"
        raise ArithmeticError("no logits")

    monkeypatch.setattr(model, "logits", broken)
    for before in (True, False):
        monkeypatch.setattr(torch.backends.mkldnn, "enabled", before)
        with pytest.raises(ArithmeticError):
            generate(trained(model), [1], 2, 0)
        assert torch.backends.mkldnn.enabled is before
        assert not any({*module._parameters, *module._modules} & {*vars(module)} for module in model.modules())
    assert seen == [False, False]


def test_frequencies_follow_the_model():
    model = gpt2(layers=1, width=16, heads=2).build(SPECIALS.vocab_size, 8, 0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0.0, 0.5, generator=generator(0, "w", name))
    rows = 4000
    drawn = generate(trained(model), [1], 1, 0, rows=rows)[:, 1]
    with torch.no_grad():
        wanted = next_logits(model, torch.tensor([[1]]), SPECIALS["[L]"])[0, :10].double().softmax(-1)
    result = torch.bincount(drawn, minlength=10).double() / rows
    five_sigma = 5 * (wanted * (1 - wanted) / rows).sqrt() + 1e-9
    assert torch.all((result - wanted).abs() < five_sigma)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1000),
    temperature=st.sampled_from([0.0, 0.3, 1.0, 5.0]),
    top_k=st.sampled_from([None, 1, 3, 50]),
    top_p=st.sampled_from([None, 0.1, 0.9, 1.0]),
)
def test_probabilities_obey_temperature_top_k_and_top_p(seed, temperature, top_k, top_p):
    logits = torch.randn(2, 8, generator=generator(seed, "logits"), dtype=torch.float64) * 3
    chances = probabilities(logits, Sampling(temperature=temperature, top_k=top_k, top_p=top_p))
    assert torch.allclose(chances.sum(-1), torch.ones(2, dtype=torch.float64))
    allowed = chances > 0
    assert torch.all(allowed.gather(1, logits.argmax(-1, keepdim=True))), "the most probable token always stays"
    if temperature == 0:
        assert torch.all(allowed.sum(-1) == 1)
        return
    full = (logits / temperature).softmax(-1)
    ratio = (chances / full)[allowed.any(-1)][:, :]
    for row in range(2):
        kept = ratio[row][allowed[row]]
        assert torch.allclose(kept, kept[0].expand_as(kept)), "what stays keeps its proportions"
        assert full[row][allowed[row]].min() >= full[row][~allowed[row]].max() if not allowed[row].all() else True
    if top_k is not None:
        assert torch.all(allowed.sum(-1) <= top_k)
    if top_p is not None and top_k is None:
        held = (full * allowed).sum(-1)
        smallest = torch.where(allowed, full, 2.0).amin(-1)
        assert torch.all(held >= top_p - 1e-12)
        assert torch.all(held - smallest < top_p + 1e-12), "one token fewer would not have sufficed"


def test_a_temperature_near_0_is_that_of_0():
    logits = torch.tensor([[1.0, 3.0, 2.0], [-5.0, -7.0, -5.5]], dtype=torch.float64)
    coldest = probabilities(logits, Sampling(temperature=1e-310))
    assert torch.equal(coldest, probabilities(logits, Sampling(temperature=0.0)))


def test_text_in_text_out():
    model = gpt2(layers=1, width=16, heads=2).build(SpecialTokens(256).vocab_size, 8, 0)
    subject = replace(trained(model), specials=SpecialTokens(256), data=SimpleNamespace(tokenizer=ByteTokenizer()))
    (ltr,) = generate_text(subject, "ab", 5, 0)
    (rtl,) = generate_text(subject, "ab", 5, 0, direction="rtl")
    assert ltr.startswith("ab")
    assert rtl.endswith("ab")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt_ids": [10]}, "token 10 is not in the vocabulary of 10"),
        ({"prompt_ids": [-1]}, "token -1"),
        ({"prompt_ids": [], "direction_token": False}, "empty prompt"),
        ({"new_tokens": -1}, "cannot write -1 tokens"),
        ({"rows": 0}, "in 0 rows"),
    ],
)
def test_bad_requests_are_refused(change, message):
    call = {"prompt_ids": [1], "new_tokens": 1, "seed": 0} | change
    subject = trained(Counter(), direction_token=call.pop("direction_token", True))
    with pytest.raises(BadInput, match=message):
        generate(subject, **call)
