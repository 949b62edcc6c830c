"""The objectives on the window a b c d e f, exactly as they are written down, and their two laws by enumeration."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from palinode.base.config import identity
from palinode.base.errors import BadInput
from palinode.base.example import NO_SOURCE, Draw, SpecialTokens, Windows
from palinode.base.seeds import generator
from palinode.base.visibility import FlippedLowerTriangle, Full, Ltr, Rtl
from palinode.objectives import (
    OBJECTIVES,
    BothObjective,
    ChooseObjective,
    LtrObjective,
    MaskedInputObjective,
    MaskedObjective,
    Progress,
    RtlObjective,
)
from palinode.objectives.probability import Constant, Linear

SPECIALS = SpecialTokens(6)
WINDOW = torch.arange(6)[None]

LTR = """
in  [L] a b c d e
tgt  a  b c d e f
src  .  0 1 2 3 4
ts   0  1 2 3 4 5
wt   1  1 1 1 1 1
"""
LTR_BARE = """
in   a b c d e
tgt  b c d e f
src  0 1 2 3 4
ts   1 2 3 4 5
wt   1 1 1 1 1
"""
RTL = """
in   b c d e f [R]
tgt  a b c d e  f
src  1 2 3 4 5  .
ts   0 1 2 3 4  5
wt   1 1 1 1 1  1
"""
RTL_BARE = """
in   b c d e f
tgt  a b c d e
src  1 2 3 4 5
ts   0 1 2 3 4
wt   1 1 1 1 1
"""
MASKED_INPUT = """
in  [L] a [M] c [M] e
tgt  a  b  c  d  e  f
src  .  0  .  2  .  4
ts   0  1  2  3  4  5
wt   1  1  1  1  1  1
"""
MASKED_INPUT_BARE = """
in   a [M] c [M] e
tgt  b  c  d  e  f
src  0  .  2  .  4
ts   1  2  3  4  5
wt   1  1  1  1  1
"""


@dataclass(frozen=True)
class Table:
    """A worked window as it is written: letters are ids 0 to 5, a dot is "no source"."""

    inputs: list
    targets: list
    input_source: list
    target_source: list
    loss_weight: list

    @classmethod
    def of(cls, text):
        names = {letter: i for i, letter in enumerate("abcdef")} | {
            "[L]": SPECIALS["[L]"],
            "[R]": SPECIALS["[R]"],
            "[M]": SPECIALS["[MASK]"],
        }
        numbers = {".": NO_SOURCE} | {str(i): i for i in range(6)}
        rows = [line.split()[1:] for line in text.strip().splitlines()]
        return cls(
            *[[names[cell] for cell in row] for row in rows[:2]], *[[numbers[cell] for cell in row] for row in rows[2:]]
        )


def row_of(example, row):
    fields = ("inputs", "targets", "input_source", "target_source", "loss_weight")
    return Table(*[getattr(example, name)[row].tolist() for name in fields])


def passes(example):
    return [(group.name, type(group.sees), group.rows) for group in example.groups]


def coins(*reads_rtl):
    return Draw({"rtl": torch.tensor(reads_rtl)})


@pytest.mark.parametrize(
    ("objective", "table", "expected"),
    [
        (LtrObjective(), LTR, ("ltr", Ltr, 1)),
        (LtrObjective(direction_token=False), LTR_BARE, ("ltr", Ltr, 1)),
        (RtlObjective(), RTL, ("rtl", Rtl, 1)),
        (RtlObjective(direction_token=False), RTL_BARE, ("rtl", Rtl, 1)),
    ],
)
def test_ltr_and_rtl_as_written(objective, table, expected):
    example = objective.example(WINDOW, Draw(), SPECIALS)
    assert row_of(example, 0) == Table.of(table)
    assert passes(example) == [expected]
    assert example.window_row.tolist() == [0]
    assert example.denominator == sum(Table.of(table).loss_weight)
    assert objective.groups() == (expected[0],)


def test_a_number_is_a_constant_probability():
    for objective in (BothObjective, ChooseObjective):
        assert objective(p=0.25) == objective(p=Constant(p=0.25))
        for wrong in (1.5, -0.1, float("nan"), True):
            with pytest.raises(ValidationError, match="p"):
                objective(p=wrong)


@pytest.mark.parametrize(("token", "table"), [(True, MASKED_INPUT), (False, MASKED_INPUT_BARE)])
def test_masked_input_as_written(token, table):
    """Hidden where it is read, and still a target: what follows it is predicted without it."""
    objective = MaskedInputObjective(rate=0.3, direction_token=token)
    draw = Draw({"hidden": torch.tensor([[False, True, False, True, False, False]])})
    example = objective.example(WINDOW, draw, SPECIALS)
    assert row_of(example, 0) == Table.of(table)
    assert passes(example) == [("ltr", Ltr, 1)]
    one = Draw({"hidden": draw["hidden"][0]})
    allowed = objective.may_inform(torch.arange(6)[:, None], torch.arange(6), "ltr", one)
    assert allowed.nonzero().tolist() == [[s, t] for s in (0, 2, 4, 5) for t in range(s + 1, 6)]
    assert objective.evaluation() == LtrObjective(direction_token=token).evaluation()
    hidden = objective.draw(500, 20, generator(0, "hidden"), Progress())["hidden"]
    assert set(hidden.sum(1).tolist()) == {6}
    assert hidden.double().mean(0).tolist() == pytest.approx([6 / 19] * 19 + [0], abs=0.1)
    plain = MaskedInputObjective(rate=0.3, direction_token=False).draw(500, 20, generator(0, "hidden"), Progress())
    assert set(plain["hidden"].sum(1).tolist()) == {6}


def test_masked_input_hides_the_answers_of_a_task_in_training_and_in_evaluation():
    """Answers {b, d, e} are never read, and are targets: the input of a published task.

    A random share is hidden in training alone.
    """
    objective, specials = MaskedInputObjective(rate=0.0, hide_answers=True), SpecialTokens(10)
    answers = torch.tensor([[0, 1, 0, 1, 1, 0]]).bool()
    windows = Windows(WINDOW, answers)
    draw = windows.decisions(objective.draw(1, 6, generator(0, "draw"), Progress()))
    example = objective.example(windows.tokens, draw, specials)
    mask, start = specials["[MASK]"], specials["[L]"]
    assert example.inputs.tolist() == [[start, 0, mask, 2, mask, mask]]
    assert example.targets.tolist() == [[0, 1, 2, 3, 4, 5]]
    assert bool((example.loss_weight == 1).all())
    allowed = objective.may_inform(torch.arange(6)[:, None], torch.arange(6), "ltr", draw.of_row(0))
    assert allowed.nonzero().tolist() == [[s, t] for s in (0, 2, 5) for t in range(s + 1, 6)]
    both = objective.with_(rate=0.3)
    assert both.evaluation()["ltr"] == objective
    assert set(both.draw(50, 20, generator(0, "hidden"), Progress())["hidden"].sum(1).tolist()) == {6}
    assert set(both.evaluation()) == {"ltr", "rtl"}


def test_hiding_answers_changes_no_draw_and_no_id_of_a_run_without_it():
    plain, hiding = (MaskedInputObjective(hide_answers=hides) for hides in (False, True))
    one, other = (objective.draw(3, 20, generator(4, "hidden"), Progress()) for objective in (plain, hiding))
    assert torch.equal(one["hidden"], other["hidden"])
    assert identity(plain) == {"kind": "masked-input", "rate": 0.15, "direction_token": True}
    assert identity(hiding) != identity(plain)


@pytest.mark.parametrize(("token", "ltr", "rtl"), [(True, LTR, RTL), (False, LTR_BARE, RTL_BARE)])
def test_both_as_written(token, ltr, rtl):
    objective = BothObjective(direction_token=token)
    example = objective.example(WINDOW, coins(True), SPECIALS)
    assert passes(example) == [("ltr", Ltr, 1), ("rtl", Rtl, 1)]
    assert [row_of(example, row) for row in (0, 1)] == [Table.of(ltr), Table.of(rtl)]
    assert example.window_row.tolist() == [0, 0]
    alone = objective.example(WINDOW, coins(False), SPECIALS)
    assert passes(alone) == [("ltr", Ltr, 1)]
    assert row_of(alone, 0) == Table.of(ltr)


def test_both_reads_rtl_beside_ltr_only_where_the_coin_fell():
    windows = torch.stack([WINDOW[0], WINDOW[0].flip(0), WINDOW[0]])
    example = BothObjective(granularity="row").example(windows, coins(False, True, False), SPECIALS)
    assert passes(example) == [("ltr", Ltr, 3), ("rtl", Rtl, 1)]
    assert example.window_row.tolist() == [0, 1, 2, 1]
    assert example.inputs.numel() == 4 * 6  # tokens read: N (1 + p) a window
    assert example.targets[3].tolist() == [5, 4, 3, 2, 1, 0]


@pytest.mark.parametrize(("combine", "denominator"), [("sum", 6), ("mean", 12)])
def test_both_adds_the_two_mean_losses_or_averages_all(combine, denominator):
    example = BothObjective(combine=combine).example(WINDOW, coins(True), SPECIALS)
    assert example.denominator == denominator


def test_choose_reads_every_window_once():
    windows = WINDOW.expand(3, 6)
    example = ChooseObjective().example(windows, coins(True, False, True), SPECIALS)
    assert passes(example) == [("ltr", Ltr, 1), ("rtl", Rtl, 2)]
    assert example.window_row.tolist() == [1, 0, 2]
    assert row_of(example, 0) == Table.of(LTR)
    assert row_of(example, 1) == row_of(example, 2) == Table.of(RTL)
    assert example.denominator == 18  # the mean over all scored tokens
    for draw, name in ((coins(True, True, True), "rtl"), (coins(False, False, False), "ltr")):
        assert [group[0] for group in passes(ChooseObjective().example(windows, draw, SPECIALS))] == [name]


def hiding(is_rtl, *hidden):
    """A draw for one window: whether it is read rtl, and the tokens that are read as [MASK]."""
    return Draw({**coins(is_rtl).decisions, "hidden": (torch.arange(6)[None, :, None] == torch.tensor(hidden)).any(-1)})


def test_choose_hides_what_it_reads_and_scores_every_token():
    objective = ChooseObjective(p=Constant(p=0.5), hide=0.4)
    mask = SPECIALS["[MASK]"]
    ltr, rtl = (objective.example(WINDOW, hiding(is_rtl, 1, 5), SPECIALS) for is_rtl in (False, True))
    plain = {way: ChooseObjective().example(WINDOW, coins(way == "rtl"), SPECIALS) for way in ("ltr", "rtl")}
    assert (ltr.inputs == mask).nonzero()[:, 1].tolist() == [2], "token 1; nothing reads token 5, the last one"
    assert (rtl.inputs == mask).nonzero()[:, 1].tolist() == [0, 4], "tokens 1 and 5"
    for way, example in (("ltr", ltr), ("rtl", rtl)):
        assert torch.equal(example.targets, plain[way].targets)
        assert torch.equal(example.loss_weight, plain[way].loss_weight)
        kept = example.inputs != mask
        assert torch.equal(example.inputs[kept], plain[way].inputs[kept])
    drawn = objective.draw(50, 20, generator(0, "draw"), Progress())
    assert drawn["hidden"].sum(1).tolist() == [8] * 50
    assert torch.equal(
        drawn["rtl"], ChooseObjective(p=Constant(p=0.5)).draw(50, 20, generator(0, "draw"), Progress())["rtl"]
    )
    assert objective.evaluation() == ChooseObjective(p=Constant(p=0.5)).evaluation(), "nothing is hidden in evaluation"


def reach(mask):
    """Which slots can influence which through any number of layers: the transitive closure of `may read`."""
    closed = mask.clone()
    for _ in range(len(mask)):
        closed |= (closed.float() @ closed.float()) > 0
    return closed


def broken_laws(objective, example, draw):
    """(law, pass, source, target) for every break of law (a) or (b), and "unseen" for an allowed token no slot can show."""
    result = []
    for group, rows in example.by_group():
        visible = reach(group.sees.mask(example.inputs.shape[1]))
        for row in range(rows.start, rows.stop):
            decisions = draw.of_row(int(example.window_row[row]))
            for slot in example.loss_weight[row].nonzero().flatten().tolist():
                target = int(example.target_source[row, slot])
                sources = set(example.input_source[row][visible[slot]].tolist()) - {NO_SOURCE}
                allowed = {
                    source
                    for source in range(6)
                    if objective.may_inform(torch.tensor(source), torch.tensor(target), group.name, decisions)
                }
                result += [("a", group.name, target, target)] if target in sources else []
                result += [("b", group.name, source, target) for source in sorted(sources - allowed)]
                result += [("unseen", group.name, source, target) for source in sorted(allowed - sources)]
    return result


HONEST = [
    (LtrObjective(), Draw()),
    (LtrObjective(direction_token=False), Draw()),
    (RtlObjective(), Draw()),
    (RtlObjective(direction_token=False), Draw()),
    (BothObjective(), coins(True)),
    (BothObjective(direction_token=False), coins(True)),
    (ChooseObjective(), coins(True)),
    (ChooseObjective(), coins(False)),
    (ChooseObjective(hide=0.4), hiding(True, 1, 5)),
    (ChooseObjective(hide=0.4), hiding(False, 1, 5)),
]


@pytest.mark.parametrize(("objective", "draw"), HONEST)
def test_both_laws_and_nothing_allowed_is_hidden(objective, draw):
    example = objective.example(WINDOW, draw, SPECIALS)
    assert broken_laws(objective, example, draw) == []


@pytest.mark.parametrize(
    ("objective", "allowed"),
    [(LtrObjective(), lambda s, t: s < t), (RtlObjective(), lambda s, t: s > t)],
)
def test_contract_by_hand(objective, allowed):
    index = torch.arange(6)
    may = objective.may_inform(index[:, None], index[None, :], objective.groups()[0], Draw())
    assert may.tolist() == [[allowed(s, t) for t in range(6)] for s in range(6)]


@pytest.mark.parametrize("kind", [BothObjective, ChooseObjective])
def test_mixtures_have_the_contract_of_the_pass(kind):
    index = torch.arange(6)
    may = {name: kind().may_inform(index[:, None], index[None, :], name, coins(True)) for name in ("ltr", "rtl")}
    assert torch.equal(may["rtl"], may["ltr"].T)
    assert int(may["ltr"].sum()) == 15


@pytest.mark.parametrize("sees", [FlippedLowerTriangle(), FlippedLowerTriangle(size=6), Full(), Ltr()])
def test_a_wrong_visibility_breaks_both_laws(sees):
    objective = BothObjective(rtl_sees=sees)
    example = objective.example(WINDOW, coins(True), SPECIALS)
    laws = {(law, name) for law, name, _, _ in broken_laws(objective, example, coins(True))}
    assert ("b", "rtl") in laws
    assert ("a", "rtl") in laws
    assert not any(name == "ltr" for _, name in laws)


def test_the_published_mask_shows_five_of_six_targets_their_own_token():
    objective = BothObjective(rtl_sees=FlippedLowerTriangle())
    broken = broken_laws(objective, objective.example(WINDOW, coins(True), SPECIALS), coins(True))
    assert [target for law, _, _, target in broken if law == "a"] == [1, 2, 3, 4, 5]  # w0 is no input of the rtl pass


MILLION = 1_000_000


def fired(objective, count=MILLION, progress=None):
    draw = objective.draw(count, 6, generator(0, "coins"), progress or Progress())
    return int(draw["rtl"].sum())


@pytest.mark.parametrize("kind", [BothObjective, ChooseObjective])
def test_p_zero_never_fires_and_p_one_always(kind):
    assert fired(kind(p=Constant(p=0.0), granularity="row")) == 0
    assert fired(kind(p=Constant(p=1.0), granularity="row")) == MILLION


@pytest.mark.parametrize("kind", [BothObjective, ChooseObjective])
def test_p_zero_and_one_hold_for_the_extreme_coins(kind, monkeypatch):
    """A coin of exactly 0 comes once in 2^53 draws: too rare to wait for."""
    for coin in (0.0, 1.0 - 2.0**-53):
        monkeypatch.setattr(
            torch, "rand", lambda count, coin=coin, **_: torch.full((count,), coin, dtype=torch.float64)
        )
        assert fired(kind(p=Constant(p=0.0), granularity="row"), 10) == 0
        assert fired(kind(p=Constant(p=1.0), granularity="row"), 10) == 10


@pytest.mark.parametrize("p", [0.001, 0.05, 0.5, 0.999])
def test_p_is_exact(p):
    """Six standard deviations of a binomial; at p = .001 the published p + .001 would miss it thirty times over."""
    spread = (MILLION * p * (1 - p)) ** 0.5
    assert abs(fired(BothObjective(p=Constant(p=p), granularity="row")) - MILLION * p) < 6 * spread


def test_a_batch_has_one_coin_or_one_for_each_window():
    rng = generator(1, "coins")
    objective = BothObjective(p=Constant(p=0.5))
    whole = {int(objective.draw(8, 6, rng, Progress())["rtl"].sum()) for _ in range(50)}
    assert whole == {0, 8}
    by_row = objective.with_(granularity="row")
    assert len({int(by_row.draw(8, 6, rng, Progress())["rtl"].sum()) for _ in range(50)}) > 2


def test_batch_coins_come_with_probability_p():
    objective, rng = BothObjective(p=Constant(p=0.05)), generator(2, "coins")
    heads = sum(bool(objective.draw(4, 6, rng, Progress())["rtl"][0]) for _ in range(20_000))
    assert abs(heads - 1000) < 6 * (20_000 * 0.05 * 0.95) ** 0.5


@pytest.mark.parametrize("kind", [BothObjective, ChooseObjective])
def test_a_draw_has_an_entry_for_each_window(kind):
    for granularity in ("batch", "row"):
        draw = kind(granularity=granularity).draw(5, 6, generator(0, "coins"), Progress())
        assert {name: tuple(decision.shape) for name, decision in draw.decisions.items()} == {"rtl": (5,)}
        assert draw.repeated(9)["rtl"].tolist() == [bool(draw["rtl"][0])] * 9
        assert draw.of_row(3)["rtl"].shape == ()


def test_pass_probabilities_are_what_is_drawn():
    half = Progress(50, 101)
    ramp = Linear(p_start=0.0, p_end=0.1)
    assert LtrObjective().pass_probabilities(half) == {"ltr": 1.0}
    assert RtlObjective().pass_probabilities(half) == {"rtl": 1.0}
    assert BothObjective(p=ramp).pass_probabilities(half) == {"ltr": 1.0, "rtl": pytest.approx(0.05)}
    assert ChooseObjective(p=ramp).pass_probabilities(half) == {"ltr": pytest.approx(0.95), "rtl": pytest.approx(0.05)}
    drawn = fired(ChooseObjective(p=ramp), progress=half)
    assert abs(drawn - 0.05 * MILLION) < 6 * (MILLION * 0.05 * 0.95) ** 0.5


def samples_of(name):
    """Objectives of a kind: with and without direction token, or with more and less hidden."""
    if name == "masked":
        return st.sampled_from(
            [MaskedObjective(), MaskedObjective(rate=0.3), MaskedObjective(hide_answers=False, rate=0.5)]
        )
    if name == "masked-input":
        return st.builds(MaskedInputObjective, direction_token=st.booleans(), hide_answers=st.booleans())
    return st.booleans().map(lambda token: OBJECTIVES[name](direction_token=token))


OF_ANY_WINDOW = [kind for kind in OBJECTIVES if kind != "bottleneck"]  # that one's windows: test_bottleneck.py
OBJECTIVE_SAMPLES = st.sampled_from(OF_ANY_WINDOW).flatmap(samples_of)


@given(
    objective=OBJECTIVE_SAMPLES,
    batch=st.integers(1, 4),
    length=st.integers(1, 9),
    seed=st.integers(0, 1000),
    data=st.data(),
)
@settings(deadline=None)
def test_law_c_only_the_changed_token_changes(objective, batch, length, seed, data):
    """Rebuild with the same Draw after changing one token: its own ids change, and nothing else, not even a length."""
    specials = SpecialTokens(50)
    rng = generator(seed, "windows")
    windows = torch.randint(50, (batch, length), generator=rng)
    chosen = objective.with_(p=Constant(p=0.5), granularity="row") if hasattr(objective, "p") else objective
    draw = chosen.draw(batch, length, rng, Progress())
    before = chosen.example(windows, draw, specials)
    row, source = data.draw(st.integers(0, batch - 1)), data.draw(st.integers(0, length - 1))
    changed = windows.clone()
    changed[row, source] = (changed[row, source] + data.draw(st.integers(1, 49))) % 50
    after = chosen.example(changed, draw, specials)
    assert before.groups == after.groups
    assert before.loss_denominator == after.loss_denominator
    for name in ("input_source", "target_source", "loss_weight", "window_row"):
        assert torch.equal(getattr(before, name), getattr(after, name))
    for name, sources in (("inputs", before.input_source), ("targets", before.target_source)):
        its_own = (sources == source) & (before.window_row == row)[:, None]
        assert torch.equal(getattr(before, name) != getattr(after, name), its_own)


@given(objective=OBJECTIVE_SAMPLES, length=st.integers(1, 9), seed=st.integers(0, 1000))
@settings(deadline=None)
def test_ids_are_those_of_their_sources(objective, length, seed):
    specials = SpecialTokens(50)
    windows = torch.randint(50, (3, length), generator=generator(seed, "windows"))
    draw = objective.draw(3, length, generator(seed, "draw"), Progress())
    example = objective.example(windows, draw, specials)
    for ids, sources in ((example.inputs, example.input_source), (example.targets, example.target_source)):
        named = windows[example.window_row].gather(1, sources.clamp_min(0))
        assert torch.equal(torch.where(sources == NO_SOURCE, ids, named), ids)
        assert bool((ids[sources == NO_SOURCE] >= specials.first_id).all())
    assert bool((example.target_source != NO_SOURCE).all())
    scored = example.loss_weight.sum(1)
    if isinstance(objective, MaskedObjective):
        assert torch.equal(example.loss_weight > 0, example.input_source == NO_SOURCE)
        assert bool((scored >= 1).all()) or not objective.hide_answers
    else:
        assert scored.tolist() == [length - (0 if objective.direction_token else 1)] * len(scored)


def test_masked_in_a_worked_window():
    """a b c d e f with the answers {b, e} hidden: nothing else is scored, nothing hidden informs."""
    objective, specials = MaskedObjective(), SpecialTokens(10)
    windows = Windows(torch.tensor([[0, 1, 2, 3, 4, 5]]), torch.tensor([[0, 1, 0, 0, 1, 0]]).bool())
    drawn = objective.draw(1, 6, generator(0, "draw"), Progress())
    example = objective.example(windows.tokens, windows.decisions(drawn), specials)
    mask = specials["[MASK]"]
    assert example.inputs.tolist() == [[0, mask, 2, 3, mask, 5]]
    assert example.input_source.tolist() == [[0, -1, 2, 3, -1, 5]]
    assert example.targets.tolist() == [[0, 1, 2, 3, 4, 5]]
    assert example.loss_weight.tolist() == [[0, 1, 0, 0, 1, 0]]
    assert example.groups[0].sees == Full()
    index = torch.arange(6)
    informs = objective.may_inform(index[:, None], index[None, :], "masked", windows.decisions(drawn).of_row(0))
    assert informs.tolist() == [[source not in (1, 4)] * 6 for source in range(6)]


def test_the_random_part_of_masked_has_its_exact_size_and_leaves_evaluation_alone():
    objective = MaskedObjective(rate=0.3)
    draw = objective.draw(50, 10, generator(0, "draw"), Progress())
    assert set(draw["hidden"].sum(1).tolist()) == {3}
    assert len({tuple(row) for row in draw["hidden"].tolist()}) > 30
    assert objective.evaluation() == {"masked": MaskedObjective()}
    whole = MaskedObjective(hide_answers=False, rate=0.3)
    assert whole.evaluation() == {"masked": whole}
    with pytest.raises(BadInput, match="no token is hidden"):
        MaskedObjective(hide_answers=False)
