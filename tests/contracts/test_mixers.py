"""One suite for every mixer in the table: shape, dtype, what flows where, lengths, batches and cost."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from palinode.base.example import Draw, SpecialTokens
from palinode.base.seeds import generator
from palinode.base.visibility import Full, Ltr
from palinode.models import DecoderConfig, read
from palinode.models.mixers import MIXERS
from palinode.models.mixers.base import Place, Reading
from palinode.objectives import RtlObjective

WIDTH, HEADS, LONGEST = 16, 2, 12
LENGTHS = sorted({2, 3, 7, LONGEST // 2 + 1, LONGEST - 1, LONGEST})
CAUSAL, FULL = Reading("causal"), Reading("full")


@pytest.fixture(params=MIXERS.values(), ids=MIXERS.keys())
def config(request):
    return request.param()


def mixer_of(config, dtype: torch.dtype = torch.float64):
    """A mixer with random weights: with weights that start at zero the tests would pass on nothing."""
    mixer = config.build(Place(width=WIDTH, heads=HEADS, max_length=LONGEST)).to(dtype)
    with torch.no_grad():
        for name, parameter in mixer.named_parameters():
            parameter.normal_(0.0, 0.5, generator=generator(0, "mixer weights", name))
    return mixer.eval()


def states(rows: int, slots: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(rows, slots, WIDTH, generator=generator(0, "mixer input"), dtype=torch.float64)[:, :slots].to(
        dtype
    )


def flow(mixer, slots: int, reading: Reading) -> torch.Tensor:
    """(slots, slots) largest |gradient| of output slot i with respect to input slot j."""
    jacobian = torch.autograd.functional.jacobian(lambda x: mixer(x, reading), states(1, slots))
    return jacobian.abs().amax(dim=(0, 2, 3, 5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shape_and_dtype_are_kept(config, dtype):
    out = mixer_of(config, dtype)(states(3, 7, dtype), CAUSAL)
    assert out.shape == (3, 7, WIDTH)
    assert out.dtype == dtype
    assert torch.isfinite(out).all()


@pytest.mark.parametrize("slots", LENGTHS)
def test_causal_form_reads_the_past_and_itself_and_nothing_later(config, slots):
    seen = flow(mixer_of(config), slots, CAUSAL)
    later = torch.ones(slots, slots, dtype=torch.bool).triu(1)
    assert seen[later].max() == 0 if slots > 1 else True
    assert seen[~later].min() > 1e-9, "positive control: the past must be seen"


@pytest.mark.parametrize("slots", LENGTHS)
def test_full_form_reads_every_slot(config, slots):
    if "full" not in config.visibilities:
        pytest.skip("this mixer has no full form, and says so")
    assert flow(mixer_of(config), slots, FULL).min() > 1e-9


@pytest.mark.parametrize("slots", LENGTHS)
def test_explicit_masks_equal_the_native_forms(config, slots):
    if "mask" not in config.visibilities:
        pytest.skip("this mixer takes no explicit mask, and says so")
    mixer, x = mixer_of(config), states(2, slots)
    for native, mask in ((CAUSAL, Ltr().mask(slots)), (FULL, Full().mask(slots))):
        assert torch.allclose(mixer(x, native), mixer(x, Reading("mask", mask)), atol=1e-12, rtol=0)


@pytest.mark.parametrize("slots", LENGTHS)
def test_explicit_masks_are_obeyed(config, slots):
    if "mask" not in config.visibilities:
        pytest.skip("this mixer takes no explicit mask, and says so")
    mask = torch.rand(slots, slots, generator=generator(0, "mask")) < 0.5
    mask |= torch.eye(slots, dtype=torch.bool)
    seen = flow(mixer_of(config), slots, Reading("mask", mask))
    assert torch.equal(seen > 1e-9, mask)
    assert seen[~mask].sum() == 0


@pytest.mark.parametrize("slots", LENGTHS)
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
    jacobian_free = model.hidden(example.inputs, Ltr())
    assert slots == 1 or not torch.allclose(read(model, example), jacobian_free)


def test_a_longer_row_does_not_change_the_outputs_before_it(config):
    mixer, x = mixer_of(config), states(2, LONGEST)
    whole = mixer(x, CAUSAL)
    for slots in LENGTHS:
        assert torch.allclose(mixer(x[:, :slots], CAUSAL), whole[:, :slots], atol=1e-12, rtol=0)


@pytest.mark.parametrize("reading", [CAUSAL, FULL], ids=["causal", "full"])
def test_rows_do_not_know_one_another(config, reading):
    if reading.native not in config.visibilities:
        pytest.skip("this mixer has no such form, and says so")
    mixer, x = mixer_of(config), states(4, 7)
    together = mixer(x, reading)
    alone = torch.cat([mixer(row[None], reading) for row in x])
    assert torch.allclose(together, alone, atol=1e-12, rtol=0)


@pytest.mark.parametrize("slots", [7, LONGEST])
def test_cost_equals_the_counter(config, slots):
    mixer = mixer_of(config, torch.float32)
    with (
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
    ):  # it does not know the fused CPU kernel
        mixer(states(3, slots, torch.float32), CAUSAL)
    cost = mixer.cost(slots, slots * (slots + 1) // 2)
    assert cost.executed * 3 * slots == counter.get_total_flops()
    assert 0 < cost.useful <= cost.executed
    assert cost.state_elements > 0


def test_parameters_have_a_start_and_a_group(config):
    model = DecoderConfig(layers=2, width=WIDTH, heads=HEADS, position="none", mixer=config).build(20, LONGEST, 0)
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    grouped = [name for pairs in model.parameter_groups().values() for name, _ in pairs]
    assert sorted(grouped) == sorted(name for name, _ in model.named_parameters())
