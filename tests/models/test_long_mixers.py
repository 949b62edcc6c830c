"""Sliding window, long convolution, Hyena, BaseConv and Monarch Mixer: sizes, starts, and each form against its formula."""

import math

import pytest
import torch
from torch.nn import functional as F

from palinode.base.config import decode
from palinode.base.errors import BadInput
from palinode.base.seeds import generator
from palinode.base.visibility import Full, Ltr
from palinode.models import DecoderConfig
from palinode.models.mixers.attention import SlidingWindowConfig
from palinode.models.mixers.base import Place, Reading
from palinode.models.mixers.convolutional import BaseConvConfig, HyenaConfig, LongConvConfig, MonarchConfig
from palinode.models.parts.fft_conv import SineFilter, SineFilterConfig, position_features
from palinode.train.optim import AdamW, RoleRate

WIDTH, LONGEST = 6, 9
FIXED = SineFilterConfig(features=5, width=4, inner_layers=1)


def hyena(order: int, width: int, features: int, *, trained: bool) -> HyenaConfig:
    return HyenaConfig(order=order, filter=SineFilterConfig.model_construct(**_filter(width, features, trained)))


def monarch(width: int, features: int, **options: bool) -> MonarchConfig:
    return MonarchConfig(filter=SineFilterConfig.model_construct(**_filter(width, features, True)), **options)


def _filter(width: int, features: int, trained: bool) -> dict[str, object]:
    """Three features are refused, but were published and counted."""
    fields = SineFilterConfig(width=width, trained_features=trained).model_dump()
    return {**fields, "features": features}


SIZES = [  # D, C, parameters: counted from the original modules
    (SlidingWindowConfig(), 32, 64, 4_224),
    (SlidingWindowConfig(), 64, 64, 16_640),
    (LongConvConfig(channels=2), 32, 64, 8_320),
    (LongConvConfig(), 64, 128, 16_576),
    (LongConvConfig(), 128, 256, 65_920),
    (LongConvConfig(channels=2, two_sided=True), 32, 64, 8_320 + 2 * 32 * 64),
    (hyena(2, 64, 3, trained=True), 64, 64, 30_400),
    (HyenaConfig(), 32, 42, 15_456),
    (hyena(3, 64, 3, trained=True), 128, 256, 110_656),
    (HyenaConfig(), 128, 256, 84_672),
    (HyenaConfig(order=3), 128, 256, 110_016),
    (monarch(16, 3), 64, 64, 19_312),
    (monarch(16, 3, two_sided=True), 64, 64, 20_944),
    (monarch(16, 3, two_sided=True, residual_conv=True), 64, 64, 24_480),
    (monarch(128, 5, two_sided=True, residual_conv=True), 768, 128, 2_903_040),
    (MonarchConfig(filter=SineFilterConfig()), 128, 256, 84_672),
    (MonarchConfig(filter=SineFilterConfig(), two_sided=True, residual_conv=True), 128, 256, 135_552),
    (BaseConvConfig(), 64, 64, 4_416),
    (BaseConvConfig(conv="implicit"), 64, 64, 5_312),
    (BaseConvConfig(conv="explicit"), 64, 64, 8_256),
    (BaseConvConfig(), 128, 256, 17_024),
    (BaseConvConfig(conv="implicit"), 128, 256, 18_752),
]


@pytest.mark.parametrize(("config", "width", "longest", "parameters"), SIZES)
def test_sizes_are_those_of_the_original_modules(config, width, longest, parameters):
    mixer = config.build(Place(width=width, heads=1, max_length=longest, bias=True))
    assert sum(parameter.numel() for parameter in mixer.parameters()) == parameters


COSTS = [  # forward FLOPs for each slot and state, by the formulas at D 128, C = T = 256; kernels are counted apart
    (LongConvConfig(), 78_004 - 180, 32_768),  # the page counts the sum with s u; 4 D^2 + phi D is 77 824
    (HyenaConfig(), 2 * 4 * 128**2 + 2 * 3 * 3 * 128 + 128 * 99, 33_536),
    (HyenaConfig(order=3), 2 * 5 * 128**2 + 2 * 3 * 4 * 128 + 2 * 128 * 99, 66_560),
    (MonarchConfig(), 8 * 128**2 + 18 * 128 + 128 * 98, 33_536),
    (BaseConvConfig(), 33_536, 256),
    (BaseConvConfig(conv="implicit"), 2 * 128**2 + 96 * 128, 32_768),
]


