"""The latent model: exact sizes, first weights, what a block computes, and the position bias in every direction, exact."""

import math

import pytest
import torch
from torch.nn import functional as F

from palinode.base.config import decode, encode
from palinode.base.errors import BadInput
from palinode.base.example import Draw, SpecialTokens
from palinode.base.seeds import generator
from palinode.base.visibility import Flipped, FlippedLowerTriangle, Full, Intersection, Ltr, Prefix, Rtl
from palinode.models import MODELS, LatentConfig, hlb, logits_for, read
from palinode.models import latent as latent_module
from palinode.models.latent import BLOCK_SLOTS, Latent, computed_pairs
from palinode.models.parts.positions import DistanceTable, distance_table
from palinode.objectives import LtrObjective, RtlObjective
from palinode.train.optim import HlbAdamW, build_optimizers

VOCABULARY = 20
SPECIALS = SpecialTokens(VOCABULARY)
SMALL = LatentConfig(layers=2, width=32)
CONFIGS = {"one head": SMALL, "heads": SMALL.with_(heads=2), "linear value": SMALL.with_(linear_value=True)}
CELLS = {
    4: (20_240_068, 42_323_332, 92_019_460, 213_530_116),
    8: (21_162_440, 46_011_272, 106_768_136, 272_518_664),
    16: (23_007_184, 53_387_152, 136_265_488, 390_495_760),
    32: (26_696_672, 68_138_912, 195_260_192, 626_449_952),
}
WIDTHS = (192, 384, 768, 1536)


def on_meta(config: LatentConfig, vocab_size: int = 50304) -> Latent:
    with torch.device("meta"):
        return Latent(config, vocab_size, 1024)


def count(config: LatentConfig, vocab_size: int = 50304) -> int:
    return sum(on_meta(config, vocab_size).parameter_counts().values())


def model_with(config: LatentConfig = SMALL, dtype: torch.dtype = torch.float64, spread: float = 0.3) -> Latent:
    """Random weights, all of them; slopes between .2 and 1.5, another one in each layer."""
    model = config.build(SPECIALS.vocab_size, 16, 0).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0.0, spread, generator=generator(0, "test weights", name))
        for index, block in enumerate(model.blocks):
            block.attention.raw_slope.fill_(0.3 - 1.5 * index)
    return model.to(dtype)


def tokens_of(rows: int, slots: int) -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (rows, slots), generator=generator(1, "test tokens"))


