"""One suite for every mixer in the table and its options: shape, dtype, what flows where, steps, lengths, batches, groups, cost."""

import pytest
import torch
from mixer_variants import VARIANTS
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from palinode.base.config import decode, encode
from palinode.base.errors import BadInput
from palinode.base.example import Draw, SpecialTokens
from palinode.base.seeds import generator
from palinode.base.visibility import Full, Ltr, Prefix
from palinode.models import DecoderConfig, read
from palinode.models.mixers import MIXERS
from palinode.models.mixers.base import Place, Reading
from palinode.objectives import RtlObjective
from palinode.train.checkpoint import weights_sha256
from palinode.train.optim import AdamW, MuonAdamW, build_optimizers

WIDTH, HEADS, LONGEST = 16, 2, 12
LENGTHS = sorted({2, 3, 7, LONGEST // 2 + 1, LONGEST - 1, LONGEST})
CAUSAL, FULL = Reading("causal"), Reading("full")


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS.keys())
def config(request):
    return request.param


def mixer_of(config, dtype: torch.dtype = torch.float64):
    """A mixer with random weights: with weights that start at zero, or decay, the tests would pass on nothing."""
    mixer = config.build(Place(width=WIDTH, heads=HEADS, max_length=LONGEST)).to(dtype)
    with torch.no_grad():
        for name, parameter in mixer.named_parameters():
            parameter.normal_(0.0, 0.5, generator=generator(0, "mixer weights", name))
        for part in mixer.modules():
            if hasattr(part, "open_for_audit"):
                part.open_for_audit(1.0, generator(0, "opened"))
    return mixer.eval()


def states(rows: int, slots: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    drawn = torch.randn(rows, LONGEST, WIDTH, generator=generator(0, "mixer input"), dtype=torch.float64)
    return drawn[:, :slots].to(dtype)


def flow(mixer, slots: int, reading: Reading) -> torch.Tensor:
    """(slots, slots) largest change of output slot i when input slot j is changed by about 1."""
    x = states(1, slots)
    step = torch.randn(WIDTH, generator=generator(0, "step"), dtype=torch.float64)
    changed = x + torch.eye(slots, dtype=torch.float64)[:, :, None] * step
    with torch.no_grad():
        moved = mixer(torch.cat((x, changed)), reading)
    return (moved[1:] - moved[:1]).abs().amax(-1).T


def within_reach(mixer, slots: int, native: str) -> torch.Tensor:
    reach = mixer.reach_slots(native)
    apart = torch.arange(slots)[:, None] - torch.arange(slots)
    near = apart.abs() <= (slots if reach is None else reach)
    return near & (apart >= 0) if native == "causal" else near


def test_every_mixer_of_the_table_is_here_and_has_a_full_form():
    assert {type(config) for config in VARIANTS.values()} == set(MIXERS.values())
    full = {type(config) for config in VARIANTS.values() if config.refusal("full") is None}
    causal_alone = {made for made in MIXERS.values() if "full" not in made.visibilities}
    assert full == set(MIXERS.values()) - causal_alone


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shape_and_dtype_are_kept(config, dtype):
    out = mixer_of(config, dtype)(states(3, 7, dtype), CAUSAL)
    assert out.shape == (3, 7, WIDTH)
    assert out.dtype == dtype
    assert torch.isfinite(out).all()


def test_under_autocast_only_products_are_rounded(config):
    mixer, x = mixer_of(config, torch.float32), states(3, LONGEST, torch.float32)
    exact = mixer(x, CAUSAL)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = mixer(x, CAUSAL)
    assert (rounded - exact).norm() < 0.05 * exact.norm()
    assert not torch.equal(rounded.float(), exact), "a map that autocast does not reach"


@pytest.mark.parametrize("native", ["causal", "full"])
@pytest.mark.parametrize("slots", LENGTHS)
def test_every_form_reads_what_it_may_and_nothing_else(config, slots, native):
    if config.refusal(native):
        pytest.skip("this mixer has no such form, and says so")
    mixer = mixer_of(config)
    seen, allowed = flow(mixer, slots, Reading(native)), within_reach(mixer, slots, native)
    assert (seen * ~allowed).max() < 1e-11
    assert seen[allowed].min() > 1e-8, "positive control: what may be seen must be"


@pytest.mark.parametrize("slots", LENGTHS)
def test_explicit_masks_are_obeyed_and_equal_the_native_forms(config, slots):
    if config.refusal("mask"):
        pytest.skip("this mixer takes no explicit mask, and says so")
    mixer, x = mixer_of(config), states(2, slots)
    for native, mask in ((CAUSAL, Ltr().mask(slots)), (FULL, Full().mask(slots))):
        assert torch.allclose(mixer(x, native), mixer(x, Reading("mask", mask)), atol=1e-12, rtol=0)
    mask = torch.rand(slots, slots, generator=generator(0, "mask")) < 0.5
    mask |= torch.eye(slots, dtype=torch.bool)
    seen = flow(mixer, slots, Reading("mask", mask))
    assert torch.equal(seen > 1e-9, mask)
    assert seen[~mask].sum() == 0


@pytest.mark.parametrize("sees", [Prefix(length_slots=4), Full()], ids=["prefix", "full"])
def test_what_a_mixer_has_no_form_for_is_refused_by_name(config, sees):
    model = DecoderConfig(layers=1, width=WIDTH, heads=HEADS, mixer=config).build(9, LONGEST, 0)
    tokens = torch.zeros(1, 8, dtype=torch.long)
    if config.refusal(sees.native) is None:
        assert model.hidden(tokens, sees).shape == (1, 8, WIDTH)
        return
    with pytest.raises(BadInput, match=f"the mixer {config.kind} cannot read {sees.kind}: ") as caught:
        model.hidden(tokens, sees)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("slots", [3, 7, LONGEST])
def test_rtl_is_flip_run_flip(config, slots):
    specials = SpecialTokens(9)
    model = DecoderConfig(layers=2, width=WIDTH, heads=HEADS, position="none", mixer=config)
    model = model.build(specials.vocab_size, LONGEST, 0).double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0.0, 0.5, generator=generator(0, "weights", name))
    windows = torch.randint(0, 9, (2, slots), generator=generator(0, "windows"))
    example = RtlObjective().example(windows, Draw(), specials)
    by_hand = model.hidden(example.inputs.flip(1), Ltr()).flip(1)
    assert torch.equal(read(model, example), by_hand)


def test_a_longer_row_does_not_change_the_outputs_before_it(config):
    mixer, x = mixer_of(config), states(2, LONGEST)
    whole = mixer(x, CAUSAL)
    for slots in LENGTHS:
        assert torch.allclose(mixer(x[:, :slots], CAUSAL), whole[:, :slots], atol=1e-11, rtol=0)


@pytest.mark.parametrize("reading", [CAUSAL, FULL], ids=["causal", "full"])
def test_rows_do_not_know_one_another(config, reading):
    if config.refusal(reading.native):
        pytest.skip("this mixer has no such form, and says so")
    mixer, x = mixer_of(config), states(4, 7)
    together = mixer(x, reading)
    alone = torch.cat([mixer(row[None], reading) for row in x])
    assert torch.allclose(together, alone, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("chunks", [[1] * LONGEST, [5, 1, 1, 3, 2], [LONGEST]], ids=["slot by slot", "chunks", "whole"])
def test_reading_on_equals_one_pass(config, chunks):
    mixer, x = mixer_of(config), states(2, LONGEST)
    assert mixer.can_step()
    state, parts = mixer.begin(2, LONGEST), []
    with torch.no_grad():
        for part in x.split(chunks, 1):
            y, state = mixer.extend(part, CAUSAL, state)
            parts.append(y)
        whole = mixer(x, CAUSAL)
    assert (torch.cat(parts, 1) - whole).abs().max() < 1e-10 * whole.abs().max()


def test_configs_survive_a_round_trip(config):
    model = DecoderConfig(width=WIDTH, heads=HEADS, mixer=config)
    written = encode(model)
    assert written["mixer"]["kind"] == config.kind
    assert decode(DecoderConfig, {name: value for name, value in written.items() if name != "kind"}) == model


@pytest.mark.parametrize("native", ["causal", "full"])
@pytest.mark.parametrize("slots", [7, LONGEST])
def test_cost_equals_the_counter(config, slots, native):
    if config.refusal(native):
        pytest.skip("this mixer has no such form, and says so")
    mixer = mixer_of(config, torch.float32)
    with (
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
    ):  # it does not know the fused CPU kernel
        mixer(states(3, slots, torch.float32), Reading(native))
    cost = mixer.cost(slots, slots * (slots + 1) // 2 if native == "causal" else slots * slots)
    products = (cost.executed - cost.non_matmul) * 3 * slots + cost.per_pass
    assert products == pytest.approx(counter.get_total_flops(), rel=1e-12)
    assert 0 < cost.useful <= cost.executed
    assert cost.state_elements >= 0


def test_parameters_have_a_start_a_group_and_an_optimizer(config):
    before = torch.get_rng_state()
    model, again, other = (
        DecoderConfig(layers=2, width=WIDTH, heads=HEADS, position="none", mixer=config).build(20, LONGEST, seed)
        for seed in (0, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), before), "the global generator was touched"
    assert weights_sha256(model) == weights_sha256(again) != weights_sha256(other)
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    groups = model.parameter_groups()
    grouped = [name for pairs in groups.values() for name, _ in pairs]
    assert sorted(grouped) == sorted(name for name, _ in model.named_parameters())
    assert all(parameter.dim() == 2 for _, parameter in model.parameter_groups()["matrix"])
    special = model.blocks[0].mixer.special_groups()
    assert set(special) <= {name for name, _ in model.blocks[0].mixer.named_parameters()}
    for optimizer in (AdamW(), MuonAdamW()):
        assert build_optimizers(optimizer, model, groups)


@pytest.mark.parametrize("native", ["causal", "full"])
def test_every_parameter_is_used(config, native):
    """In the form it is for: the second side of a two-sided mixer is for the full one."""
    if config.refusal(native):
        pytest.skip("this mixer has no such form, and says so")
    mixer = mixer_of(config).train()
    mixer(states(2, LONGEST), Reading(native)).square().sum().backward()
    idle = {name for name, p in mixer.named_parameters() if p.grad is None or p.grad.abs().max() == 0}
    two_sided = native == "causal" and getattr(config, "two_sided", False)
    assert all("future" in name for name in idle) if two_sided else not idle


@pytest.mark.parametrize("native", ["causal", "full"])
def test_everything_is_made_where_the_weights_are(config, native):
    """On the meta device, which refuses to compute with anything that lies elsewhere."""
    if config.refusal(native):
        pytest.skip("this mixer has no such form, and says so")
    model = DecoderConfig(layers=1, width=WIDTH, heads=HEADS, mixer=config).build(20, LONGEST, 0).to("meta")
    tokens = torch.zeros(2, LONGEST, dtype=torch.long, device="meta")
    sees = Ltr() if native == "causal" else Full()
    torch.autograd.backward(model.hidden(tokens, sees).sum())
    if native == "causal":
        state = model.begin(2, LONGEST)
        for count in (5, 1, 3):
            _, state = model.extend(tokens[:, :count], state)
