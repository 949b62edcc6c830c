"""What a user's own part lacks or gives wrong is said in one line that names it, with exit code 2: it is no bug of the program."""

from pathlib import Path

import pytest

HEAD = """
import torch
from torch import nn

from palinode import (
    Arm, DataConfig, Decision, EvaluationConfig, Experiment, LtrObjective, Objective, RunSettings, Speedrun, TaskData, gpt2,
)
from palinode.data.tasks.base import Sample, Task
from palinode.models.cost import LayerCost
from palinode.models.mixers.base import Mixer, MixerConfig

BASE = {
    "data": DataConfig(corpus="text.txt", window_tokens=16, split="contiguous"),
    "model": gpt2(layers=1, width=16, heads=2),
    "objective": LtrObjective(),
    "labels": "all",
}


def experiment_of(**parts):
    return Experiment(
        name="own",
        question="What does it say?",
        base=RunSettings(
            **{**BASE, **parts},
            recipe=Speedrun(steps=4, batch_windows=2),
            evaluation=EvaluationConfig(max_tokens=100, directions=("ltr",)),
        ),
        arms=(Arm(name="one"), Arm(name="two", change={"recipe.steps": 5})),
        seeds=(1,),
        decision=Decision(baseline="one", equal="window_tokens"),
    )


class Eight(Task):
    @property
    def vocab_size(self):
        return 8

    @property
    def length_tokens(self):
        return 12

    def legal_answers(self):
        return torch.arange(8)

    def sample(self, count, rng):
        tokens = torch.randint(0, 8, (count, 12), generator=rng)
        return Sample(tokens, torch.zeros_like(tokens, dtype=torch.bool))


class Averaged(Mixer):
    def __init__(self, place):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(place.width))

    def forward(self, x, reading):
        return x * self.gain

    def cost(self, slots, pairs):
        return LayerCost(0.0, 0.0, 0)
"""
OBJECTIVE = "class Own(LtrObjective):\n    {}\n\n\nexperiment = experiment_of(objective=Own())\n"
MIXER = (
    "class Own(MixerConfig):\n    {}\n\n\n"
    "experiment = experiment_of(model=gpt2(layers=1, width=16, heads=2).with_(position='none', mixer=Own()))\n"
)
TASK = "class Own(Eight):\n    {}\n\n\nexperiment = experiment_of(data=TaskData(task=Own()){})\n"
CASES = {
    "no example": (
        "class Own(Objective):\n    pass\n\n\nexperiment = experiment_of(objective=Own())\n",
        "Own must define example(",
    ),
    "no Example": (
        OBJECTIVE.format("def example(self, windows, draw, specials):\n        return None"),
        "example of user:Own returns NoneType",
    ),
    "no slots": (
        OBJECTIVE.format(
            "def example(self, windows, draw, specials):\n        return super().example(windows[:, :0], draw, specials)"
        ),
        "rows without slots",
    ),
    "a weight that is no number": (
        OBJECTIVE.format(
            "def example(self, windows, draw, specials):\n"
            "        made = super().example(windows, draw, specials)\n"
            "        return dataclasses.replace(made, loss_weight=made.loss_weight * float('nan'))"
        ).replace("class Own", "import dataclasses\n\n\nclass Own", 1),
        "loss_weight that is no finite number",
    ),
    "no build": (MIXER.format("pass"), "Own must define build(place)"),
    "a parameter without start": (
        MIXER.format("def build(self, place):\n        return Averaged(place)"),
        "does not give gain its first values",
    ),
    "a layer of torch": (
        MIXER.format(
            "def build(self, place):\n        mixer = Averaged(place)\n        mixer.gain = None\n"
            "        mixer.map = nn.Linear(place.width, place.width)\n        return mixer"
        ),
        "no rule gives weight of Linear its first values",
    ),
    "ids beyond the vocabulary": (
        TASK.format("@property\n    def vocab_size(self):\n        return 4", ""),
        "ids of user:Own go from 0 to 7, its vocab_size is 4",
    ),
    "no Sample": (
        TASK.format("def sample(self, count, rng):\n        return (1, 2)", ""),
        "sample of user:Own gives tuple",
    ),
    "no answers": (TASK.format("pass", ", labels='answer'"), "user:Own marks no answers"),
}


@pytest.mark.parametrize(("text", "message"), CASES.values(), ids=CASES.keys())
def test_it_is_one_line_that_names_the_part(palinode, text, message):
    Path("own.py").write_text(HEAD + "\n\n" + text)
    output = palinode("plan", "own.py", "--no-measure")
    assert output.code == 2, output.err
    [line] = output.err.splitlines()
    assert line.startswith("own.py")
    assert message in line