@torch.no_grad()
def by_hand(model: Latent, tokens: torch.Tensor, mask: torch.Tensor, away=lambda i, j: abs(i - j)) -> torch.Tensor:
    """States from sums over single slots and scalars, straight from the formulas; no padding, no blocks, no tables."""
    config = model.config
    q_width, head = config.width // 8, config.width // config.heads
    x = model.embedding.weight[tokens]
    for block in model.blocks:
        h = F.layer_norm(x, (config.width,), block.norm.gain)
        q, k, linear, gate = (h @ block.attention.expand.weight.T).split(block.attention.parts, dim=-1)
        if config.linear_value:
            local, value = linear * F.gelu(gate[..., : config.width]), gate[..., config.width :]
        else:
            local, value = (linear * F.gelu(gate)).split(config.width, dim=-1)
        slope = math.log1p(math.exp(block.attention.raw_slope.item()))
        attended = torch.zeros_like(value)
        for one in range(config.heads):
            of_q = slice(one * q_width // config.heads, (one + 1) * q_width // config.heads)
            of_v = slice(one * head, (one + 1) * head)
            for row in range(len(tokens)):
                for i in range(tokens.shape[1]):
                    seen = [j for j in range(tokens.shape[1]) if mask[i, j]]
                    scores = [
                        float(q[row, i, of_q] @ k[row, j, of_q]) / math.sqrt(q_width / config.heads)
                        - slope * away(i, j)
                        for j in seen
                    ]
                    weights = [math.exp(score - max(scores)) for score in scores]
                    for weight, j in zip(weights, seen, strict=True):
                        attended[row, i, of_v] += weight / sum(weights) * value[row, j, of_v]
        x = x + torch.cat((local, attended), -1) @ block.attention.project.weight.T
    return F.layer_norm(x, (config.width,), model.final_norm.gain)


@pytest.mark.parametrize("layers", CELLS)
@pytest.mark.parametrize("column", range(4), ids=WIDTHS)
def test_all_published_cells_have_their_number_of_parameters(layers, column):
    assert count(LatentConfig(layers=layers, width=WIDTHS[column]), 50306) == CELLS[layers][column]


@pytest.mark.parametrize(
    ("size", "layers", "width", "parameters"),
    [
        (0.5, 5, 256, 27_805_189),
        (1.0, 8, 384, 46_009_736),
        (4, 19, 896, 185_497_107),
        (148, 58, 2752, 3_022_430_842),
    ],
)
def test_the_dial(size, layers, width, parameters):
    assert hlb(size) == LatentConfig(layers=layers, width=width)
    assert count(hlb(size)) == parameters


def test_the_dial_starts_at_the_published_size_and_refuses_what_gives_no_model():
    assert hlb() == hlb(1.0) == LatentConfig()
    assert hlb(0.06) == LatentConfig(layers=1, width=64)
    for size in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(BadInput, match="size: .*must be a positive number"):
            hlb(size)
    for size in (0.059, 0.01):
        with pytest.raises(BadInput, match="gives width 0 and [01] layers; the smallest is about 0.06"):
            hlb(size)


@pytest.mark.parametrize("width", [8, 33, 64, 100])
def test_the_formula_of_the_number_of_parameters(width):
    config, vocab = LatentConfig(layers=3, width=width), 50
    each = (2 * (width // 8) + 4 * width) * width + 2 * width**2 + width + 1
    assert count(config, vocab) == 2 * vocab * width + width + 3 * each
    assert count(config.with_(linear_value=True), vocab) == count(config, vocab) - 3 * width**2, (
        "nothing unread is kept"
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 64, "heads": 3}, "heads: .*3 heads do not divide width 64"),
        ({"width": 64, "heads": 16}, "heads: .*16 heads do not divide the query width 64 // 8 = 8"),
        ({"width": 100, "heads": 5}, "5 heads do not divide the query width 100 // 8 = 12"),
        ({"width": 7}, "width"),
        ({"layers": 0}, "layers"),
        ({"heads": 0}, "heads"),
        ({"linear_value": 1}, "linear_value"),
        ({"expand": 2}, "unknown key 'expand'"),
    ],
)
def test_bad_options_are_refused_by_name_in_one_line(fields, message):
    with pytest.raises(BadInput, match=message) as refused:
        decode(LatentConfig, fields)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_configs_survive_a_round_trip(config):
    written = encode(config)
    assert MODELS[written.pop("kind")] is LatentConfig
    assert decode(LatentConfig, written) == config


def test_weights_start_with_the_published_spread():
    state = LatentConfig(layers=4, width=256).build(500, 16, 0).state_dict()
    spread = {"expand": 0.25 / 16, "project": 0.5 / (16 * 4), "embedding": 0.25 / 16, "head": 0.5 / 16}
    for name, weight in state.items():
        if name.endswith(("gain", "raw_slope")):
            assert torch.all(weight == 1), name
        else:
            wanted = next(value for part, value in spread.items() if part in name)
            assert weight.std().item() == pytest.approx(wanted, rel=0.02), name
    assert F.softplus(torch.tensor(1.0)).item() == pytest.approx(1.3133, abs=5e-5)


def test_groups_are_those_of_the_recipe():
    """Slopes and matrices have rates of their own; gains and the embedding, and the head, have those of every model."""
    groups = {group: [name for name, _ in pairs] for group, pairs in SMALL.build(50, 16, 0).parameter_groups().items()}
    assert groups["slope"] == ["blocks.0.attention.raw_slope", "blocks.1.attention.raw_slope"]
    assert sorted(groups["matrix"]) == [
        f"blocks.{i}.attention.{map_}.weight" for i in (0, 1) for map_ in ("expand", "project")
    ]
    assert groups["embedding"] == ["embedding.weight"]
    assert groups["head"] == ["head.weight"]
    assert groups["vector"] == ["blocks.0.norm.gain", "blocks.1.norm.gain", "final_norm.gain"]
    assert groups["position"] == []