@pytest.mark.parametrize(("config", "flops", "state"), COSTS)
def test_costs_are_those_of_the_formulas(config, flops, state):
    cost = config.build(Place(width=128, heads=4, max_length=256)).cost(256, 256 * 257 // 2)
    assert (cost.executed, cost.state_elements) == (flops, state)


def opened(config, longest: int = LONGEST, width: int = WIDTH, heads: int = 2):
    mixer = config.build(Place(width=width, heads=heads, max_length=longest, bias=True)).double().eval()
    with torch.no_grad():
        for name, parameter in mixer.named_parameters():
            parameter.normal_(0.0, 0.5, generator=generator(0, "long", name))
    return mixer


def states(slots: int, width: int = WIDTH) -> torch.Tensor:
    return torch.randn(2, slots, width, generator=generator(0, "x", slots), dtype=torch.float64)


def summed(u, past, future=None):
    """The definition along the slots of (R, S, D)."""
    y = torch.zeros_like(u)
    for i in range(u.shape[1]):
        for j in range(u.shape[1]):
            kernel, lag = (past, i - j) if j <= i else (future, j - i - 1)
            if kernel is not None:
                y[:, i] += kernel[:, lag] * u[:, j]
    return y


def short(conv, x, native):
    ahead = (conv.taps.shape[1] - 1) // 2 if native == "full" else 0
    y = torch.zeros_like(x) + conv.bias
    for i in range(x.shape[1]):
        for tap in range(conv.taps.shape[1]):
            if 0 <= (j := i + ahead - tap) < x.shape[1]:
                y[:, i] += conv.taps[:, tap] * x[:, j]
    return y


def sine_kernel(made: SineFilter, maps, slots: int) -> torch.Tensor:
    """The network lag by lag, from the formula."""
    config, taps = made.config, []
    bands = (config.features - 1) // 2
    turns = [1e-4 + (bands - 1 - 1e-4) * band / (bands - 1) for band in range(bands)]
    rates = torch.linspace(3.0701134573253944, 15.350567286626973, made.channels, dtype=torch.float64)
    for lag in range(slots):
        t, angle = lag / (made.longest - 1), 2 * math.pi * lag / made.longest
        z = [t, *(math.cos(f * angle) for f in turns), *(-math.sin(f * angle) for f in turns)]
        z = torch.tensor(z, dtype=torch.float64) if made.features is None else made.features[lag]
        for layer in list(maps)[:-1]:
            z = torch.sin(made.frequency * (layer.weight @ z + layer.bias))
        taps.append(maps[-1].weight @ z * torch.exp(-rates * t))
    return torch.stack(taps, -1)


@pytest.mark.parametrize("slots", [1, 3, 8, LONGEST])
@pytest.mark.parametrize("trained", [False, True])
def test_the_sine_filter_equals_its_formula_and_never_rescales_lags(slots, trained):
    made = SineFilter(FIXED.with_(trained_features=trained), 4, LONGEST, two_sided=True).double()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            parameter.normal_(0.0, 0.5, generator=generator(0, "filter", name))
    past, future = made.kernels(slots, "full")
    assert torch.allclose(past, sine_kernel(made, made.past, slots), atol=1e-12)
    assert torch.allclose(future, sine_kernel(made, made.future, slots), atol=1e-12)
    assert torch.allclose(past, made.kernels(LONGEST)[0][:, :slots], atol=1e-13)
    with pytest.raises(BadInput, match="10 slots is longer than the 9 lags"):
        made.kernels(LONGEST + 1)


@pytest.mark.parametrize("slots", [2, 8, LONGEST])
@pytest.mark.parametrize("native", ["causal", "full"])
@pytest.mark.parametrize("order", [2, 3])
def test_hyena_equals_its_formula(order, native, slots):
    mixer, x = opened(HyenaConfig(order=order, filter=FIXED, two_sided=True)), states(slots)
    *gates, v = (short(conv, into(x), native) for into, conv in zip(mixer.maps, mixer.short, strict=True))
    past = sine_kernel(mixer.filter, mixer.filter.past, slots).unflatten(0, (WIDTH, order - 1))
    future = sine_kernel(mixer.filter, mixer.filter.future, slots).unflatten(0, (WIDTH, order - 1))
    for conv in range(order - 1):
        u = gates[order - 1 - conv] * v
        v = summed(u, past[:, conv], future[:, conv] if native == "full" else None) + mixer.skip[conv] * u
    assert torch.allclose(mixer(x, Reading(native)), mixer.out(gates[0] * v), atol=1e-11)


@pytest.mark.parametrize("slots", [2, 8, LONGEST])
@pytest.mark.parametrize("native", ["causal", "full"])
@pytest.mark.parametrize("residual", [False, True])
def test_monarch_equals_its_formula(residual, native, slots):
    config = MonarchConfig(filter=FIXED.with_(trained_features=True), residual_conv=residual, two_sided=True)
    mixer, x = opened(config), states(slots)
    first, second, v = (short(conv, into(x), "causal") for into, conv in zip(mixer.maps, mixer.short, strict=True))

    def convolved(conv, u):
        made, future = conv.filter, None
        if native == "full":
            future = sine_kernel(made, made.future, slots)
        return summed(u, sine_kernel(made, made.past, slots), future) + conv.skip * u

    y = second * convolved(mixer.conv, first * v) + (convolved(mixer.residual_conv, x) if residual else 0)
    assert torch.allclose(mixer(x, Reading(native)), mixer.out(y), atol=1e-11)


@pytest.mark.parametrize("slots", [2, 8, LONGEST])
@pytest.mark.parametrize("native", ["causal", "full"])
def test_long_conv_equals_its_formula(native, slots):
    mixer, x = opened(LongConvConfig(channels=2, squash=0.3, two_sided=True)), states(slots)

    def squashed(kernel):
        return kernel.sign() * (kernel.abs() - 0.3).clamp(min=0)

    channels = []
    for c in range(2):
        future = squashed(mixer.kernel_future[c]) if native == "full" else None
        channels.append(F.gelu(summed(x, squashed(mixer.kernel[c]), future) + mixer.skip[c] * x))
    a, b = mixer.out(torch.cat(channels, -1)).chunk(2, -1)
    assert torch.allclose(mixer(x, Reading(native)), a * torch.sigmoid(b), atol=1e-12)


@pytest.mark.parametrize("slots", [2, 8, LONGEST])
@pytest.mark.parametrize("native", ["causal", "full"])
@pytest.mark.parametrize("conv", ["short", "implicit", "explicit"])
@pytest.mark.parametrize("silu", [False, True])
def test_base_conv_equals_its_formula(silu, conv, native, slots):
    mixer, x = opened(BaseConvConfig(conv=conv, silu=silu, two_sided=conv != "short")), states(slots)

    def kernel(side):
        if conv == "explicit":
            return side.taps[:, :slots]
        z = position_features(slots, LONGEST, 3, like=x)
        hidden = (z @ side.inner.weight.T + side.inner.bias).relu()
        return (hidden @ side.outer.weight.T + side.outer.bias).T

    if conv == "short":
        y = short(mixer.short, x, native)
    else:
        y = summed(x, kernel(mixer.past), kernel(mixer.future) if native == "full" else None) + x
    act = F.silu if silu else (lambda value: value)
    assert torch.allclose(mixer(x, Reading(native)), act(y) * act(mixer.gate(x)) + x, atol=1e-12)


@pytest.mark.parametrize("slots", [1, 2, 3, 4, 5, 8, 9, 17])
@pytest.mark.parametrize("window", [2, 3, 4, 20])
@pytest.mark.parametrize("native", ["causal", "full"])
def test_the_window_equals_masked_attention(native, window, slots):
    mixer, x = opened(SlidingWindowConfig(window=window), longest=20), states(slots)
    apart = torch.arange(slots)[:, None] - torch.arange(slots)
    mask = (apart.abs() < window) & ((apart >= 0) | (native == "full"))
    q, k, v = (part(x).unflatten(-1, (2, -1)).transpose(1, 2) for part in (mixer.q, mixer.k, mixer.v))
    scores = (q @ k.mT / math.sqrt(WIDTH / 2)).masked_fill(~mask, -torch.inf)
    wanted = mixer.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
    assert torch.allclose(mixer(x, Reading(native)), wanted, atol=1e-12)
    cost = mixer.cost(slots, slots * (slots + 1) // 2 if native == "causal" else slots**2)
    assert cost.useful == pytest.approx(8 * WIDTH**2 + 4 * WIDTH * int(mask.sum()) / slots)


@pytest.mark.parametrize("chunks", [[7, 1, 1, 4, 2, 1], [1] * 16, [2, 9, 5]])
@pytest.mark.parametrize("position", ["rotary", "learned"])
def test_a_window_reads_on_from_its_ring(position, chunks):
    model = DecoderConfig(
        layers=2, width=8, heads=2, position=position, mixer=SlidingWindowConfig(window=3), qk_norm=True
    )
    model = model.build(11, 16, 0).double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0.0, 0.5, generator=generator(0, "ring", name))
        tokens = torch.randint(0, 11, (2, 16), generator=generator(0, "tokens"))
        state, parts = model.begin(2, 16), []
        for part in tokens.split(chunks, 1):
            y, state = model.extend(part, state)
            parts.append(y)
        assert torch.allclose(torch.cat(parts, 1), model.hidden(tokens, Ltr()), atol=1e-12)
    assert state.layers[0].keys.shape == (2, 2, 3, 4), "no more than the window is kept"
    assert model.reach_slots(Ltr()) == 4


def test_reach_adds_up_over_the_layers_and_is_none_when_one_reads_everything():
    def reach(sees, **options):
        return DecoderConfig(layers=3, width=8, heads=2, position="none", **options).build(9, 12, 0).reach_slots(sees)

    assert reach(Ltr(), mixer=BaseConvConfig(taps=5)) == 12
    assert reach(Full(), mixer=BaseConvConfig(taps=5)) == 6
    assert reach(Full(), mixer=SlidingWindowConfig(window=4)) == 9
    assert reach(Ltr(), mixer=BaseConvConfig(conv="implicit")) is None
    assert reach(Ltr(), mixers=(BaseConvConfig(), SlidingWindowConfig(window=4))) == 7
    assert reach(Ltr()) is None


def built(mixer, width: int = 256, longest: int = 64):
    return DecoderConfig(layers=2, width=width, heads=4, position="none", mixer=mixer).build(9, longest, 0)


@pytest.mark.parametrize(("kernel_start", "share"), [("random", 0.134), ("double_exp", 0.25)])
def test_a_long_kernel_starts_with_taps_above_the_squash(kernel_start, share):
    """With .1, the published class's, none is: the kernel would be zero for ever."""
    kernel = built(LongConvConfig(kernel_start=kernel_start)).blocks[0].mixer.kernel
    assert (kernel.abs() > 0.003).double().mean().item() == pytest.approx(share, abs=0.02)
    with pytest.raises(BadInput, match="no tap of the long convolution starts above squash = 0.1"):
        built(LongConvConfig(squash=0.1, kernel_start="random"), width=16)


def test_filters_start_as_said_and_are_trained_by_their_own_rates():
    wide, narrow = (built(HyenaConfig(filter=SineFilterConfig(start_std=std)), width=64) for std in (None, 0.02))
    taps = [model.blocks[0].mixer.filter.kernels(64)[0].square().mean().sqrt().item() for model in (wide, narrow)]
    assert 0.05 < taps[0] < 0.2
    assert 0.005 < taps[1] < 0.04
    assert (wide.blocks[0].mixer.filter.frequency == 10.0).all()
    groups = built(MonarchConfig(two_sided=True, residual_conv=True), width=16).parameter_groups()
    assert {name.split(".", 3)[3] for name, _ in groups["features"]} == {
        "conv.filter.features",
        "residual_conv.filter.features",
    }
    assert sum("future" in name for name, _ in groups["filter"]) == 2 * 2 * 7, "the second side is a filter too"
    for rates, decay in (((), 0.0), ((RoleRate(role="filter", weight_decay=0.1),), 0.1)):  # the second as published
        (optimizer,) = AdamW(rates=rates).build(groups)
        filters = {id(parameter) for _, parameter in groups["filter"]}
        (group,) = [group for group in optimizer.param_groups if {id(p) for p in group["params"]} & filters]
        assert (group["weight_decay"], {id(p) for p in group["params"]}) == (decay, filters)
    assert {name.rpartition(".")[2] for name, _ in built(LongConvConfig()).parameter_groups()["kernel"]} == {"kernel"}


def test_kernels_are_float32_under_autocast():
    mixer = HyenaConfig().build(Place(width=8, heads=1, max_length=64))
    with torch.no_grad():
        for name, parameter in mixer.named_parameters():
            parameter.normal_(0.0, 0.5, generator=generator(0, "cast", name))
    exact = mixer.filter.kernels(64)[0]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(mixer.filter.kernels(64)[0], exact)
    assert mixer.bfloat16().filter.kernels(64)[0].dtype == torch.float32


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mixer": {"kind": "hyena", "taps": 4}}, "4 is even"),
        ({"mixer": {"kind": "hyena", "order": 1}}, "greater than or equal to 2"),
        ({"mixer": {"kind": "hyena", "filter": {"features": 3}}}, "greater than or equal to 5"),
        ({"mixer": {"kind": "base_conv", "two_sided": True}}, "short taps are centred"),
        (
            {"mixer": {"kind": "hyena"}, "qk_norm": True},
            "the mixer hyena does not read qk_norm: set model.qk_norm = false",
        ),
        ({"mixer": {"kind": "hyena"}, "position": "alibi"}, "the mixer hyena does not read alibi"),
        ({"mixer": {"kind": "hyenna"}}, "unknown mixer 'hyenna'"),
    ],
)
def test_nonsense_is_refused_in_one_line(fields, message):
    with pytest.raises(BadInput, match=message) as caught:
        decode(DecoderConfig, fields)
    assert "\n" not in str(caught.value)


def test_a_row_longer_than_the_lags_is_refused():
    """Published Hyena gave back C outputs and said nothing."""
    for mixer in (HyenaConfig(), LongConvConfig(), MonarchConfig(), BaseConvConfig(conv="explicit")):
        model = built(mixer, width=8, longest=12)
        with pytest.raises(BadInput, match="13 slots is longer than the 12 lags"):
            model.hidden(torch.zeros(1, 13, dtype=torch.long), Ltr())
        with pytest.raises(BadInput, match="13 slots is longer than the 12 lags"):
            model.begin(1, 13)
