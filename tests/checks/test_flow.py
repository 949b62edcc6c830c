"""C1 around its edges: what is planned, what is refused, what is too coarse to tell, and that nothing of the model is changed."""

import hashlib
from dataclasses import replace
from functools import partial

import pytest
import torch
from planted_objectives import FillInTheMiddle, MaskedLm
from small_stacks import Attention, ShortConvAttention, SmallStack
from test_planted_defects import SPECIALS, WINDOW_TOKENS, stack, subject
from torch import nn

from palinode.audit import FlowSettings, check_flow
from palinode.base.errors import BadInput
from palinode.base.seeds import generator
from palinode.checks import influence as influence_module
from palinode.checks.bench import Bench
from palinode.checks.copies import exact_arithmetic
from palinode.checks.flow import plan
from palinode.checks.influence import influence, largest_change, replaced_ids, sampled_sources
from palinode.objectives.directional import LtrObjective

QUICK = FlowSettings(lengths=(1, 2, 5), gains=(4.0,), draws=4, draws_tokens=10, train_passes=2, picture_tokens=8)


def by_check(findings):
    return {finding.check: finding for finding in findings}


def measure_flow(subject_now, tokens=12, **options):
    bench = Bench.of(subject_now)
    window = torch.arange(tokens) % subject_now.content_tokens
    sources = torch.arange(tokens)
    with exact_arithmetic():
        return influence(
            bench.subject,
            bench.copy(1.0).eval(),
            window,
            bench.bank.entries[0],
            sources,
            generator(0, "test"),
            **options,
        )


def test_influence_of_a_causal_stack_is_the_triangle_of_its_contract():
    [result] = measure_flow(subject(stack()))
    assert torch.equal(result.matrix > 1e-9, torch.ones(12, 12, dtype=torch.bool).triu(1))
    assert result.noise < 1e-13


def test_chunks_of_rows_change_nothing(monkeypatch):
    [whole] = measure_flow(subject(stack()))
    monkeypatch.setattr(influence_module, "LOGITS_AT_ONCE", 12 * 43 * 3 * 5)
    [chunked] = measure_flow(subject(stack()))
    assert torch.equal(whole.sources, chunked.sources)
    # other ids replace the same sources, so sizes differ, but not who is seen
    assert torch.equal(whole.matrix > 1e-9, chunked.matrix > 1e-9)


def test_undefined_logits_are_the_largest_change_and_equal_infinities_none():
    base = torch.tensor([[0.0, -torch.inf], [1.0, 2.0]])
    assert largest_change(base, base).tolist() == [0.0, 0.0]
    assert largest_change(torch.tensor([[torch.nan, -torch.inf], [1.0, 2.5]]), base).tolist() == [torch.inf, 0.5]


def test_replaced_ids_are_other_ids_and_all_of_them():
    ids = torch.zeros(500, dtype=torch.long)
    assert set(replaced_ids(ids, 5, generator(0, "test")).tolist()) == {1, 2, 3, 4}


@pytest.mark.parametrize("tokens", [9, 64, 65, 129, 1000])
def test_sampled_sources_hold_both_ends_and_the_neighbours_of_powers_of_two(tokens):
    sources = sampled_sources(tokens, 8, generator(0, "test")).tolist()
    assert sources == sorted(set(sources))
    assert len(sources) == 8
    assert {0, 1, tokens - 2, tokens - 1} <= set(sources)
    below = 1 << ((tokens - 1).bit_length() - 1)  # the largest power of two that is a source
    assert {below, below - 1} <= set(sources)


def test_the_plan_covers_every_used_length_gain_and_mode():
    planned = plan(replace(subject(stack()), evaluation_tokens=40), FlowSettings())
    settings = [item.setting for item in planned]
    assert {s.length_tokens for s in settings if s.is_control} >= {1, 2, 3, 16, 24, 31, 32, 33, 40, 48, 64, 65}
    assert {s.length_tokens for s in settings if s.length_tokens > 66} == {80}  # twice the longest used length
    assert {(s.length_tokens, s.gain) for s in settings} >= {(n, g) for n in (8, 24, 40) for g in (4.0, 16.0)}
    assert len({s.pass_seed for s in settings if s.training}) == 16
    assert {s.window for s in settings} == {"random", "repeats", "equal", "few"}


def test_lengths_that_the_objective_or_the_model_refuses_are_named():
    class FromFive(SmallStack):
        def forward(self, tokens, mask=None):
            if tokens.shape[1] < 5:
                raise ValueError("at least five slots")
            return super().forward(tokens, mask)

    refused = check_flow(subject(FromFive(SPECIALS.vocab_size, [Attention])), QUICK)
    assert by_check(refused)["C1.perturbation"].numbers["lengths_refused"] == "1, 2, 4"
    assert {finding.outcome for finding in refused} == {"pass"}
    cut = check_flow(subject(stack(), FillInTheMiddle()), QUICK)
    assert set(by_check(cut)["C1.perturbation"].numbers["lengths_refused"].split(", ")) >= {"1", "2", "5"}


