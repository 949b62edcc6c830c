"""The bank of Draws: every pass is found however rare, decisions are kept apart, and batches keep the objective's granularity."""

import torch
from planted_objectives import MaskedLm
from test_planted_defects import stack, subject

from palinode.base.seeds import generator
from palinode.checks.draws import contract, draw_bank, joined_draw
from palinode.objectives.directional import BothObjective, ChooseObjective, LtrObjective
from palinode.objectives.probability import Constant, StepAt


def bank_of(objective, tokens=12, **options):
    return draw_bank(subject(stack(), objective), tokens, **options)


def test_a_rare_pass_is_found():
    bank = bank_of(BothObjective(p=Constant(p=0.002)))
    assert set(bank.groups) == {"ltr", "rtl"}
    assert bank.calls > 64


def test_a_pass_that_begins_late_is_found():
    assert set(bank_of(BothObjective(p=StepAt(at_step=900_000, p_before=0.0, p_after=1.0))).groups) == {"ltr", "rtl"}


def test_a_pass_that_is_never_drawn_is_named():
    bank = bank_of(BothObjective(p=Constant(p=0.0)))
    assert bank.groups == ("ltr",)
    assert bank.never_drawn == ("rtl",)
    assert bank.calls >= 8000


def test_an_objective_without_decisions_has_one_entry():
    bank = bank_of(LtrObjective())
    assert len(bank.entries) == 1
    assert bank.calls == 1


def test_granularity_is_kept():
    by_batch, by_row = bank_of(BothObjective(p=Constant(p=0.5))), bank_of(ChooseObjective(p=Constant(p=0.5)))
    assert (by_batch.by_row, by_row.by_row) == (False, True)
    rng = generator(0, "test")
    for step in range(6):
        assert len({id(entry) for entry in by_batch.batch(8, step, rng)}) == 1
    assert len({id(entry) for entry in by_row.batch(8, 0, rng)}) == 2


def test_a_batch_for_one_pass_holds_it_in_every_window():
    bank = bank_of(ChooseObjective(p=Constant(p=0.1)))
    assert all("rtl" in entry.groups for entry in bank.batch(8, 0, generator(0, "test"), "rtl"))


def test_covering_makes_every_pass_with_the_fewest_entries():
    bank = bank_of(BothObjective(p=Constant(p=0.5)))
    assert [entry.groups for entry in bank.covering(1)] == [("ltr", "rtl")]
    assert len(bank.covering(5)) == 2


def test_many_decisions_give_many_distinct_entries():
    bank = bank_of(MaskedLm(), most_entries=20)
    assert len({entry.draw["hidden"].numpy().tobytes() for entry in bank.entries}) == len(bank.entries) >= 20


def test_joined_decisions_are_the_entries_in_order():
    bank = bank_of(MaskedLm(), most_entries=20)
    draw = joined_draw(bank.entries[:3])
    assert torch.equal(draw["hidden"][2], bank.entries[2].draw["hidden"][0])


def test_the_contract_is_asked_with_the_entry_s_own_decisions():
    bank = bank_of(MaskedLm(), most_entries=20)
    for entry in bank.entries[:3]:
        hidden = entry.draw["hidden"][0]
        assert torch.equal(contract(MaskedLm(), entry, "mlm", 12), (~hidden)[:, None].expand(12, 12))
