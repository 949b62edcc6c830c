"""A tiny training that every test of this room uses: real parts, 2 ms a step."""

import numpy as np
import torch

from palinode.base.example import SpecialTokens
from palinode.base.seeds import generator
from palinode.data.windows import TrainWindows
from palinode.models.decoder import gpt2, modern
from palinode.objectives import BothObjective
from palinode.objectives.probability import Adaptive
from palinode.train.growth import LengthGrowth, NormAccumulation
from palinode.train.loop import Training
from palinode.train.optim import build_optimizers
from palinode.train.recipe import Gpt2AdamW, Hlb, Speedrun
from palinode.train.schedule import Cosine, PowerDecay

VOCABULARY = 32
WINDOW_TOKENS = 16


def make_training(recipe_name: str, seed: int = 3, **recipe_changes):
    """A decoder with dropout, both directions with adaptive p, two micro-batches, over fixed pseudo-random tokens."""
    tokens = torch.randint(0, VOCABULARY, (4000,), generator=generator(0, "tokens")).numpy().astype(np.uint16)
    specials = SpecialTokens(VOCABULARY)
    if recipe_name == "gpt2-adamw":
        config = gpt2(layers=2, width=16, heads=2, dropout=0.2)
        recipe = Gpt2AdamW(steps=50, batch_windows=4, micro_batches=2, schedule=Cosine(warmup_steps=5))
    elif recipe_name == "hlb-gpt":
        config = gpt2(layers=2, width=16, heads=2, dropout=0.2)
        recipe = Hlb(
            steps=50,
            schedule=PowerDecay(warmup_steps=5),
            batch_windows=2,
            growth=LengthGrowth(start_tokens=4, double_every_steps=7),
            accumulation=NormAccumulation(every_steps=2, gain=1.0, most=5),
        )
    else:
        config = modern(layers=2, width=16, heads=2, dropout=0.2)
        recipe = Speedrun(steps=50, batch_windows=4, micro_batches=2)
    recipe = recipe.with_(**recipe_changes)
    objective = BothObjective(p=Adaptive(rule="difference", ema=0.5), granularity="row")
    model = config.build(specials.vocab_size, WINDOW_TOKENS, seed)
    return Training(
        model=model,
        optimizers=build_optimizers(recipe.optimizer, model, model.parameter_groups()),
        objective=objective,
        recipe=recipe,
        windows=TrainWindows(tokens, WINDOW_TOKENS, seed),
        specials=specials,
        seed=seed,
        device=torch.device("cpu"),
        objective_state=objective.state(),
    )
