"""What a step does: sum over sum across micro-batches, honest counters, roles covered once, learning rates as scheduled."""

import math

import pytest
import torch
from tiny_training import WINDOW_TOKENS, make_training
from torch import nn

from palinode.base.seeds import derive
from palinode.objectives import BothObjective, ChooseObjective, LtrObjective
from palinode.objectives.probability import Constant, Linear
from palinode.train.checkpoint import weights_sha256
from palinode.train.loop import batch_examples, take_step, train
from palinode.train.optim import OPTIMIZERS, AdamW, MuonAdamW, build_optimizers
from palinode.train.recipe import RECIPES


def trained(objective, steps=8, **changes):
    training = make_training("gpt2-adamw", steps=steps, **changes)
    training.objective, training.objective_state = objective, objective.state()
    train(training, after_step=lambda report: None)
    return training


def test_counters_are_what_was_read():
    ltr = trained(LtrObjective()).counters
    assert (ltr.window_tokens, ltr.tokens_read, ltr.tokens_scored_ltr) == (8 * 4 * WINDOW_TOKENS,) * 3
    assert (ltr.tokens_scored_rtl, ltr.passes) == (0, 8)
    bare = trained(LtrObjective(direction_token=False)).counters
    assert bare.tokens_read == bare.tokens_scored == 8 * 4 * (WINDOW_TOKENS - 1)
    both = trained(BothObjective(p=Constant(p=1.0))).counters
    assert (both.passes, both.tokens_read) == (16, 2 * ltr.tokens_read)
    assert both.tokens_scored_ltr == both.tokens_scored_rtl == ltr.tokens_scored
    assert both.train_flops == pytest.approx(2 * ltr.train_flops)
    choose = trained(ChooseObjective(p=Constant(p=0.5))).counters
    assert (choose.passes, choose.tokens_read) == (8, ltr.tokens_read)
    assert 0 < choose.tokens_scored_rtl < choose.tokens_read


def test_flops_are_asked_of_the_model_once_for_each_shape_and_visibility():
    training = make_training("gpt2-adamw", steps=6)
    requests, honest = [], training.model.cost
    training.model.cost = lambda slots, sees: requests.append((slots, sees)) or honest(slots, sees)
    train(training, after_step=lambda report: None)
    assert len(requests) == len(set(requests)) == 2, "ltr and rtl, once each"
    [kept] = {cost.train_flops(WINDOW_TOKENS) for cost in training.costs.values()}
    assert training.counters.train_flops == pytest.approx(kept * training.counters.tokens_read / WINDOW_TOKENS)


def test_the_head_is_counted_where_a_slot_is_scored():
    training = make_training("gpt2-adamw", steps=8)
    training.objective, training.objective_state, training.labels = LtrObjective(), {}, "last"
    train(training, after_step=lambda report: None)
    counters = training.counters
    [cost] = training.costs.values()
    assert 0 < counters.tokens_scored < counters.tokens_read
    assert counters.train_flops == pytest.approx(cost.train_flops(counters.tokens_read, counters.tokens_scored))


def test_a_schedule_of_p_ends_with_a_run_that_a_token_limit_ends():
    training = make_training("gpt2-adamw", steps=40, max_ltr_tokens=10 * 4 * WINDOW_TOKENS)
    training.objective = BothObjective(p=Linear(p_start=1.0, p_end=0.0))
    training.objective_state = training.objective.state()
    met = []
    train(training, after_step=lambda report: met.append(training.objective.p.at(training.progress())))
    assert len(met) == 10
    assert met[-1] == pytest.approx(0.0, abs=0.05)


def test_the_dropout_stream_is_that_of_torchs_global_generator_and_differs_by_step():
    """CPU: the trainer seeds the default generator itself instead of calling torch.manual_seed; the draws are the same."""
    training = make_training("speedrun", steps=2)
    drawn, honest = [], training.model.hidden

    def draw_and_read(tokens, sees):
        drawn.append(torch.rand(3))
        return honest(tokens, sees)

    training.model.hidden = draw_and_read
    train(training, after_step=lambda report: None)
    expected = []
    for step in (0, 1):
        for micro in (0, 1):
            torch.manual_seed(derive(training.seed, "dropout", step, micro))
            expected.append(torch.rand(3))
    assert torch.equal(torch.stack(drawn), torch.stack(expected))
    assert len({tuple(draw.tolist()) for draw in drawn}) == 4


def test_p_zero_is_ltr_to_the_bit():
    ltr, both = trained(LtrObjective()), trained(BothObjective(p=Constant(p=0.0)))
    assert weights_sha256(ltr.model) == weights_sha256(both.model)


