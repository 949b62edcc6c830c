"""Fixed linear position biases, blocks without an MLP, and the block-diagonal MLP of Monarch Mixer."""

import math

import pytest
import torch
from torch.nn import functional as F

from palinode.base.config import decode, identity
from palinode.base.errors import BadInput
from palinode.base.seeds import generator
from palinode.base.visibility import Full, Ltr, Prefix
from palinode.models import DecoderConfig, modern
from palinode.models.base import begin, extend
from palinode.models.block import Mlp
from palinode.models.mixers.attention import Attention
from palinode.models.mixers.base import Place, Reading
from palinode.models.parts.linear import BlockLinear
from palinode.models.parts.positions import alibi_slopes, distance_table

SMALL = {"layers": 2, "width": 32, "heads": 4}


def tokens_of(rows: int, slots: int) -> torch.Tensor:
    return torch.randint(0, 20, (rows, slots), generator=generator(0, "tokens"))


def opened(config: DecoderConfig, dtype: torch.dtype = torch.float64):
    model = config.build(20, 24, 0).to(dtype).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator(0, "w", name), dtype=torch.float64)
            parameter.copy_(noise * (1 if "embedding" in name else 0.3))
    return model


def test_slopes_are_those_of_the_paper():
    assert alibi_slopes(8) == [2.0**-h for h in range(1, 9)]
    assert alibi_slopes(1) == [2.0**-8]
    assert alibi_slopes(6) == [0.25, 0.0625, 2**-6, 2**-8, 0.5, 0.125]
    assert all(len(set(alibi_slopes(heads))) == heads for heads in range(1, 40))


@pytest.mark.parametrize("native", ["causal", "full", "mask"])
def test_alibi_equals_its_definition(native):
    width, heads, slots = 8, 2, 7
    attention = Attention(Place(width=width, heads=heads, max_length=slots)).double()
    with torch.no_grad():
        for name, parameter in attention.named_parameters():
            parameter.normal_(0, 0.5, generator=generator(0, name))
    mask = {"causal": Ltr(), "full": Full(), "mask": Prefix(length_slots=3)}[native].mask(slots)
    given = mask if native == "mask" else None
    table = distance_table(slots, native, given, device=torch.device("cpu"), dtype=torch.float64)
    bias = table.bias(torch.tensor(alibi_slopes(heads), dtype=torch.float64)[:, None, None])
    x = torch.randn(2, slots, width, dtype=torch.float64, generator=generator(0, "x"))
    q, k, v = (part(x).unflatten(-1, (heads, -1)).transpose(1, 2) for part in (attention.q, attention.k, attention.v))
    scores = q @ k.mT / math.sqrt(width / heads)
    for head, slope in enumerate(alibi_slopes(heads)):
        for i in range(slots):
            for j in range(slots):
                scores[:, head, i, j] += -slope * abs(i - j) if mask[i, j] else -torch.inf
    wanted = attention.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
    assert torch.allclose(attention(x, Reading(native, given, bias=bias)), wanted, atol=1e-13)


def test_alibi_alone_tells_near_from_far_and_needs_no_table():
    tokens = tokens_of(1, 9)
    with_alibi, without = (opened(DecoderConfig(**SMALL, position=p)) for p in ("alibi", "none"))
    changed = tokens[:, [1, 0, *range(2, 9)]]  # the order of what was read
    assert (with_alibi.hidden(tokens, Ltr()) - with_alibi.hidden(changed, Ltr()))[:, -1].abs().max() > 1e-3
    assert torch.isfinite(with_alibi.hidden(tokens_of(1, 100), Ltr())).all()
    assert sum(p.numel() for p in with_alibi.parameters()) == sum(p.numel() for p in without.parameters())


@pytest.mark.parametrize("chunks", [[1] * 9, [4, 1, 1, 3]])
def test_alibi_reads_on(chunks):
    model, tokens = opened(DecoderConfig(**SMALL, position="alibi")), tokens_of(2, 9)
    state, parts = begin(model, 2, 9), []
    with torch.no_grad():
        for part in tokens.split(chunks, 1):
            states, state = extend(model, part, state)
            parts.append(states)
        assert torch.allclose(torch.cat(parts, 1), model.hidden(tokens, Ltr()), atol=1e-12)


