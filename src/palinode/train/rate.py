"""The schedules of the learning rate, as in `Speedrun(steps=200, schedule=palinode.rate.Cosine(warmup_steps=20))`."""

from palinode.train.schedule import Constant, Cosine, ExponentialDecay, PowerDecay, WarmDown

__all__ = ["Constant", "Cosine", "ExponentialDecay", "PowerDecay", "WarmDown"]