@pytest.mark.parametrize("granularity", ["batch", "row"])
@pytest.mark.parametrize("objective", [BothObjective, ChooseObjective])
def test_micro_batches_do_not_change_the_decisions(objective, granularity):
    """A step draws once for all its windows: the rows of every pass are the same in one part and in four."""
    chosen = objective(p=Constant(p=0.5), granularity=granularity)

    def rows_of(parts, step):
        training = make_training("gpt2-adamw", micro_batches=parts)
        training.objective, training.counters.optimizer_steps = chosen, step
        examples = batch_examples(training)
        assert len(examples) == parts
        rows = [(g.name, row) for example in examples for g, some in example.by_group() for row in example.inputs[some]]
        return {name: [row.tolist() for other, row in rows if other == name] for name in ("ltr", "rtl")}

    assert all(rows_of(1, step) == rows_of(4, step) for step in range(6))
    assert len({len(rows_of(4, step)["rtl"]) for step in range(6)}) > 1


def test_micro_batches_do_not_change_the_gradient():
    """Batches of unequal passes (row-wise coins) make a mean of means wrong; sum over sum is exact."""
    gradients = []
    for parts in (1, 2, 4):
        training = make_training("gpt2-adamw", micro_batches=parts, gradient_clip=None)
        training.model.eval()  # no dropout: micro-batches draw their own masks
        training.objective = LtrObjective(direction_token=False)
        training.objective_state = {}
        for optimizer in training.optimizers:
            optimizer.step = lambda: None
            optimizer.zero_grad = lambda set_to_none: None
        take_step(training)
        gradients.append(torch.cat([p.grad.flatten() for p in training.model.parameters()]))
    for other in gradients[1:]:
        assert torch.allclose(gradients[0], other, atol=1e-6, rtol=1e-5)


def test_batches_are_a_pure_function_of_seed_and_step():
    first, second = make_training("speedrun"), make_training("speedrun")
    take_step(first)
    second.counters.optimizer_steps = 1
    second.objective_state = first.objective_state
    for one, two in zip(batch_examples(first), batch_examples(second), strict=True):
        assert torch.equal(one.inputs, two.inputs)


def test_learning_rate_follows_the_schedule():
    training = make_training("gpt2-adamw", steps=10)
    seen = []
    train(training, after_step=lambda report: seen.append(training.optimizers[0].param_groups[0]["lr"]))
    expected = [1e-3 * training.recipe.schedule.factor(step, 10) for step in range(10)]
    assert seen == pytest.approx(expected)


@pytest.mark.parametrize("config", [cls() for cls in OPTIMIZERS.values()], ids=lambda config: config.kind)
def test_an_optimizer_owns_every_parameter_once_or_refuses(config):
    training = make_training("speedrun")
    roles = training.model.parameter_groups()
    optimizers = build_optimizers(config, training.model, roles)
    owned = [id(p) for o in optimizers for group in o.param_groups for p in group["params"]]
    assert sorted(owned) == sorted(id(p) for p in training.model.parameters())
    lacking = {role: named[1:] if role == "vector" else named for role, named in roles.items()}
    with pytest.raises(ValueError, match="exactly once"):
        build_optimizers(config, training.model, lacking)


def test_muon_is_given_only_hidden_matrices():
    training = make_training("speedrun")
    optimizers = build_optimizers(MuonAdamW(), training.model, training.model.parameter_groups())
    muon = next(o for o in optimizers if isinstance(o, torch.optim.Muon))
    names = {id(p): name for name, p in training.model.named_parameters()}
    moved = [names[id(p)] for group in muon.param_groups for p in group["params"]]
    assert moved
    assert not any("embed" in name or "head" in name for name in moved)


def test_adamw_step_is_torchs():
    """One step of the recipe equals torch.optim.AdamW (its fused form) on the same gradient, decay on matrices only."""
    layer = nn.Linear(4, 3)
    twin = nn.Linear(4, 3)
    twin.load_state_dict(layer.state_dict())
    config = AdamW(learning_rate=0.01, weight_decay=0.1)
    [optimizer] = build_optimizers(
        config, layer, {"matrix": [("weight", layer.weight)], "vector": [("bias", layer.bias)]}
    )
    reference = torch.optim.AdamW(
        [{"params": [twin.weight], "weight_decay": 0.1}, {"params": [twin.bias], "weight_decay": 0.0}],
        lr=0.01,
        betas=(0.9, 0.99),
        fused=True,
    )
    for module, opt in ((layer, optimizer), (twin, reference)):
        module(torch.ones(2, 4)).pow(2).sum().backward()
        opt.step()
    assert torch.equal(layer.weight, twin.weight)
    assert torch.equal(layer.bias, twin.bias)


def test_the_clip_bounds_the_gradient_and_the_report_shows_the_norm_before_it():
    training = make_training("gpt2-adamw", gradient_clip=1e-3)
    kept = {}

    def remember(optimizer, args, kwargs):
        kept["norm"] = math.sqrt(sum(float(p.grad.pow(2).sum()) for p in training.model.parameters()))

    training.optimizers[0].register_step_pre_hook(remember)
    report = take_step(training)
    assert kept["norm"] == pytest.approx(1e-3, rel=1e-3)
    assert report.gradient_norm > 1e-2


def test_every_recipe_of_the_table_refuses_micro_batches_that_do_not_divide():
    for cls in RECIPES.values():
        if cls.kind != "custom":
            with pytest.raises(ValueError, match="do not divide"):
                cls(batch_windows=10, micro_batches=3)