def test_a_used_length_may_not_be_refused():
    class UpToTen(SmallStack):
        def forward(self, tokens, mask=None):
            if tokens.shape[1] > 10:
                raise ValueError("at most ten slots")
            return super().forward(tokens, mask)

    with pytest.raises(ValueError, match="ten slots"):
        check_flow(subject(UpToTen(SPECIALS.vocab_size, [Attention])), QUICK)


class Rounded(SmallStack):
    def forward(self, tokens, mask=None):
        return (super().forward(tokens, mask) * 1e6).round() / 1e6


def test_coarse_arithmetic_cannot_pass_but_can_fail():
    clean = by_check(check_flow(subject(Rounded(SPECIALS.vocab_size, [Attention])), QUICK))
    assert clean["C1.perturbation"].outcome == "could_not_tell"
    assert "too coarse" in clean["C1.perturbation"].message
    leaking = by_check(check_flow(subject(Rounded(SPECIALS.vocab_size, [partial(Attention, widen=1)])), QUICK))
    assert leaking["C1.perturbation"].outcome == "fail"


def test_undefined_logits_fail():
    class Undefined(SmallStack):
        def forward(self, tokens, mask=None):
            logits = super().forward(tokens, mask)
            return torch.where((tokens[..., None] == tokens[:1, :, None]).all(1, keepdim=True), logits, torch.nan)

    assert (
        by_check(check_flow(subject(Undefined(SPECIALS.vocab_size, [Attention])), QUICK))["C1.perturbation"].outcome
        == "fail"
    )


def test_a_dead_network_could_not_tell():
    class Dead(SmallStack):
        def forward(self, tokens, mask=None):
            return super().forward(torch.zeros_like(tokens), mask)

    finding_of = by_check(check_flow(subject(Dead(SPECIALS.vocab_size, [Attention])), QUICK))
    assert finding_of["C1.two-sided"].outcome == "fail"
    assert finding_of["C1.perturbation"].outcome == "could_not_tell"


class ShortConv(nn.Module):
    """Two taps, no attention: sees two tokens back."""

    def __init__(self, width):
        super().__init__()
        self.conv = ShortConvAttention(width, same_padded=False).conv

    def forward(self, x, mask):
        return self.conv(nn.functional.pad(x.transpose(1, 2), (2, 0))).transpose(1, 2)


def test_a_short_reach_is_no_leak_and_passes_once_it_is_declared():
    module = stack(ShortConv)
    undeclared = by_check(check_flow(subject(module), QUICK))
    assert undeclared["C1.two-sided"].outcome == "could_not_tell"
    assert "declare reach_tokens" in undeclared["C1.two-sided"].message
    assert undeclared["C1.perturbation"].outcome == "pass"
    declared = by_check(check_flow(replace(subject(module), reach_tokens=3), QUICK))
    assert declared["C1.two-sided"].outcome == "pass"


def test_one_id_cannot_be_replaced_by_another():
    with pytest.raises(BadInput, match="two content ids"):
        check_flow(replace(subject(stack()), vocab_size=1), QUICK)


def test_the_model_its_mode_and_the_generators_are_left_as_they_were():
    module = stack().train()
    before = hashlib.sha256(b"".join(v.numpy().tobytes() for v in module.state_dict().values())).hexdigest()
    state = torch.get_rng_state()
    check_flow(subject(module, MaskedLm()), QUICK)
    assert before == hashlib.sha256(b"".join(v.numpy().tobytes() for v in module.state_dict().values())).hexdigest()
    assert module.training
    assert torch.equal(torch.get_rng_state(), state)
    assert not list(module.embedding._forward_hooks)


def test_the_same_audit_twice_says_the_same_and_another_seed_looks_elsewhere():
    first, again = (check_flow(subject(stack()), QUICK) for _ in range(2))
    assert first == again
    other = check_flow(replace(subject(stack()), seed=1), QUICK)
    assert [finding.outcome for finding in other] == [finding.outcome for finding in first]
    assert other != first


def test_a_rebuilt_model_is_audited_beyond_its_own_length():
    def rebuild(vocab_size, slots, seed):
        assert slots >= 129
        return stack()

    short = replace(subject(stack(), LtrObjective(), longest=WINDOW_TOKENS), rebuild=rebuild)
    picture = by_check(check_flow(short, QUICK.with_(lengths=(5, 129))))["C1.two-sided"]
    assert "lengths_refused" not in picture.numbers
