"""One suite for every model in the table, at its defaults made small: flow, steps, silence, seeds, groups, cost, checkpoints."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from palinode import Gpt2AdamW, HfModel, RunSpec
from palinode.audit import FlowSettings, audit_subject, subject_of_config
from palinode.base.config import decode, encode
from palinode.base.example import Draw, SpecialTokens, joined
from palinode.base.head import LinearHead
from palinode.base.seeds import generator
from palinode.base.visibility import FlippedLowerTriangle, Full, Ltr, Prefix, Rtl
from palinode.data.source import prepare
from palinode.data.task_store import TaskData
from palinode.data.tasks import Copy
from palinode.models import MODELS, logits_for, read
from palinode.models.direction import finished, residuals
from palinode.objectives import BothObjective, LtrObjective, RtlObjective
from palinode.spec.trained import Trained
from palinode.train.checkpoint import Saved, load_newest, save_checkpoint, weights_sha256
from palinode.train.optim import AdamW, MuonAdamW, build_optimizers
from palinode.use.generate import generate, next_logits

SPECIALS = SpecialTokens(20)
LONGEST = 16
FLOW = FlowSettings(lengths=(1, 2, 3, 33), train_passes=2, draws=4)
SMALL = {"layers": 2, "width": 32}
SMALL_OF = {"encoder_decoder": {"encoder_layers": 1, "decoder_layers": 2, "width": 32}}


@pytest.fixture(params=MODELS.values(), ids=MODELS.keys())
def config(request):
    if request.param is HfModel:
        return request.getfixturevalue("open_model")
    return request.param(**SMALL_OF.get(request.param.kind, SMALL))


def model_of(config, seed: int = 0):
    return config.build(SPECIALS.vocab_size, LONGEST, seed)


def tokens_of(rows: int, slots: int) -> torch.Tensor:
    return torch.randint(0, SPECIALS.first_id, (rows, slots), generator=generator(0, "test tokens"))


def example_of(rows: int, slots: int):
    windows = tokens_of(rows, slots)
    return joined([one.example(windows, Draw(), SPECIALS) for one in (LtrObjective(), RtlObjective())])


def test_nothing_flows_where_it_must_not_and_everything_where_it_may(config):
    subject = subject_of_config(config, BothObjective(), tokenizer_vocab=256, window_tokens=24)
    report = audit_subject(subject, checks=("C1", "C6"), flow=FLOW)
    assert {f.check: f.message for f in report.findings if f.outcome != "pass"} == {}
    assert {"C1.perturbation", "C1.two-sided", "C1.gradient", "C1.prefix", "C6.nats"} <= {
        f.check for f in report.findings
    }


@pytest.mark.parametrize(  # by day tests/checks has the same for the other three
    "config",
    [pytest.param(kind, id=name, marks=[] if name == "hf" else pytest.mark.nightly) for name, kind in MODELS.items()],
    indirect=True,
)
def test_the_published_mask_leaks_through_it_and_is_caught(config):
    objective = BothObjective(rtl_sees=FlippedLowerTriangle())
    subject = subject_of_config(config, objective, tokenizer_vocab=256, window_tokens=24)
    leaks = audit_subject(subject, checks=("C1",), flow=FLOW).leaks
    assert {"C1.perturbation", "C1.gradient"} <= {finding.check for finding in leaks}
    assert {f.reproduce["pass"] for f in leaks if "pass" in f.reproduce} == {"rtl"}


@pytest.mark.parametrize("direction", ["ltr", "rtl"])
def test_step_by_step_generation_takes_what_one_pass_would(config, direction):
    model = model_of(config).double()
    objective = LtrObjective() if direction == "ltr" else RtlObjective()
    data = TaskData(task=Copy())
    spec = RunSpec(data=data, model=config, objective=objective, recipe=Gpt2AdamW(), seed=0)
    trained = Trained(spec, model, SPECIALS, prepare(data))
    written = generate(trained, [1, 2], 9, 7, direction=direction, rows=3)
    assert torch.equal(written, generate(trained, [1, 2], 9, 7, direction=direction, rows=3))
    with torch.no_grad():
        whole = logits_for(model, objective.example(written, Draw(), SPECIALS))
        read_order, whole = (written, whole) if direction == "ltr" else (written.flip(1), whole.flip(1))
        start = SPECIALS["[L]" if direction == "ltr" else "[R]"]
        for read_tokens in range(written.shape[1]):
            stepped = next_logits(model, read_order[:, :read_tokens], start)
            assert (stepped - whole[:, read_tokens]).abs().max() < 1e-12


def test_evaluation_is_deterministic_and_draws_nothing(config):
    model, example = model_of(config).eval(), example_of(3, 12)
    before = torch.get_rng_state()
    assert torch.equal(logits_for(model, example), logits_for(model, example))
    assert torch.equal(torch.get_rng_state(), before)


def test_rows_do_not_know_one_another_and_directions_may_share_a_batch(config):
    model, windows = model_of(config).double(), tokens_of(4, 12)
    for objective in (LtrObjective(), RtlObjective()):
        together = read(model, objective.example(windows, Draw(), SPECIALS))
        alone = torch.cat([read(model, objective.example(row[None], Draw(), SPECIALS)) for row in windows])
        assert torch.allclose(together, alone, atol=1e-12, rtol=0)
    mixed = read(model, example_of(4, 12))
    assert torch.allclose(mixed[4:], together, atol=1e-12, rtol=0)


@pytest.mark.parametrize("sees", [Full(), Prefix(length_slots=4), Ltr() | Prefix(length_slots=3)], ids=lambda s: s.kind)
def test_every_visibility_is_obeyed(config, sees):
    model, tokens = model_of(config).double(), tokens_of(1, 10)
    before, mask = model.hidden(tokens, sees), sees.mask(10)
    reaches = (torch.linalg.matrix_power(mask.double(), 2) > 0).T  # through two layers; these masks reach no further
    for slot in range(10):
        changed = tokens.clone()
        changed[0, slot] = (changed[0, slot] + 1) % SPECIALS.first_id
        moved = (model.hidden(changed, sees) - before).abs().amax(-1)[0] > 0
        assert torch.equal(moved, reaches[slot]), slot


def test_rows_that_read_from_the_end_are_refused(config):
    with pytest.raises(ValueError, match="flipped first"):
        model_of(config).hidden(tokens_of(1, 8), Rtl())


def test_build_is_a_pure_function_of_the_seed(config):
    before = torch.get_rng_state()
    one = model_of(config, 3)
    assert torch.equal(torch.get_rng_state(), before), "the global generator was touched"
    assert weights_sha256(one) == weights_sha256(model_of(config, 3))
    if not isinstance(config, HfModel):  # its weights are in a file
        assert weights_sha256(one) != weights_sha256(model_of(config, 4))


def test_configs_survive_a_round_trip(config):
    written = encode(config)
    assert MODELS[written.pop("kind")] is type(config)
    assert decode(type(config), written) == config


@pytest.mark.parametrize("optimizer", [AdamW(), MuonAdamW()], ids=["adamw", "muon"])
def test_groups_hold_every_parameter_once_and_every_optimizer_takes_them(config, optimizer):
    model = model_of(config)
    groups = model.parameter_groups()
    named = [name for pairs in groups.values() for name, _ in pairs]
    assert sorted(named) == sorted(name for name, _ in model.named_parameters())
    assert sum(model.parameter_counts().values()) == sum(parameter.numel() for parameter in model.parameters())
    assert all(parameter.dim() == 2 for _, parameter in model.parameter_groups()["matrix"])
    assert build_optimizers(optimizer, model, groups)


def test_the_loss_is_given_the_same_logits_as_everyone(config):
    model = model_of(config)
    states = model.hidden(tokens_of(2, 12), Ltr())
    assert isinstance(model.logits_map(), LinearHead)
    assert torch.equal(model.logits_map()(states), model.logits(states))
    with torch.autocast("cpu", torch.bfloat16):
        states = model.hidden(tokens_of(2, 12), Ltr())
        assert model.logits(states).dtype == torch.float32
    assert model.logits(states).dtype == torch.float32, "training makes the logits outside"


def test_the_stream_of_a_model_is_not_rounded(config):
    """What blocks add up is float32, whatever the precision of their products: else depths differ in more than depth."""
    model = model_of(config)
    if not model.can_be_cut():
        pytest.skip("this model shows no stream")
    with torch.autocast("cpu", torch.bfloat16):
        assert {states.dtype for states in residuals(model, example_of(2, 12))} == {torch.float32}


def test_a_cut_is_a_shorter_model_and_the_last_one_the_whole(config):
    model, example = model_of(config).eval(), example_of(2, 12)
    if not model.can_be_cut():
        pytest.skip("this model cannot be cut, and says so")
    cuts = [finished(example, states, model.finished) for states in residuals(model, example)]
    assert len(cuts) == model.depths() == 2
    assert torch.equal(cuts[-1], read(model, example))
    assert not torch.allclose(cuts[0], cuts[-1], atol=1e-3)


@pytest.mark.parametrize("sees", [Ltr(), Full(), Prefix(length_slots=4)], ids=lambda s: s.kind)
@pytest.mark.parametrize("slots", [12, 300])
def test_cost_equals_the_counter(config, sees, slots):
    model = config.build(SPECIALS.vocab_size, slots, 0)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.logits(model.hidden(tokens_of(2, slots), sees)).sum().backward()
    cost = model.cost(slots, sees)
    assert cost.train_flops(2 * slots) == pytest.approx(counter.get_total_flops(), rel=1e-12)
    assert 0 < cost.useful_flops_per_slot <= cost.executed_flops_per_slot
    assert cost.total_parameters == sum(parameter.numel() for parameter in model.parameters())


def test_a_checkpoint_gives_back_weights_and_optimizer_bit_for_bit(config, tmp_path):
    def trained(steps: int, seed: int = 0):
        model = model_of(config, seed)
        optimizers = build_optimizers(AdamW(), model, model.parameter_groups())
        return model, optimizers, lambda: [take_step(model, optimizers) for _ in range(steps)]

    def take_step(model, optimizers):
        model.logits(model.hidden(tokens_of(3, 12), Ltr())).square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()

    model, optimizers, steps = trained(3)
    steps()
    save_checkpoint(tmp_path, Saved(run_id="r", step=3), model, optimizers, keep=1)
    other, other_optimizers, more = trained(3, seed=9)
    saved, passed_over = load_newest(tmp_path, "r", other, other_optimizers)
    assert (saved.step, passed_over) == (3, [])
    assert weights_sha256(other) == weights_sha256(model)
    steps()
    more()
    assert weights_sha256(other) == weights_sha256(model)
