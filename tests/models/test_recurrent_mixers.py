"""Recurrent mixers against their definitions in float64: kernels, delay lines and scans by loops; starts, counts and costs."""

import math

import pytest
import torch
from torch import nn

from palinode.audit.palinode_models import small_config
from palinode.base.config import decode, identity
from palinode.base.errors import BadInput
from palinode.base.seeds import generator
from palinode.models import DecoderConfig
from palinode.models.init import InitRule, initialise
from palinode.models.mixers.attention import LinearAttentionConfig, taylor, weights
from palinode.models.mixers.base import Place, Reading
from palinode.models.mixers.recurrent import GatedRnnConfig, SelectiveSsmConfig
from palinode.models.mixers.state_space import H3Config, S4dConfig
from palinode.train.optim import AdamW, build_optimizers

CAUSAL, FULL = Reading("causal"), Reading("full")
RECURRENT = (S4dConfig(), H3Config(), H3Config(head_width=2), SelectiveSsmConfig(), GatedRnnConfig())
TWO_SIDED = tuple(config.with_(two_sided=True) for config in RECURRENT)
ALL = (*RECURRENT, LinearAttentionConfig(features=4))


def mixer_of(config, width=4, heads=2, bias=False, seed=0):
    """At its start, in float64; skips and biases are random, so that none is silent."""
    mixer = config.build(Place(width=width, heads=heads, max_length=512, bias=bias))
    initialise(mixer, InitRule("fan_in", 1, zero_residual=False, zero_head=False), seed)
    return mixer.double().eval()


def noise(*shape, dtype=torch.float64):
    return torch.randn(shape, generator=generator(0, "recurrent", *shape), dtype=torch.float64).to(dtype)


def identity_out(mixer):
    """The output map replaced by nothing, so that what it is given can be seen."""
    mixer.out = nn.Identity()
    return mixer


def name_of(config):
    return config.kind + (f"-{config.head_width}" if getattr(config, "head_width", 1) > 1 else "")


@pytest.mark.parametrize(
    ("config", "width", "heads", "bias", "count"),
    [
        (S4dConfig(), 32, 1, True, 3_232),
        (S4dConfig(two_sided=True), 32, 1, True, 5_280),
        (S4dConfig(), 64, 1, True, 8_448),
        (S4dConfig(), 128, 1, True, 25_024),
        (S4dConfig(two_sided=True), 128, 1, True, 33_216),
        (S4dConfig(glu=True), 32, 1, True, 3_232 + 32 * 32 + 32),
        (H3Config(), 32, 1, True, 14_560),
        (H3Config(head_width=2), 32, 1, True, 11_456),
        (H3Config(), 128, 1, True, 107_392),
        (H3Config(head_width=4), 128, 1, True, 88_768),
        (H3Config(two_sided=True), 32, 1, True, 14_560 + 2 * 32 * 64),
        (LinearAttentionConfig(features=8), 64, 1, False, 9_216),
        (LinearAttentionConfig(), 64, 1, False, 10_240),
        (LinearAttentionConfig(), 128, 4, False, 49_152),
        (SelectiveSsmConfig(), 768, 1, False, 3_770_880),  # 24 of these, as many norms and V = 50 280 are mamba-130m
        (GatedRnnConfig(), 64, 1, False, 4 * 64 * 64 + 6 * 64),
        (GatedRnnConfig(two_sided=True), 64, 1, False, 6 * 64 * 64 + 2 * 6 * 64),
    ],
)
def test_parameters_are_counted_exactly(config, width, heads, bias, count):
    mixer = config.build(Place(width=width, heads=heads, max_length=64, bias=bias))
    assert sum(parameter.numel() for parameter in mixer.parameters()) == count