def test_alibi_biases_stay_float32_under_autocast():
    """bf16 makes 300 and 301 the same; the steepest head must still tell them apart."""
    attention = Attention(Place(width=4, heads=1, max_length=400))
    with torch.no_grad():
        for name, parameter in attention.named_parameters():
            parameter.zero_() if name[0] in "qk" else parameter.copy_(torch.eye(4))
    bias = distance_table(400, "causal", None, device=torch.device("cpu"), dtype=torch.float32)
    seen = torch.eye(400)[:, :400]
    with torch.autocast("cpu", torch.bfloat16):
        weights = attention(
            F.pad(seen[:, 1:2] * 256 - seen[:, 2:3] * 256, (0, 3))[None],
            Reading("causal", bias=bias.bias(torch.tensor([[[2**-8]]]))),
        )
    expected = (torch.exp(torch.tensor(-301 / 256)) - torch.exp(torch.tensor(-300 / 256))) * 256
    total = torch.exp(-torch.arange(303) / 256).sum()
    assert weights[0, 302, 0].item() == pytest.approx(float(expected / total), rel=0.02)


def test_old_configs_keep_their_identity_and_blocks_must_fit():
    assert "mlp_blocks" not in identity(DecoderConfig())
    with pytest.raises(BadInput, match="mlp_blocks: 4 blocks do not divide"):
        decode(DecoderConfig, {"width": 30, "heads": 1, "mlp": "block_diagonal"})


@pytest.mark.parametrize(("width", "blocks"), [(16, 4), (12, 2)])
def test_the_block_diagonal_mlp_equals_its_dense_form(width, blocks):
    mlp = Mlp(width, "block_diagonal", 4.0, bias=True, blocks=blocks).double()
    with torch.no_grad():
        for name, parameter in mlp.named_parameters():
            parameter.normal_(0, 0.5, generator=generator(0, name))
    x = torch.randn(3, 5, width, dtype=torch.float64, generator=generator(0, "x"))
    up = x @ torch.block_diag(*mlp.up.weight).T
    active = F.gelu(up[..., : 4 * width]) * up[..., 4 * width :]
    assert torch.allclose(mlp(x), active @ torch.block_diag(*mlp.down.weight).T + mlp.down.bias, atol=1e-12)
    assert mlp.flops_per_slot() == 24 * width**2 / blocks


def test_the_block_diagonal_mlp_has_the_published_size_and_start():
    mlp = Mlp(768, "block_diagonal", 4.0, bias=True, blocks=4)
    assert [p.numel() for p in mlp.parameters()] == [1_179_648, 589_824, 768]
    model = DecoderConfig(layers=1, width=768, heads=1, mlp="block_diagonal", bias=True, position="none").build(9, 4, 0)
    up = model.blocks[0].mlp.up
    assert isinstance(up, BlockLinear)
    assert up.weight.std().item() == pytest.approx(math.sqrt(4 / (3 * 768)), rel=0.01)
    assert model.blocks[0].mlp.down.bias.abs().max() <= 768**-0.5
    opened = modern(layers=1, width=32, heads=2).with_(mlp="block_diagonal").build(9, 4, 0)
    assert opened.blocks[0].mlp.down.weight.abs().max() == 0, "zero_residual holds for it too"


def test_a_block_without_an_mlp_is_its_mixer():
    model = opened(DecoderConfig(**SMALL, mlp="none"))
    tokens = tokens_of(2, 9)
    x = model.embedding(tokens) + model.position.weight[:9]
    for block in model.blocks:
        x = x + block.mixer(block.mixer_norm(x), Reading("causal"))
    assert torch.allclose(model.hidden(tokens, Ltr()), model.final_norm(x), atol=1e-12)
    assert not [name for name, _ in model.named_parameters() if "mlp" in name]
    state = begin(model, 2, 9)
    assert torch.allclose(extend(model, tokens, state)[0], model.hidden(tokens, Ltr()), atol=1e-12)
    mixers = sum(block.mixer.cost(9, 45).executed for block in model.blocks)
    assert model.cost(9, Ltr()).executed_flops_per_slot == mixers