def test_the_recipe_gives_the_slopes_their_own_rate():
    model = SMALL.build(50, 16, 0)
    optimizers = build_optimizers(HlbAdamW(learning_rate=1e-3), model, model.parameter_groups())
    rates = {id(p): group["peak_lr"] for opt in optimizers for group in opt.param_groups for p in group["params"]}
    result = {name: rates[id(parameter)] for name, parameter in model.named_parameters()}
    assert result["blocks.1.attention.raw_slope"] == pytest.approx(100e-3)
    assert result["blocks.1.attention.expand.weight"] == pytest.approx(1e-3)
    assert result["head.weight"] == pytest.approx(2e-3)
    assert result["embedding.weight"] == result["final_norm.gain"] == pytest.approx(32e-3)


VISIBILITIES = {
    "ltr": Ltr(),
    "full": Full(),
    "upper triangle": Flipped(of=Ltr()),
    "prefix": Prefix(length_slots=4),
    "published": FlippedLowerTriangle(size=9),
    "open": FlippedLowerTriangle(size=64),
    "two sides": Prefix(length_slots=3) | Flipped(of=Prefix(length_slots=2)),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
@pytest.mark.parametrize("name", VISIBILITIES)
def test_states_equal_the_formulas_worked_out_slot_by_slot(config, name):
    model, tokens, sees = model_with(config), tokens_of(2, 9), VISIBILITIES[name]
    wanted = by_hand(model, tokens, sees.mask(9))
    assert (model.hidden(tokens, sees) - wanted).abs().max() < 1e-12
    alone = by_hand(model, tokens, sees.mask(9), away=lambda i, j: 0)
    assert (wanted - alone).abs().max() > 0.01, "positive control: distance must matter"


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
@pytest.mark.parametrize("slots", [1, BLOCK_SLOTS - 1, BLOCK_SLOTS, BLOCK_SLOTS + 1, 2 * BLOCK_SLOTS, 300])
def test_causal_blocks_equal_the_explicit_mask_and_their_gradients(config, slots):
    """At 1, 2 and 3 blocks and around their seams."""
    model, tokens = model_with(config), tokens_of(2, slots)
    towards = torch.randn(2, slots, config.width, generator=generator(0, "towards"), dtype=torch.float64)
    result = []
    for sees in (Ltr(), Ltr() & Full()):
        model.zero_grad()
        states = model.hidden(tokens, sees)
        (states * towards).sum().backward()
        result.append((states.detach(), *(parameter.grad.clone() for _, parameter in model.blocks.named_parameters())))
    for native, masked in zip(*result, strict=True):
        assert (native - masked).abs().max() <= 1e-11 * max(1.0, float(masked.abs().max()))


# --- directions -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
@pytest.mark.parametrize("slots", [2, 3, 7, 33, 150])
def test_a_flipped_row_equals_the_upper_triangle_with_the_mirrored_bias(config, slots):
    model = model_with(config)
    example = RtlObjective().example(tokens_of(3, slots), Draw(), SPECIALS)
    upper = Flipped(of=Ltr())
    assert torch.equal(upper.mask(slots), torch.ones(slots, slots, dtype=torch.bool).triu())
    assert (read(model, example) - model.hidden(example.inputs, upper)).abs().max() < 1e-12


class NotMirrored(DistanceTable):
    """The published right-to-left bias: the ltr table with its rows flipped. Row i prefers the farthest slot."""

    def bias(self, slope):
        slots = len(self.wall)
        slot = torch.arange(slots, dtype=self.wall.dtype)
        return torch.addcmul(self.wall, slot[:, None] + slot - slots + 1, slope)


def test_a_bias_that_is_not_mirrored_is_noticed(monkeypatch):
    model, example = model_with(), RtlObjective().example(tokens_of(3, 12), Draw(), SPECIALS)
    flipped = read(model, example)
    monkeypatch.setattr(latent_module, "distance_table", lambda *a, **k: NotMirrored(**vars(distance_table(*a, **k))))
    assert (flipped - model.hidden(example.inputs, Flipped(of=Ltr()))).abs().max() > 0.1


def test_ltr_and_rtl_of_a_mirrored_text_are_the_same_prediction():
    model, windows = model_with(), tokens_of(2, 12)
    bare = {"direction_token": False}
    ltr = logits_for(model, LtrObjective(**bare).example(windows, Draw(), SPECIALS))
    rtl = logits_for(model, RtlObjective(**bare).example(windows.flip(1), Draw(), SPECIALS))
    assert torch.allclose(ltr, rtl.flip(1), atol=1e-12, rtol=0)


def test_rows_that_read_from_the_end_or_see_nothing_are_refused():
    model = SMALL.build(50, 16, 0)
    with pytest.raises(ValueError, match="flipped first"):
        model.hidden(tokens_of(1, 8), Rtl())
    with pytest.raises(BadInput, match="lets slot 3 of 6 see nothing"):
        model.hidden(tokens_of(1, 6), Intersection(left=Flipped(of=Ltr()), right=FlippedLowerTriangle(size=6)))


# --- exactness of the bias ------------------------------------------------------------------------------------------------


def bias_of(model: Latent, slots: int) -> torch.Tensor:
    """The (slots, slots) causal bias of the first layer, as its attention uses it."""
    reading = model._reading(tokens_of(1, slots), Ltr())
    return reading.distance.bias(F.softplus(model.blocks[0].attention.raw_slope.float()))


def distinct_steps(bias: torch.Tensor, slope: float) -> int:
    """How many values the last row has; asserts that they are the multiples of the slope."""
    row = bias[-1].double()
    assert torch.allclose(row, -slope * torch.arange(len(row) - 1, -1, -1).double(), rtol=1e-6, atol=1e-6)
    return len(row.unique())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("slots", [32, 1024])
def test_distances_are_equally_spaced_whatever_the_weights_are_stored_in(dtype, slots):
    model = SMALL.build(50, 1024, 0).to(dtype)
    bias = bias_of(model, slots)
    assert bias.dtype == torch.float32
    assert distinct_steps(bias, F.softplus(torch.tensor(1.0, dtype=torch.float64)).item()) == slots


def rounded_table(slots, native, mask, *, device, dtype, first=0):
    """The published table: positions -1023..0 in bf16, cut at the top left."""
    whole = torch.arange(-1023, 1, dtype=torch.float32).to(torch.bfloat16)
    exact = distance_table(slots, native, mask, device=device, dtype=dtype)
    shifted = whole[:slots].to(dtype)
    return DistanceTable(-(shifted[:, None] - shifted).abs(), exact.wall)


def test_a_bias_rounded_in_bf16_is_noticed(monkeypatch):
    """With the published table a row of 32 distances has 9 values, and states are far from those of the formulas."""
    monkeypatch.setattr(latent_module, "distance_table", rounded_table)
    assert len(bias_of(SMALL.build(50, 1024, 0), 32)[-1].unique()) == 9
    with pytest.raises(AssertionError):
        distinct_steps(bias_of(SMALL.build(50, 1024, 0), 32), 1.3132616875)
    model, tokens = model_with(), tokens_of(1, 32)
    assert (model.hidden(tokens, Ltr()) - by_hand(model, tokens, Ltr().mask(32))).abs().max() > 0.1


@torch.no_grad()
@pytest.mark.parametrize("slots", [64, 300])
def test_autocast_rounds_no_bias(slots, monkeypatch):
    """A bias of -256 rounded to bf16 is off by up to one half; scores of q and k alone are off by hundredths."""
    model, tokens = model_with(dtype=torch.float32, spread=0.1), tokens_of(2, slots)
    scores = []
    softmax = torch.Tensor.softmax
    monkeypatch.setattr(torch.Tensor, "softmax", lambda x, **k: scores.append(x) or softmax(x, **k))
    exact = model.hidden(tokens, Ltr())
    count_exact = len(scores)
    with torch.autocast("cpu", torch.bfloat16):
        states = model.hidden(tokens, Ltr())
    for one, other in zip(scores[:count_exact], scores[count_exact:], strict=True):
        assert other.dtype == torch.float32
        seen = one.isfinite()
        assert torch.equal(seen, other.isfinite())
        assert (one[seen] - other[seen]).abs().max() < 0.05
    lowest = min(float(one[one.isfinite()].min()) for one in scores)
    assert lowest < -0.8 * slots, "positive control: bf16 would round this by a half"
    assert (states.float() - exact).abs().max() < 0.1 * exact.std()


def test_the_slope_of_every_layer_is_learned():
    model = SMALL.build(SPECIALS.vocab_size, 16, 0)
    logits = model.logits(model.hidden(tokens_of(2, 16), Ltr()))
    F.cross_entropy(logits.flatten(0, 1), tokens_of(2, 16).flatten()).backward()
    for block in model.blocks:
        assert block.attention.raw_slope.grad.abs().item() > 0


@pytest.mark.parametrize("raw_slope", [-30.0, 1.0, 40.0])
@pytest.mark.parametrize("sees", [Ltr(), Full(), Prefix(length_slots=3)], ids=["ltr", "full", "prefix"])
def test_gradients_are_finite_at_every_slope(raw_slope, sees):
    """-inf walls must not meet the slope in a product: 0 * inf is no number."""
    model = model_with(dtype=torch.float32)
    with torch.no_grad():
        for block in model.blocks:
            block.attention.raw_slope.fill_(raw_slope)
    model.hidden(tokens_of(2, 200), sees).square().sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.blocks.parameters())