@pytest.mark.parametrize(
    ("config", "vocabulary", "count"),
    [(S4dConfig(), 20, 24_128), (H3Config(), 20, 46_784), (S4dConfig(), 10, 23_808), (H3Config(), 10, 46_464)],
)
def test_the_published_synthetic_models_have_as_many(config, vocabulary, count):
    model = DecoderConfig(layers=2, width=32, heads=1, position="none", bias=True, mixer=config)
    assert sum(model.build(vocabulary, 42, 0).parameter_counts().values()) == count


@pytest.mark.parametrize(
    ("config", "heads", "flops", "state"),
    [
        (S4dConfig(), 1, 46_260 - (4 * 128 * 64 + 5 * 128 * 9) / 32, 8_192),
        (H3Config(), 1, 157_032 - (4 * 128 * 64 + 5 * 256 * 9) / 32, 16_384),
    ],
)
def test_costs_are_those_of_the_worked_table(config, heads, flops, state):
    """At D = 128, T = 256; the table adds making the kernels, shared by 32 rows."""
    cost = config.build(Place(width=128, heads=heads, max_length=256)).cost(256, 256 * 257 // 2)
    assert (cost.executed, cost.useful, cost.state_elements) == (flops, flops, state)


def test_linear_attention_costs_what_the_table_says_once_the_recurrence_is_cheaper():
    mixer = LinearAttentionConfig().build(Place(width=128, heads=4, max_length=8192))
    assert mixer.cost(8192, 8192 * 8193 // 2).useful == 241_356
    assert mixer.cost(256, 256 * 257 // 2).state_elements == 36_036
    assert mixer.cost(256, 256 * 257 // 2).useful < 241_356


@pytest.mark.parametrize(("learning_rate", "slow"), [(5e-4, 5e-4), (1e-2, 1e-3)])
def test_steps_and_poles_are_trained_slowly_and_without_decay(learning_rate, slow):
    model = DecoderConfig(layers=2, width=8, heads=1, position="none", mixers=(S4dConfig(), H3Config(two_sided=True)))
    model = model.build(20, 12, 0)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    (optimizer,) = build_optimizers(AdamW(learning_rate=learning_rate), model, model.parameter_groups())
    rules = {names[id(p)]: group for group in optimizer.param_groups for p in group["params"]}
    steps = [f"blocks.{layer}.mixer.{name}" for layer in (0, 1) for name in ("log_step", "log_decay", "frequency")]
    for name in (*steps, "blocks.1.mixer.b", "blocks.1.mixer.shift_b"):
        assert (rules[name]["peak_lr"], rules[name]["weight_decay"]) == (slow, 0.0), name
    for name in ("blocks.0.mixer.c", "blocks.1.mixer.c", "blocks.1.mixer.c_future", "blocks.1.mixer.shift_c"):
        assert (rules[name]["peak_lr"], rules[name]["weight_decay"]) == (learning_rate, 0.1), name


def test_s4d_kernel_equals_its_formula_and_its_state_space():
    mixer = mixer_of(S4dConfig(state=8))
    poles = torch.complex(-mixer.log_decay.exp(), mixer.frequency)
    step, c = mixer.log_step.exp()[:, None], torch.view_as_complex(mixer.c)
    kernel = mixer.modes(mixer.c).kernel(20)
    lags = torch.arange(20)
    wanted = 2 * (c * (torch.exp(step * poles) - 1) / poles)[..., None] * torch.exp((step * poles)[..., None] * lags)
    assert torch.allclose(kernel, wanted.sum(1).real, atol=1e-12, rtol=0)
    u, state, outputs = noise(4, 20), torch.zeros_like(c), []
    for slot in range(20):  # x' = A x + u held over a step
        state = torch.exp(step * poles) * state + (torch.exp(step * poles) - 1) / poles * u[:, slot : slot + 1]
        outputs.append(2 * (c * state).sum(1).real)
    mixed = identity_out(mixer)(u.T[None], CAUSAL)[0].T
    wanted = nn.functional.gelu(torch.stack(outputs, 1) + mixer.skip[:, None] * u)
    assert torch.allclose(mixed, wanted, atol=1e-12, rtol=0)


@pytest.mark.parametrize("slots", [1, 2, 3, 5, 15, 16, 17, 100])
def test_the_kernel_of_a_shorter_row_is_a_part_of_it(slots):
    modes = mixer_of(S4dConfig()).modes(mixer_of(S4dConfig()).c)
    assert modes.kernel(slots).shape == (4, slots)
    assert torch.allclose(modes.kernel(slots), modes.kernel(130)[:, :slots], atol=1e-12, rtol=0)


def test_s4d_starts_as_published():
    mixer = mixer_of(S4dConfig(), width=512).requires_grad_(False)
    poles = torch.complex(-mixer.log_decay.exp(), mixer.frequency)
    assert float(mixer.frequency[0]) == pytest.approx(1283.4, abs=0.05)
    assert float(mixer.frequency[-1]) == pytest.approx(0.323, abs=5e-4)
    assert torch.allclose(-poles.real, torch.tensor(0.5001).double(), rtol=1e-6)
    energy = 2 * (torch.view_as_complex(mixer.c) / poles).abs().square().sum(1)
    assert float(energy.mean()) == pytest.approx(1.0, rel=0.15)
    assert math.log(0.001) <= float(mixer.log_step.min()) < float(mixer.log_step.max()) <= math.log(0.1)
    assert float(mixer.log_step.mean()) == pytest.approx(math.log(0.01), abs=0.2)
    assert torch.allclose(mixer_of(S4dConfig(frequencies="linear")).frequency, math.pi * torch.arange(32.0).double())
    assert 0.8 < float(mixer.skip.std()) < 1.2


def delay_line(taps_b, taps_c, k):
    """h_(j, t) = h_(j-1, t-1) + b_j k_t, read by c."""
    line, outputs = torch.zeros_like(taps_b), []
    for slot in range(k.shape[1]):
        line = torch.nn.functional.pad(line, (1, 0))[:, :-1] + taps_b * k[:, slot : slot + 1]
        outputs.append((taps_c * line).sum(1))
    return torch.stack(outputs, 1)


@pytest.mark.parametrize("head_width", [1, 2, 4])
@pytest.mark.parametrize("discretisation", ["bilinear", "zoh"])
def test_h3_equals_its_recurrences(head_width, discretisation):
    mixer = mixer_of(H3Config(state=6, head_width=head_width, discretisation=discretisation))
    with torch.no_grad():  # from their starts b = 1 and e_0 would hide how they enter
        mixer.b.add_(noise(*mixer.b.shape))
        mixer.shift_b.add_(noise(*mixer.shift_b.shape))
    x, slots, groups = noise(1, 11, 4), 11, 4 // head_width
    q, k, v = (part(x)[0].T for part in (mixer.q, mixer.k, mixer.v))
    k = delay_line(mixer.shift_b, mixer.shift_c, k) + mixer.shift_skip[:, None] * k
    poles, step = torch.complex(-mixer.log_decay.exp(), mixer.frequency), mixer.log_step.exp()[:, None]
    b, c = torch.view_as_complex(mixer.b), torch.view_as_complex(mixer.c)
    if discretisation == "bilinear":
        over, into = (1 + step * poles / 2) / (1 - step * poles / 2), b * step / (1 - step * poles / 2)
    else:
        over, into = torch.exp(step * poles), b * (torch.exp(step * poles) - 1) / poles
    wanted = torch.zeros(4, slots, dtype=torch.float64)
    for group in range(groups):
        for one in range(head_width):
            for other in range(head_width):
                key, value = group * head_width + one, group * head_width + other
                state = torch.zeros(3, dtype=torch.complex128)
                for slot in range(slots):
                    pair = k[key, slot] * v[value, slot]
                    state = over[group] * state + into[group] * pair
                    read = 2 * (c[group] * state).sum().real + mixer.skip[group] * pair
                    wanted[value, slot] += q[key, slot] * read
    assert torch.allclose(identity_out(mixer)(x, CAUSAL)[0].T, wanted, atol=1e-12, rtol=0)


@pytest.mark.parametrize("head_width", [1, 2, 4])
def test_h3_gives_its_outputs_in_the_published_order_where_this_is_asked_for(head_width):
    """Published: number j of group g is channel j G + g. Nothing else changes: no weight, no state, no run id by default."""
    x, groups = noise(2, 9, 8), 8 // head_width
    plain = H3Config(state=6, head_width=head_width)
    grouped, published = (
        identity_out(mixer_of(plain.with_(output_order=order), width=8)) for order in ("grouped", "published")
    )
    wanted = torch.unflatten(grouped(x, CAUSAL), 2, (groups, head_width)).mT.flatten(2)
    assert torch.equal(published(x, CAUSAL), wanted)
    assert torch.equal(wanted, grouped(x, CAUSAL)) == (head_width == 1)
    first, state = published.extend(x[:, :4], CAUSAL, published.begin(2, 9))
    rest, _ = published.extend(x[:, 4:], CAUSAL, state)
    assert torch.allclose(torch.cat((first, rest), 1), wanted, atol=1e-12, rtol=0)
    assert "output_order" not in identity(plain)


def test_h3_starts_as_a_shift_that_reads_c():
    mixer = mixer_of(H3Config(state=6)).requires_grad_(False)
    assert torch.allclose(mixer.taps(mixer.shift_c), mixer.shift_c, atol=1e-15)
    assert float(mixer.shift_c.abs().max()) <= 6**-0.5
    assert torch.allclose(mixer.frequency, (math.pi * torch.arange(3)).double().expand(4, 3))
    assert float(mixer_of(H3Config(), width=64).c.detach().std()) == pytest.approx(0.5**0.5, rel=0.05)
    with pytest.raises(BadInput, match="head_width 3 does not divide width 32"):
        decode(DecoderConfig, {"width": 32, "mixer": {"kind": "h3", "head_width": 3}})
    with pytest.raises(BadInput, match="head_width 3 does not divide width 32"):
        decode(DecoderConfig, {"width": 32, "mixers": [{"kind": "s4d"}, {"kind": "h3", "head_width": 3}]})
    too_wide = DecoderConfig(width=96, mixer=H3Config(head_width=48))
    assert small_config(too_wide, 2, 32).width == 96, "what cannot be cut is audited as it is"


@pytest.mark.parametrize("config", TWO_SIDED[:3], ids=name_of)
def test_the_full_kernels_lie_as_the_definition_says(config):
    """With the past's weights alone a slot reads what came before; with the future's alone what comes after, without itself."""
    mixer, x = mixer_of(config), noise(1, 9, 4)
    moved = {}
    for side in ("past", "future"):
        quiet = mixer_of(config)
        with torch.no_grad():
            for name, parameter in quiet.named_parameters():
                is_future = name.endswith("_future")
                if name.split(".")[0].removesuffix("_future") in ("c", "shift_c") and is_future == (side == "past"):
                    parameter.zero_()
                if name in ("skip", "shift_skip"):
                    parameter.fill_(float(side == "future" and config.kind == "h3"))
        jacobian = torch.autograd.functional.jacobian(lambda x, quiet=quiet: quiet(x, FULL), x)
        moved[side] = jacobian[0, :, :, 0].abs().amax((1, 3))
    index = torch.arange(9)
    assert moved["past"][index[:, None] < index].max() < 1e-12
    assert moved["future"][index[:, None] > index].max() < 1e-12
    own = index[:, None] == index
    assert (moved["future"][own].max() > 1e-9) == (config.kind == "h3")
    assert moved["future"][index[:, None] < index].min() > 1e-9
    assert not torch.allclose(mixer(x, FULL), mixer(x, CAUSAL))


@pytest.mark.parametrize("config", TWO_SIDED, ids=name_of)
def test_the_causal_form_does_not_know_the_second_side(config):
    one, two = mixer_of(config.with_(two_sided=False)), mixer_of(config)
    x = noise(2, 9, 4)
    assert torch.equal(one(x, CAUSAL), two(x, CAUSAL))
    mirrored = two(x.flip(1), FULL).flip(1)
    assert not torch.allclose(mirrored, two(x, FULL), atol=1e-3), "before and after must not be the same to it"


def test_the_taylor_map_is_the_weight():
    q, k = noise(3, 5, 6), noise(3, 7, 6)
    assert torch.allclose(taylor(q) @ taylor(k).mT, weights(q, k), atol=1e-12, rtol=0)
    assert taylor(q).shape[-1] == 1 + 6 + 36
    assert weights(100 * q, k).min() >= 0.5


@pytest.mark.parametrize("reading", [CAUSAL, FULL], ids=["causal", "full"])
@pytest.mark.parametrize("slots", [12, 13, 128, 129, 300])
def test_linear_and_quadratic_views_agree(reading, slots):
    """13 features a head: the square below 13 slots, chunks from there on."""
    mixer, x = mixer_of(LinearAttentionConfig(features=3)), noise(2, slots, 4)
    q, k, v = (part(x).view(2, slots, 2, -1).transpose(1, 2) for part in (mixer.q, mixer.k, mixer.v))
    seen = weights(q, k).tril() if reading is CAUSAL else weights(q, k)
    wanted = mixer.out((seen @ v / seen.sum(-1, keepdim=True)).transpose(1, 2).flatten(2))
    assert torch.allclose(mixer(x, reading), wanted, atol=1e-10, rtol=0)


def test_the_selective_recurrence_equals_its_loop():
    mixer, x = mixer_of(SelectiveSsmConfig(state=3, expand=2)), noise(1, 9, 4)
    part, value, gate = mixer.past, mixer.value(x)[0], mixer.gate(x)[0]
    padded, h, outputs = nn.functional.pad(value, (0, 0, 3, 0)), torch.zeros(8, 3, dtype=torch.float64), []
    for slot in range(9):
        taps = (padded[slot : slot + 4].flip(0).T * part.conv.taps).sum(1) + part.conv.bias
        u = nn.functional.silu(taps)
        rank, into, out_of = part.read(u).split((1, 3, 3))
        step = nn.functional.softplus(part.step_weight @ rank + part.step_bias)
        h = torch.exp(step[:, None] * -part.log_decay.exp()) * h + (step * u)[:, None] * into
        outputs.append((h @ out_of + part.skip * u) * nn.functional.silu(gate[slot]))
    assert torch.allclose(identity_out(mixer)(x, CAUSAL)[0], torch.stack(outputs), atol=1e-12, rtol=0)


def test_the_selective_layer_starts_as_published():
    part = mixer_of(SelectiveSsmConfig(), width=64).requires_grad_(False).past
    assert torch.allclose(part.log_decay.exp(), torch.arange(1.0, 17.0).double().expand(128, 16), rtol=1e-6)
    steps = nn.functional.softplus(part.step_bias)
    assert 0.000999 <= float(steps.min()) < float(steps.max()) <= 0.1001
    assert float(steps.log().mean()) == pytest.approx(math.log(0.01), abs=0.4)
    assert float(part.step_weight.abs().max()) <= 0.5


def test_the_gated_recurrence_equals_its_loop_and_starts_slow():
    mixer, x = mixer_of(GatedRnnConfig()).requires_grad_(False), noise(1, 9, 4)
    part, value = mixer.past, mixer.past.value(x)[0]
    kept = torch.sigmoid(part.keep_bias)
    assert 0.9 <= float(kept.min()) < float(kept.max()) <= 0.999
    padded, h, outputs = nn.functional.pad(value, (0, 0, 3, 0)), torch.zeros(4, dtype=torch.float64), []
    for slot in range(9):
        f = torch.sigmoid(part.keep(x[0, slot]) + part.keep_bias)
        v = (padded[slot : slot + 4].flip(0).T * part.conv.taps).sum(1) + part.conv.bias
        h = f * h + (1 - f**2).sqrt() * v
        outputs.append(h * nn.functional.silu(mixer.gate(x[0, slot])))
    assert torch.allclose(identity_out(mixer)(x, CAUSAL)[0], torch.stack(outputs), atol=1e-12, rtol=0)


def test_a_gate_that_never_forgets_still_has_a_slope():
    """In float32 sigmoid(30) is 1: one minus it would be 0, and its root have an infinite slope."""
    mixer = mixer_of(GatedRnnConfig()).float()
    with torch.no_grad():
        mixer.past.keep_bias.copy_(torch.tensor([30.0, -30.0, 80.0, 0.0]))
    mixer(noise(1, 9, 4, dtype=torch.float32), CAUSAL).sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in mixer.parameters())


def in_steps(mixer, x, chunks):
    state, parts = mixer.begin(len(x), x.shape[1]), []
    for part in x.split(chunks, 1):
        y, state = mixer.extend(part, CAUSAL, state)
        parts.append(y)
    return torch.cat(parts, 1), state


@pytest.mark.parametrize("config", ALL, ids=name_of)
@pytest.mark.parametrize("chunks", [[1] * 150, [150], [130, 1, 1, 18]], ids=["slots", "one", "uneven"])
def test_recurrence_equals_the_parallel_form(config, chunks):
    mixer, x = mixer_of(config), noise(2, 150, 4)
    with torch.no_grad():
        whole = mixer(x, CAUSAL)
        assert (in_steps(mixer, x, chunks)[0] - whole).abs().max() < 1e-11 * max(1.0, whole.std())
        mixer, x = mixer.float(), x.float()
        whole = mixer(x, CAUSAL)
        assert (in_steps(mixer, x, chunks)[0] - whole).abs().max() < 1e-5 * whole.abs().max()


def tensors_in(state):
    held = list(vars(state).values())
    return [
        x
        for one in held
        for x in ([one] if isinstance(one, torch.Tensor) else tensors_in(one) if hasattr(one, "__dict__") else [])
    ]


@pytest.mark.parametrize("config", ALL, ids=name_of)
def test_under_autocast_states_stay_in_float32_and_the_two_forms_together(config):
    mixer, x = mixer_of(config, width=32).float(), noise(2, 40, 32, dtype=torch.float32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        whole, (stepped, state) = mixer(x, CAUSAL), in_steps(mixer, x, [30] + [1] * 10)
        assert {x.dtype for x in tensors_in(state)} <= {torch.float32, torch.complex128, torch.float64}
    exact = mixer(x, CAUSAL)
    assert (whole - exact).abs().max() < 0.1 * exact.std()
    assert (stepped - exact).abs().max() < 0.1 * exact.std()


@pytest.mark.parametrize("config", TWO_SIDED, ids=name_of)
def test_weights_in_bf16_are_read_as_well(config):
    mixer, x = mixer_of(config, width=32).bfloat16(), noise(2, 10, 32, dtype=torch.bfloat16)
    with torch.no_grad():
        assert (
            mixer(x, CAUSAL).dtype == mixer(x, FULL).dtype == in_steps(mixer, x, [5, 1, 4])[0].dtype == torch.bfloat16
        )


@pytest.mark.parametrize("config", [*TWO_SIDED, ALL[-1]], ids=name_of)
def test_everything_is_made_where_the_weights_are(config):
    """On a device without data: a table made on the CPU would be refused there as on a GPU."""
    mixer = mixer_of(config).to("meta")
    x = torch.empty(2, 140, 4, device="meta", dtype=torch.float64)
    for reading in (CAUSAL, FULL):
        mixer(x, reading).sum().backward()
    stepped, state = in_steps(mixer, x, [130, 1, 9])
    assert stepped.shape == x.shape
    assert {held.device.type for held in tensors_in(state)} == {"meta"}
