"""C3 on a small recurrent model with its own trainer and evaluator: the honest pair passes, every planted defect is named."""

import hashlib
import math
import random
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from palinode.base.seeds import generator
from palinode.checks.determinism import (
    check_batching,
    check_determinism,
    check_leaves_no_trace,
    check_repeats,
    check_training_undisturbed,
    state_hashes,
)

VOCABULARY, WINDOW, FULL_WINDOWS = 16, 8, 20


@dataclass
class Sums:
    tokens_scored: int = 0
    nats_sum: float = 0.0


@dataclass
class Result:
    scores: dict = field(default_factory=lambda: {"ltr": Sums()})
    window_nats: dict = field(default_factory=lambda: {"ltr": []})


class Reader(nn.Module):
    """A causal model with dropout: embedding, recurrence, head."""

    def __init__(self):
        super().__init__()
        rng = generator(0, "init")
        self.embedding = nn.Embedding(VOCABULARY, 12)
        self.recurrence = nn.GRU(12, 12, batch_first=True)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(12, VOCABULARY)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=rng) * 0.5)

    def forward(self, tokens):
        return self.head(self.drop(self.recurrence(self.embedding(tokens))[0]))


def split():
    """20 windows of 8 and one of 3."""
    rng = generator(1, "split")
    windows = [torch.randint(VOCABULARY, (WINDOW,), generator=rng) for _ in range(FULL_WINDOWS)]
    return [*windows, torch.randint(VOCABULARY, (3,), generator=rng)]


def batches(windows, size):
    """Consecutive windows of one length, at most `size` of them."""
    batch = []
    for window in windows:
        if batch and (len(batch) == size or len(batch[0]) != len(window)):
            yield torch.stack(batch)
            batch = []
        batch.append(window)
    yield torch.stack(batch)


