"""Time to write 200 tokens, with the state that a model keeps and without it.

The models are untrained, because weights do not change the work.
Without the state, each new token costs a pass over the whole row. Both ways go through `palinode.use.generate.generate`, with the
same random numbers, so the texts must be equal. Rows are long enough for the whole text: beyond a model's longest row every token
costs a pass either way. CPU seconds, one thread. The ways are timed one after the other, and the ratio is the median over such
pairs.
Run: python benchmarks/generation.py
"""

from __future__ import annotations

import time
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import NamedTuple
from unittest.mock import patch

import torch

from machine import machine_facts
from palinode import Gpt2AdamW, LtrObjective, RunSpec
from palinode.base import fsio
from palinode.base.example import SpecialTokens
from palinode.base.seeds import generator
from palinode.data.source import prepare
from palinode.data.task_store import TaskData
from palinode.data.tasks import Copy
from palinode.models import EncoderDecoderConfig, LatentConfig, ModelConfig, gpt2, modern
from palinode.models.base import LanguageModel
from palinode.spec.trained import Trained
from palinode.use import generate as generation
from palinode.use.generate import generate

RESULT = Path(__file__).parent / "results" / "generation.json"
SPECIALS = SpecialTokens(256)
PROMPT_TOKENS, NEW_TOKENS, LONGEST_ROW = 16, 200, 256
TARGET = 5.0


@dataclass(frozen=True)
class Case:
    """A model, how many texts it writes at once, and how many pairs are timed."""

    name: str
    config: ModelConfig
    rows: int
    pairs: int


class Way(NamedTuple):
    """How a text is written.

    Attributes:
        reread: a pass over the whole row for every token; otherwise the model's state is kept.
        onednn: oneDNN stays on while single slots are read.
    """

    reread: bool = False
    onednn: bool = False


WAYS = (Way(), Way(reread=True), Way(onednn=True))
TWO_STACKS = EncoderDecoderConfig(encoder_layers=2, decoder_layers=2, width=128, heads=4)
# The models of experiments/encdec.py at laptop size. They are so narrow that calls cost more time than arithmetic.
NARROW_DECODER = gpt2(layers=8, width=69, heads=3)
NARROW_STACKS = EncoderDecoderConfig(encoder_layers=4, decoder_layers=4, width=64, heads=4)
CASES = (
    Case("gpt2 4 x 128", gpt2(layers=4, width=128, heads=4), 1, 5),
    Case("gpt2 4 x 128", gpt2(layers=4, width=128, heads=4), 8, 3),
    Case("modern 4 x 128", modern(layers=4, width=128, heads=4), 1, 5),
    Case("encoder-decoder 2 + 2 x 128", TWO_STACKS, 1, 5),
    Case("gpt2 8 x 69", NARROW_DECODER, 1, 5),
    Case("encoder-decoder 4 + 4 x 64", NARROW_STACKS, 1, 5),
    Case("latent 8 x 256", LatentConfig(layers=8, width=256), 1, 3),
)


def main() -> None:
    torch.set_num_threads(1)
    rows = [measure(case) for case in CASES]
    settings = {
        "prompt_tokens": PROMPT_TOKENS,
        "new_tokens": NEW_TOKENS,
        "target_ratio": TARGET,
        "machine": machine_facts(),
    }
    fsio.write_json(RESULT, {"rows": rows, **settings})
    for row in rows:
        print(f"{row['case']}, {row['rows']} rows: {row['ratio']['median']:.2f} times faster")  # type: ignore[index]


def measure(case: Case) -> dict[str, object]:
    """Tokens a second of each way, summed over all rows, and the ratio of each pair."""
    model = model_without_zeros(case.config)
    for way in WAYS:
        write(model, case.rows, 5, **way._asdict())
    pairs = []
    for index in range(case.pairs):
        seconds, texts = {}, []
        for way in WAYS if index % 2 else reversed(WAYS):
            started = time.process_time()
            texts.append(write(model, case.rows, NEW_TOKENS, **way._asdict()))
            seconds[way] = time.process_time() - started
        assert all(torch.equal(texts[0], text) for text in texts), "the text differs with the state"
        pairs.append([seconds[way] for way in WAYS])
    tokens = case.rows * NEW_TOKENS
    return {
        "case": case.name,
        "rows": case.rows,
        "pairs": case.pairs,
        "state_tokens_per_second": spread([tokens / state for state, _, _ in pairs]),
        "reread_tokens_per_second": spread([tokens / reread for _, reread, _ in pairs]),
        "ratio": spread([reread / state for state, reread, _ in pairs]),
        "onednn_ratio": spread([onednn / state for state, _, onednn in pairs]),
    }


def write(
    model: LanguageModel, rows: int, new_tokens: int, *, reread: bool = False, onednn: bool = False
) -> torch.Tensor:
    spec = RunSpec(
        data=TaskData(task=Copy()), model=NARROW_DECODER, objective=LtrObjective(), recipe=Gpt2AdamW(), seed=0
    )
    trained = Trained(spec, model, SPECIALS, prepare(spec.data))
    with ExitStack() as patched:
        if reread:
            patched.enter_context(patch.object(type(model), "can_step", lambda self: False))
        if onednn:
            patched.enter_context(patch.object(generation, "_without_onednn", nullcontext))
        return generate(trained, range(PROMPT_TOKENS), new_tokens, 1, rows=rows)


def model_without_zeros(config: ModelConfig) -> LanguageModel:
    """The model with no matrix at zero, so that a wrong state would change the text."""
    model = config.build(SPECIALS.vocab_size, LONGEST_ROW, 0).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2:
                noise = torch.randn(parameter.shape, generator=generator(0, "opened", name))
                parameter.copy_(noise / parameter.shape[1] ** 0.5)
    return model


def spread(values: list[float]) -> dict[str, float]:
    return {"median": median(values), "lowest": min(values), "highest": max(values)}


if __name__ == "__main__":
    main()