def test_a_steep_slope_reads_the_own_slot_only_and_a_flat_one_ignores_order():
    model, tokens = model_with(), tokens_of(1, 8)
    for block in model.blocks:
        torch.nn.init.constant_(block.attention.raw_slope, 1000.0)
    assert torch.allclose(model.hidden(tokens, Ltr()), model.hidden(tokens, Flipped(of=Ltr())), atol=1e-12)
    for block in model.blocks:
        torch.nn.init.constant_(block.attention.raw_slope, -80.0)
    shuffled = tokens[:, [2, 0, 1, 4, 3, 5, 6, 7]]
    assert torch.allclose(model.hidden(tokens, Full())[:, -1], model.hidden(shuffled, Full())[:, -1], atol=1e-12)


def test_no_weight_is_left_unread():
    for config in CONFIGS.values():
        model = config.build(SPECIALS.vocab_size, 16, 0)
        model.logits(model.hidden(tokens_of(4, 16), Ltr())).square().sum().backward()
        for name, parameter in model.named_parameters():
            rows = parameter.grad.flatten(1).abs().amax(1) if parameter.dim() > 1 else parameter.grad.abs()
            assert (rows > 0).all() or name == "embedding.weight", name


# --- depth and cost -------------------------------------------------------------------------------------------------------


