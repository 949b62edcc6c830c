import pytest

from palinode.base.decision import Decision
from palinode.data.config import DataConfig
from palinode.models.decoder import DecoderConfig
from palinode.objectives import LtrObjective
from palinode.objectives.directional import BothObjective
from palinode.spec.experiment import Arm, Experiment, Scale, Size
from palinode.spec.run_spec import RunSettings
from palinode.train.recipe import Gpt2AdamW


@pytest.fixture
def experiment() -> Experiment:
    base = RunSettings(
        data=DataConfig(window_tokens=32),
        model=DecoderConfig(layers=2, width=32, heads=2),
        objective=LtrObjective(),
        recipe=Gpt2AdamW(steps=200, batch_windows=4),
    )
    return Experiment(
        name="tiny",
        question="Does it help?",
        base=base,
        arms=(Arm(name="ltr"), Arm(name="both", change={"objective": BothObjective(), "objective.p.p": 0.25})),
        scales=(Scale(name="d2"), Scale(name="d3", change={"model.layers": 3})),
        seeds=(1, 2, 3),
        decision=Decision(baseline="ltr"),
        sizes={
            "smoke": Size(change={"recipe.steps": 120, "recipe.schedule.warmup_steps": 5}, scales=("d2",), seeds=(7,)),
            "long": Size(change={"recipe.steps": 500}),
        },
    )
