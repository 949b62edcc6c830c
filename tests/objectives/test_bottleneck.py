"""The bottleneck as it is written down, its laws by enumeration, what it refuses, and that it is learned through one token."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from palinode import BottleneckObjective, DataConfig, DecoderConfig, EvaluationConfig, Gpt2AdamW, RunSettings, TaskData
from palinode.base.errors import BadInput
from palinode.base.example import NO_SOURCE, Draw, SpecialTokens, Windows
from palinode.base.seeds import generator
from palinode.base.visibility import Bottleneck
from palinode.checks.copies import trainable_copy
from palinode.data.tasks import Compression, Copy, MultiQueryRecall, Reversed
from palinode.evaluate.losses import evaluation_passes
from palinode.models.direction import logits_for, read
from palinode.models.mixers import MIXERS
from palinode.objectives import Progress
from palinode.objectives.loss import weighted_nats

SPECIALS = SpecialTokens(20)
MASK = SPECIALS["[MASK]"]
FORMS = [BottleneckObjective(), BottleneckObjective(sealed=True)]


def marked(window_tokens: int, answers: int, batch: int = 1) -> Draw:
    """Decisions of windows whose last so many tokens are answers."""
    return Draw({"answers": (torch.arange(window_tokens) >= window_tokens - answers).expand(batch, window_tokens)})


def of_task(task, objective, count=3):
    """An Example of a task's sequences."""
    sample = task.sample(count, generator(0, "sequences"))
    windows = Windows(sample.tokens, sample.answers)
    drawn = objective.draw(*windows.tokens.shape, generator(0, "draw"), Progress())
    return objective.example(windows.tokens, windows.decisions(drawn), SpecialTokens(task.vocab_size))


def test_as_written():
    """a b c d e f, of which d, e and f are answers."""
    example = BottleneckObjective().example(torch.arange(6)[None], marked(6, 3), SPECIALS)
    assert example.inputs.tolist() == [[0, 1, 2, MASK, MASK, MASK]]
    assert example.input_source.tolist() == [[0, 1, 2, NO_SOURCE, NO_SOURCE, NO_SOURCE]]
    assert example.targets.tolist() == [[0, 1, 2, 3, 4, 5]]
    assert example.loss_weight.tolist() == [[0, 0, 0, 1, 1, 1]]
    assert [(group.name, group.sees, group.rows) for group in example.groups] == [("bottleneck", Bottleneck(slot=2), 1)]
    sealed = BottleneckObjective(sealed=True).example(torch.arange(6)[None], marked(6, 3), SPECIALS)
    assert sealed.groups[0].sees == Bottleneck(slot=2, sealed=True)


@pytest.mark.parametrize("as_published", [False, True])
def test_the_compression_token_is_the_narrow_place(as_published):
    task = Compression(vocabulary=6, length=5, as_published=as_published)
    example = of_task(task, BottleneckObjective())
    assert example.groups[0].sees == Bottleneck(slot=4)
    assert example.inputs[:, 4].tolist() == [task.vocabulary - 1] * 3
    assert bool((example.inputs[:, 5:] == SpecialTokens(task.vocab_size)["[MASK]"]).all())
    assert example.loss_weight.sum(1).tolist() == [5 if as_published else 4] * 3
    assert torch.equal(example.targets[:, 5:9], example.inputs[:, :4])


@pytest.mark.parametrize("task", [Compression(), Compression(as_published=True), Copy()], ids=repr)
def test_what_stands_in_for_a_task_in_audits_is_what_the_task_marks(task):
    drawn = BottleneckObjective().draw(3, task.length_tokens, generator(0, "draw"), Progress())
    assert torch.equal(drawn["answers"], task.sample(3, generator(0, "sequences")).answers)


@pytest.mark.parametrize("objective", FORMS, ids=repr)
@given(length=st.integers(2, 9), data=st.data())
def test_through_any_number_of_layers_answers_see_what_the_definition_allows(objective, length, data):
    """The tokens that the mask's closure reaches from an answer's slot are those of the contract: none more, none fewer."""
    draw = marked(length, data.draw(st.integers(1, length - 1)))
    example = objective.example(torch.arange(length)[None], draw, SPECIALS)
    reached = example.groups[0].sees.mask(length)
    for _ in range(length):
        reached = (reached.float() @ reached.float()) > 0
    index = torch.arange(length)
    allowed = objective.may_inform(index[:, None], index[None, :], "bottleneck", draw.of_row(0))
    for slot in example.loss_weight[0].nonzero().flatten().tolist():
        sources = set(example.input_source[0][reached[slot]].tolist()) - {NO_SOURCE}
        assert sources == set(allowed[:, slot].nonzero().flatten().tolist())
        assert slot not in sources