def test_states_after_every_block_are_those_of_the_shorter_model():
    model, tokens = model_with(SMALL.with_(layers=3)), tokens_of(2, 9)
    assert model.can_be_cut()
    assert model.depths() == 3
    shorter = model_with(SMALL.with_(layers=1))
    shorter.load_state_dict(model.state_dict(), strict=False)
    residuals = list(model.residuals(tokens, Ltr()))
    assert torch.equal(model.finished(residuals[0]), shorter.hidden(tokens, Ltr()))
    assert torch.equal(model.finished(residuals[2]), model.hidden(tokens, Ltr()))


def test_flops_and_state_are_those_of_the_published_formula():
    config, slots, vocab = LatentConfig(layers=3, width=64), 100, 500
    cost = config.build(vocab, slots, 0).cost(slots, Ltr())
    useful = cost.useful_flops_per_slot + cost.head_flops_per_slot
    assert useful == 12.5 * 64**2 * 3 + 2 * vocab * 64 + 9 / 8 * 64 * (slots + 1) * 3
    assert cost.executed_flops_per_slot == 12.5 * 64**2 * 3 + 2.25 * 64 * slots * 3, "one block: the whole square"
    assert cost.state_elements == (8 + 64) * slots * 3


def test_computed_pairs_are_the_blocks():
    for slots in (1, 127, 128, 129, 256, 300, 1024):
        blocks = torch.arange(slots) // BLOCK_SLOTS
        assert computed_pairs("causal", slots) == int((blocks[:, None] >= blocks).sum())
        assert computed_pairs("full", slots) == computed_pairs("mask", slots) == slots**2
    assert computed_pairs("causal", 1024) / 1024**2 == 0.5625


def test_the_table_needs_no_longest_row():
    assert distance_table(3, "full", None, device=torch.device("cpu"), dtype=torch.float32).minus_distance.tolist() == [
        [0, -1, -2],
        [-1, 0, -1],
        [-2, -1, 0],
    ]
    assert SMALL.build(50, 4, 0).hidden(tokens_of(1, 40), Ltr()).shape == (1, 40, 32)