def nats_of(model, batch):
    logits = model(batch[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="none").view(len(batch), -1)


class Evaluator:
    """Sum over sum in eval mode; subclasses break one thing each."""

    def __init__(self, model):
        self.model = model

    def __call__(self, batch_windows=None, order=None):
        windows = split()
        windows = [windows[i] for i in order] if order is not None else windows
        was_training = self.model.training
        self.before()
        result = Result()
        with torch.no_grad():
            for batch in batches(self.chosen(windows), batch_windows or len(windows)):
                self.add(result, nats_of(self.model, batch).double())
        self.after(was_training)
        return self.finished(result)

    def before(self):
        self.model.eval()

    def after(self, was_training):
        self.model.train(was_training)

    def chosen(self, windows):
        return windows

    def add(self, result, nats):
        result.scores["ltr"].nats_sum += float(nats.sum())
        result.scores["ltr"].tokens_scored += nats.numel()
        result.window_nats["ltr"] += nats.sum(1).tolist()

    def finished(self, result):
        return result


class DrawsWindowsGlobally(Evaluator):
    """M35: new random windows at every evaluation, from the global generator."""

    def chosen(self, windows):
        return [windows[int(i)] for i in torch.randint(FULL_WINDOWS, (len(windows),))]


class DrawsOneNumber(Evaluator):
    """Scores all windows, but draws a number on the way."""

    def __init__(self, model, draw):
        super().__init__(model)
        self.draw = draw

    def before(self):
        super().before()
        self.draw()


class LeavesEvalMode(Evaluator):
    """M36: the model stays in eval mode, so the next steps train without dropout."""

    def after(self, was_training):
        pass


class KeepsDropout(Evaluator):
    """M36: dropout is active while evaluating."""

    def before(self):
        self.model.train()


class ReordersWindows(Evaluator):
    """M37: reads in an order of its own, as a training loader would, and reports in that order."""

    calls = 0

    def chosen(self, windows):
        self.calls += 1
        rng = np.random.default_rng(self.calls)
        return [windows[i] for i in rng.permutation(FULL_WINDOWS)] + windows[FULL_WINDOWS:]


class MasksInputs(Evaluator):
    """M37: evaluates with 15 % of the inputs masked, one set of positions for each batch."""

    def __call__(self, batch_windows=None, order=None):
        self.rng = generator(0, "masks")
        return super().__call__(batch_windows, order)

    def chosen(self, windows):
        return [torch.where(torch.rand(len(w), generator=self.rng) < 0.15, 0, w) for w in windows]


class MeansOfMeans(Evaluator):
    """M40 in an evaluator: averages the batches' means."""

    def add(self, result, nats):
        self.means = [*getattr(self, "means", []), float(nats.mean())]
        super().add(result, nats)

    def finished(self, result):
        result.scores["ltr"].nats_sum = float(np.mean(self.means)) * result.scores["ltr"].tokens_scored
        self.means = []
        return result


class DropsLastWindow(Evaluator):
    """Leaves out a short last batch, but only when it is short."""

    def chosen(self, windows):
        return windows

    def __call__(self, batch_windows=None, order=None):
        result = super().__call__(batch_windows, order)
        if batch_windows == 7:
            result.window_nats["ltr"].pop()
        return result


class ChangesWeights(Evaluator):
    """Trains on what it evaluates, by one last bit."""

    def after(self, was_training):
        super().after(was_training)
        with torch.no_grad():
            self.model.head.bias[0] = torch.nextafter(self.model.head.bias[0], torch.tensor(9.0))


def fresh():
    return Reader()


def trainer(evaluator_of):
    """(steps, evaluate?) -> hashes; batches and dropout come from torch's global generator, as in many trainers."""

    def train(steps, evaluating):
        with torch.random.fork_rng():
            torch.manual_seed(7)
            model = fresh().train()
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
            evaluate = evaluator_of(model)
            for _ in range(steps):
                nats_of(model, torch.randint(VOCABULARY, (4, WINDOW))).mean().backward()
                optimizer.step()
                optimizer.zero_grad()
                if evaluating:
                    evaluate()
            weights = b"".join(p.detach().numpy().tobytes() for p in model.parameters())
            next_batch = torch.randint(VOCABULARY, (4, WINDOW)).numpy().tobytes()
        return {name: hashlib.sha256(x).hexdigest() for name, x in (("weights", weights), ("next batch", next_batch))}

    return train


def test_honest_evaluation_passes_every_check():
    model = fresh().train()
    optimizer = torch.optim.AdamW(model.parameters())
    nats_of(model, split()[0][None]).mean().backward()
    optimizer.step()
    findings = check_determinism(Evaluator(model), model, [optimizer], trainer(Evaluator))
    assert [finding.check for finding in findings] == [
        "C3.repeats",
        "C3.leaves_no_trace",
        "C3.training_undisturbed",
        "C3.batching",
    ]
    assert {
        finding.check: (finding.outcome, finding.message) for finding in findings if finding.outcome != "pass"
    } == {}


def test_m35_global_windows_are_caught_three_times():
    model = fresh()
    assert check_repeats(DrawsWindowsGlobally(model)).outcome == "fail"
    trace = check_leaves_no_trace(DrawsWindowsGlobally(model), model)
    assert (trace.outcome, "generator.torch" in trace.message) == ("fail", True)
    undisturbed = check_training_undisturbed(trainer(DrawsWindowsGlobally))
    assert (undisturbed.outcome, "weights" in undisturbed.message) == ("fail", True)


@pytest.mark.parametrize(
    ("name", "draw"),
    [
        ("generator.torch", lambda: torch.rand(1)),
        ("generator.numpy", lambda: np.random.random()),
        ("generator.python", random.random),
    ],
)
def test_one_number_from_any_global_generator_is_named(name, draw):
    model = fresh()
    finding = check_leaves_no_trace(DrawsOneNumber(model, draw), model)
    assert finding.outcome == "fail"
    assert finding.numbers["states_changed"] == 1
    assert name in finding.message


def test_m36_a_model_left_in_eval_mode_is_named():
    model = fresh().train()
    finding = check_leaves_no_trace(LeavesEvalMode(model), model)
    assert finding.outcome == "fail"
    assert "training flag of drop" in finding.message
    assert check_training_undisturbed(trainer(LeavesEvalMode)).outcome == "fail"
    assert model.training  # the check put the flags back


def test_m36_dropout_in_evaluation_gives_other_sums():
    finding = check_repeats(KeepsDropout(fresh()))
    assert finding.outcome == "fail"
    assert "ltr nats_sum" in finding.message


def test_changed_weights_are_named():
    model = fresh()
    finding = check_leaves_no_trace(ChangesWeights(model), model)
    assert finding.outcome == "fail"
    assert "model.head.bias" in finding.message


@pytest.mark.parametrize("defect", [ReordersWindows, MasksInputs, MeansOfMeans, DropsLastWindow])
def test_m37_batching_must_not_matter(defect):
    finding = check_batching(defect(fresh()))
    assert finding.outcome == "fail", finding.message


def test_windows_that_cannot_be_told_apart_tell_nothing():
    class TwoWindows(Evaluator):
        def chosen(self, windows):
            return windows[:2]

    blind = fresh()
    nn.init.zeros_(blind.head.weight)
    nn.init.zeros_(blind.head.bias)  # a zero head: ln V for every token, whatever is done to the inputs
    for evaluate in (TwoWindows(fresh()), Evaluator(blind), KeepsDropout(blind)):
        for finding in (check_batching(evaluate), check_repeats(evaluate)):
            assert (finding.outcome, "head that is not zero" in finding.message) == ("could_not_tell", True)


def test_not_a_number_is_a_difference():
    model = fresh()
    with torch.no_grad():
        model.head.bias.fill_(math.nan)
    assert check_batching(Evaluator(model)).outcome == "fail"


def test_a_training_that_never_moves_tells_nothing():
    finding = check_training_undisturbed(lambda steps, evaluating: {"weights": "same"})
    assert finding.outcome == "could_not_tell"


def test_the_check_itself_leaves_no_trace():
    model = fresh().train()
    model.drop.eval()  # mixed flags
    before = state_hashes(model)
    check_leaves_no_trace(Evaluator(model), model)
    assert state_hashes(model) == before


def test_state_hashes_see_the_last_bit_of_every_part():
    model = fresh()
    optimizer = torch.optim.AdamW(model.parameters())
    nats_of(model, split()[0][None]).mean().backward()
    optimizer.step()
    before = state_hashes(model, [optimizer])
    state = optimizer.state[model.head.bias]
    state["exp_avg"][0] = torch.nextafter(state["exp_avg"][0], torch.tensor(9.0))
    after = state_hashes(model, [optimizer])
    assert [name for name in before if before[name] != after[name]] == ["optimizer0.state"]