@given(length=st.integers(2, 9), batch=st.integers(1, 3), seed=st.integers(0, 1000), data=st.data())
def test_only_the_changed_token_changes(length, batch, seed, data):
    rng = generator(seed, "windows")
    windows = torch.randint(20, (batch, length), generator=rng)
    objective = BottleneckObjective()
    draw = objective.draw(batch, length, rng, Progress())
    row, source = data.draw(st.integers(0, batch - 1)), data.draw(st.integers(0, length - 1))
    changed = windows.clone()
    changed[row, source] = (changed[row, source] + 1) % 20
    before, after = objective.example(windows, draw, SPECIALS), objective.example(changed, draw, SPECIALS)
    assert before.groups == after.groups
    for name, sources in (("inputs", before.input_source), ("targets", before.target_source)):
        its_own = (sources == source) & (before.window_row == row)[:, None]
        assert torch.equal(getattr(before, name) != getattr(after, name), its_own)
    hidden = before.loss_weight > 0
    assert bool((before.inputs[hidden] == MASK).all())


def test_windows_without_a_narrow_place_are_refused():
    uneven = Draw({"answers": torch.tensor([[0, 0, 1, 1], [0, 1, 1, 1]]).bool()})
    inside = Draw({"answers": torch.tensor([[0, 1, 0, 1]]).bool()})
    for draw, windows in ((uneven, 2), (inside, 1), (marked(4, 0), 1), (marked(4, 4), 1)):
        with pytest.raises(BadInput, match="windows that all end with equally many answers and have a token"):
            BottleneckObjective().example(torch.zeros(windows, 4, dtype=torch.long), draw, SPECIALS)
    for task in (MultiQueryRecall(vocabulary=20, length=16), Reversed(of=Compression(vocabulary=6, length=5))):
        with pytest.raises(BadInput, match="a bottleneck needs windows that all end with equally many answers"):
            of_task(task, BottleneckObjective())


def settings(**changes) -> RunSettings:
    small = DecoderConfig(layers=2, width=16, heads=2)
    chosen = {"data": TaskData(task=Compression()), "model": small, "objective": BottleneckObjective()} | changes
    return RunSettings(**chosen, recipe=Gpt2AdamW(), labels="answer", evaluation=EvaluationConfig(labels="answer"))


def test_an_arm_is_scored_through_its_own_pass_alone():
    passes = evaluation_passes(settings().objective, ("ltr", "rtl"))
    assert passes == {"bottleneck": BottleneckObjective()}


def test_text_has_no_answers_to_ask_for():
    with pytest.raises(BadInput, match="bottleneck needs the answers of a task, and text marks none"):
        RunSettings(
            data=DataConfig(), model=DecoderConfig(), objective=BottleneckObjective(), recipe=Gpt2AdamW(), labels="all"
        )


@pytest.mark.parametrize("mixer", [made() for kind, made in MIXERS.items() if kind != "attention"], ids=repr)
def test_a_mixer_without_explicit_masks_is_refused_before_anything_is_built(mixer):
    """A long convolution sums over all that came before, also one with weights for both sides: no option would help."""
    model = DecoderConfig(layers=2, width=16, heads=2, mixer=mixer)
    with pytest.raises(BadInput, match=f"the mixer {mixer.kind} cannot be read .*: it has no form for explicit masks"):
        settings(model=model)
    with pytest.raises(BadInput, match=f"the mixer {mixer.kind} cannot read bottleneck: it has no form for explicit"):
        read(model.build(16, 9, 0), of_task(Compression(vocabulary=5, length=5), BottleneckObjective()))


def test_without_positions_every_answer_is_the_same():
    model = DecoderConfig(layers=2, width=16, heads=2, position="none").build(SpecialTokens(6).vocab_size, 9, 0)
    logits = logits_for(model, of_task(Compression(vocabulary=6, length=5), BottleneckObjective()))
    assert torch.allclose(logits[:, 5:], logits[:, 5:6], atol=1e-5)


def accuracy_after(objective, steps: int) -> float:
    """Answers that a two-layer model gets right after so many steps on two tokens of four kinds; it starts with large weights."""
    task = Compression(vocabulary=5, length=3)
    specials, rng = SpecialTokens(task.vocab_size), generator(0, "learning")
    built = DecoderConfig(layers=2, width=64, heads=2).build(specials.vocab_size, task.length_tokens, 0)
    model = trainable_copy(built, specials.vocab_size, rng)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    hits = []
    for _ in range(steps):
        sample = task.sample(64, rng)
        example = objective.example(sample.tokens, Draw({"answers": sample.answers}), specials)
        states = read(model, example)
        hits.append(float(model.logits(states).argmax(-1).eq(example.targets)[:, task.length :].float().mean()))
        optimizer.zero_grad()
        (weighted_nats(example, states, model.logits_map()).total / example.denominator).backward()
        optimizer.step()
    return sum(hits[-10:]) / 10


@pytest.mark.nightly
def test_it_is_learned_through_one_token_and_not_when_that_is_sealed():
    """Chance is 0.25, and 1280 answers are scored."""
    assert accuracy_after(BottleneckObjective(), 80) > 0.95
    assert accuracy_after(BottleneckObjective(sealed=True), 80) == pytest.approx(0.25, abs=0.05)
