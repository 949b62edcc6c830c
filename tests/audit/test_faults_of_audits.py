"""Faults of audits by kind: honest models that were accused, and defects that no check saw."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from palinode import audit
from palinode.audit import CheckOptions, FlowSettings, StepwiseSettings
from palinode.audit.any_model import QUICK, QUICK_CHECKS
from palinode.audit.trainer_bench import TrainerBench
from palinode.base.example import SpecialTokens
from palinode.checks.aggregation import check_every_token, check_sum_over_sum
from palinode.checks.budget import RunBudget, check_counters
from palinode.checks.contamination import BYTE, check_contamination, check_training_stream
from palinode.data.source import prepare
from palinode.objectives import LtrObjective
from palinode.spec.load import load

ROOT = Path(__file__).parents[2]
IDS, WINDOW = 64, 16
# The least that C1 measures, for models that are slow.
LEAST = FlowSettings(
    lengths=(),
    gains=(),
    draws=1,
    train_passes=0,
    picture_tokens=8,
    sampled_sources_of_used=16,
    beyond=False,
    ids_tokens=0,
)
FLOW = FlowSettings(lengths=(2, 3, 33), gains=(), draws=1, train_passes=1, picture_tokens=8, sampled_sources_of_used=16)


class Gpt(nn.Module):
    """One causal attention block; `extra(ids)` adds integers that a second table embeds, `far` what a slot sees ahead."""

    def __init__(self, vocab_size=IDS, width=16, extra=None, ahead=lambda slots: 0, longest=160):
        super().__init__()
        self.tokens, self.places, self.types = (nn.Embedding(n, width) for n in (vocab_size, longest, longest))
        self.qkv, self.out, self.head = (
            nn.Linear(width, 3 * width),
            nn.Linear(width, width),
            nn.Linear(width, vocab_size),
        )
        self.extra, self.ahead = extra, ahead

    def forward(self, ids):
        slots = ids.shape[1]
        x = self.tokens(ids) + self.places(torch.arange(slots))
        if self.extra is not None:
            x = x + self.types(self.extra(ids))
        q, k, v = self.qkv(x).chunk(3, -1)
        mask = torch.ones(slots, slots, dtype=torch.bool).tril(self.ahead(slots))
        return self.head(x + self.out(nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)))


def check(model, *, checks=("C1",), vocab_size=IDS, window=WINDOW, **options):
    options = CheckOptions(**{"flow": FLOW, **options})
    return audit.check(model, vocab_size=vocab_size, window_tokens=window, checks=checks, options=options)


def of(report, name):
    return next(finding for finding in report.findings if finding.check == name)


def transformer(name, **options):
    """A small causal model of the library, with random weights."""
    library = pytest.importorskip("transformers")
    common = {"vocab_size": IDS, "hidden_size": 32, "num_hidden_layers": 2}
    attention = {"num_attention_heads": 2, "intermediate_size": 64, "max_position_embeddings": 160}
    kinds = {
        "bert": ("BertLMHeadModel", "BertConfig", {**attention, "is_decoder": True}),
        "roformer": ("RoFormerForCausalLM", "RoFormerConfig", {**attention, "embedding_size": 32, "is_decoder": True}),
        "mixtral": (
            "MixtralForCausalLM",
            "MixtralConfig",
            {**attention, "num_key_value_heads": 1, "num_local_experts": 4},
        ),
        "rwkv": ("RwkvForCausalLM", "RwkvConfig", {"attention_hidden_size": 32, "intermediate_size": 64}),
        "mamba2": (
            "Mamba2ForCausalLM",
            "Mamba2Config",
            {"state_size": 16, "num_heads": 4, "head_dim": 16, "n_groups": 1, "chunk_size": 16},
        ),
    }
    model, config, own = kinds[name]
    torch.manual_seed(0)
    return getattr(library, model)(getattr(library, config)(**{**common, **own, **options}))


# honest models


@pytest.mark.parametrize("name", ["bert", "roformer"])
def test_token_types_of_zeros_are_no_token_ids(name):
    assert check(transformer(name), window=32, checks=("C1", "C6")).outcome == "pass"


@pytest.mark.parametrize("extra", [torch.zeros_like, lambda ids: (ids == 0).cumsum(1)], ids=["types", "documents"])
@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_integers_that_are_no_token_ids_are_not_taken_for_them(extra, seed):
    assert check(Gpt(extra=extra), seed=seed).outcome == "pass"


def test_the_gradient_still_sees_a_leak():
    assert of(check(Gpt(ahead=lambda slots: 1)), "C1.gradient").outcome == "fail"


@pytest.mark.parametrize("name", ["mamba2", "rwkv"])
def test_influence_that_decays_is_measured_and_said(name):
    options = {"use_cache": False} if name == "rwkv" else {}
    control = of(check(transformer(name, **options), window=32, flow=LEAST), "C1.two-sided")
    assert control.outcome == "pass"
    assert "influence decays with distance" in control.message
    assert "reach_tokens" not in control.message


def test_a_model_that_refuses_a_length_in_train_mode_is_measured_in_eval_mode():
    class Chunked(Gpt):
        def forward(self, ids):
            if self.training and ids.shape[1] % 8:
                raise ValueError("the length must be a multiple of 8")
            return super().forward(ids)

    report = check(Chunked())
    assert report.outcome == "pass"
    assert of(report, "C1.perturbation").numbers["lengths_refused_in_train_mode"] == "8"
    assert check(Chunked(ahead=lambda slots: 1)).outcome == "fail"


def test_influence_that_ends_at_once_is_no_decay():
    class Near(Gpt):
        def forward(self, ids):
            x = self.tokens(ids)
            return self.head(x + self.out(nn.functional.pad(x, (0, 0, 3, 0))[:, :-3]))

    control = of(check(Near()), "C1.two-sided")
    assert control.outcome == "could_not_tell"
    assert "reach_tokens" in control.message


def test_rows_that_are_mixed_are_a_finding():
    mixed = of(check(transformer("rwkv")), "C1.neighbours")
    assert mixed.outcome == "fail"
    assert "rows of a batch influence each other" in mixed.message


@pytest.mark.parametrize("double", [False, True])
def test_an_operation_without_float64_makes_the_arithmetic_coarse(double):
    model = transformer("mixtral")
    report = check(model.double() if double else model, checks=("C1", "C6"))
    assert report.outcome in ("pass", "could_not_tell")
    assert of(report, "C6.generation").outcome == "pass"


# short windows of text


def words(seed, count):
    rng = np.random.default_rng(seed)
    vocabulary = np.array(
        ["".join(chr(97 + c) for c in np.random.default_rng(i).integers(26, size=2 + i % 7)) for i in range(400)]
    )
    frequency = 1 / np.arange(1, 401)
    return np.frombuffer(" ".join(rng.choice(vocabulary, count, p=frequency / frequency.sum())).encode(), np.uint8)


@pytest.mark.parametrize("window", [8, 12, 16, 32])
def test_short_windows_that_recur_naturally_do_not_fail(window):
    findings = check_contamination(words(0, 60_000), {"validation": words(1, 6000)}, window_tokens=window, unit=BYTE)
    assert not [finding.check for finding in findings if finding.outcome == "fail"]
    exact = next(finding for finding in findings if finding.check == "C4.exact_windows")
    assert exact.outcome == "pass"


@pytest.mark.parametrize("window", [40, 64, 90])
def test_windows_that_overlap_by_half_fail_below_a_hundred_bytes(window):
    text = words(2, 40_000)
    starts = np.arange(0, len(text) - window, window // 2)
    held = np.arange(len(starts)) % 10 == 0  # no whole window is in both parts
    rows = np.stack([text[start : start + window] for start in starts])
    findings = check_contamination(
        rows[~held].ravel(), {"validation": rows[held].ravel()}, window_tokens=window, unit=BYTE
    )
    assert next(finding for finding in findings if finding.check == "C4.half_windows").outcome == "fail"


def test_below_its_power_the_check_could_not_tell():
    findings = check_contamination(words(0, 60_000), {"validation": words(1, 6000)}, window_tokens=6, unit=BYTE)
    assert next(finding for finding in findings if finding.check == "C4.half_windows").outcome == "could_not_tell"


def rows_of(first, end, times=1):
    """Rows of one template, each `times` times."""
    rows = [f"The boat went down the river slowly and number {n} was first.\n" for n in range(first, end)] * times
    np.random.default_rng(first).shuffle(rows)
    return np.frombuffer("".join(rows).encode(), np.uint8)


def test_rows_of_a_template_are_not_accused():
    """Ten validation rows: windows recur by half, and n-grams of 50 bytes by a fifth, with nothing copied."""
    findings = check_contamination(rows_of(10, 200), {"validation": rows_of(0, 10)}, window_tokens=32, unit=BYTE)
    outcomes = {finding.check: finding.outcome for finding in findings}
    assert outcomes["C4.exact_windows"] == outcomes["C4.longest_run"] == "pass"
    assert outcomes["C4.ngram_overlap"] == "could_not_tell"


def test_a_text_that_repeats_itself_excuses_no_copies():
    text = words(2, 20_000)
    twice = np.concatenate([text, text[::-1], text])
    findings = check_contamination(twice, {"validation": text[:4000]}, window_tokens=64, unit=BYTE)
    assert {f.outcome for f in findings if f.check in ("C4.ngram_overlap", "C4.exact_windows")} == {"fail"}


# what training reads


def test_windows_of_validation_in_training_are_seen():
    train, validation = words(3, 20_000), words(4, 2000)
    honest = train[: 64 * 500].reshape(500, 64)
    assert check_training_stream(honest, train).outcome == "pass"
    mixed = np.concatenate([honest[:490], validation[:640].reshape(10, 64)])
    finding = check_training_stream(mixed, train)
    assert finding.outcome == "fail"
    assert "10 of 500 windows" in finding.message


def test_micro_batches_that_read_the_same_windows_are_seen():
    train = words(3, 20_000)
    rows = train[: 64 * 8].reshape(8, 64)
    assert check_training_stream(rows, train, parts=[rows[:4], rows[4:]]).outcome == "pass"
    same = np.concatenate([rows[:4], rows[:4]])
    finding = check_training_stream(same, train, parts=[rows[:4], rows[:4]])
    assert finding.outcome == "fail"
    assert "the same windows" in finding.message


# what is evaluated and counted


def test_dropped_and_repeated_targets_are_seen():
    specials, windows = SpecialTokens(IDS), torch.arange(8)[None]
    whole = LtrObjective().example(windows, LtrObjective().draw(1, 8, torch.Generator(), None), specials)
    assert check_every_token([whole], [(0, 8)]).outcome == "pass"
    weight = whole.loss_weight.clone()
    weight[0, 5] = 0
    dropped = check_every_token([replace(whole, loss_weight=weight)], [(0, 8)])
    assert dropped.outcome == "fail"
    assert "the first is token 5" in dropped.message
    source = whole.target_source.clone()
    source[0, 5] = 4
    repeated = check_every_token([replace(whole, target_source=source)], [(0, 8)])
    assert repeated.outcome == "fail"


def test_a_pass_that_is_read_and_not_counted_is_seen():
    counters = {"tokens_read": 51_200, "tokens_scored": 52_992, "tokens_scored_ltr": 51_200, "tokens_scored_rtl": 1792}
    finding = check_counters([RunBudget("both", "base", 1, counters=counters)])
    assert finding.outcome == "fail"
    assert "read only 51200" in finding.message


# leaks that were missed


@pytest.mark.parametrize("longest_honest", [15, 16, 31, 66, 100])
def test_a_leak_beyond_a_length_is_seen(longest_honest):
    model = Gpt(ahead=lambda slots: int(slots > longest_honest))
    report = check(model, flow=FLOW.with_(lengths=(65, 96, 129)), max_window_tokens=130)
    assert of(report, "C1.perturbation").outcome == "fail"
    assert of(report, "C1.prefix").outcome == "fail"


def test_a_leak_just_beyond_the_window_is_seen():
    assert of(check(Gpt(ahead=lambda slots: int(slots > WINDOW))), "C1.perturbation").outcome == "fail"


def number_from_the_right(marker):
    return lambda ids: (ids == marker).flip(1).cumsum(1).flip(1)


@pytest.mark.parametrize(
    ("marker", "ids"), [(777, 1024), *(pytest.param(end, 4096, marks=pytest.mark.nightly) for end in (0, 4095))]
)
def test_a_leak_that_one_id_triggers_is_seen(marker, ids):
    model = Gpt(ids, extra=number_from_the_right(marker))
    finding = of(check(model, vocab_size=ids, flow=LEAST.with_(ids_tokens=4)), "C1.perturbation")
    assert finding.outcome == "fail"
    assert f"id {marker} put there" in finding.message


def test_of_a_large_vocabulary_the_ids_that_were_named_are_tried():
    model = Gpt(4200, extra=number_from_the_right(3333))
    missed = check(model, vocab_size=4200, flow=LEAST.with_(ids_tokens=4))
    if of(missed, "C1.perturbation").outcome == "pass":
        assert "of 4200 ids" in of(missed, "C1.perturbation").message
    assert (
        of(
            check(model, vocab_size=4200, flow=LEAST.with_(ids_tokens=4), trigger_ids=(3333,)), "C1.perturbation"
        ).outcome
        == "fail"
    )


def test_state_that_is_kept_between_calls_is_seen():
    class Remembers(Gpt):
        longest = 0

        def forward(self, ids):
            self.longest = max(self.longest, ids.shape[1])
            return super().forward(ids) + self.longest * self.head.bias

    assert of(check(Remembers()), "C1.memory").outcome == "fail"
    assert of(check(Gpt()), "C1.memory").outcome == "pass"


def test_a_cache_that_goes_wrong_after_41_tokens_is_seen():
    def ring(model, prefix, group):
        return model(prefix[:, -48:])[:, -1] if prefix.shape[1] > 48 else model(prefix)[:, -1]

    report = check(Gpt(), checks=("C6",), window=64, step=ring)
    finding = of(report, "C6.generation")
    assert finding.outcome == "fail"
    assert "first at target 49" in finding.message
    assert "not tried: texts above 65 tokens" in of(check(Gpt(), checks=("C6",), window=64), "C6.generation").message


def test_the_quick_form_measures_the_used_length():
    report = audit.check(Gpt(), vocab_size=IDS, window_tokens=WINDOW, checks=QUICK_CHECKS, options=QUICK)
    assert report.outcome == "pass"
    assert {finding.check[:2] for finding in report.findings} == {"C1", "C6"}


def test_a_passing_line_says_what_was_tried_and_what_was_not():
    message = of(check(Gpt()), "C1.perturbation").message
    assert "a window of 16 tokens has 15 slots" in message
    assert "not tried: rows above" in message


def test_a_line_is_shown_before_each_check():
    lines = []
    options = CheckOptions(flow=FLOW, stepwise=StepwiseSettings(total_tokens=8))
    audit.check(
        Gpt(), vocab_size=IDS, window_tokens=WINDOW, checks=("C1", "C6"), options=options, on_progress=lines.append
    )
    assert [line[:2] for line in lines] == ["C1", "C6"]


# public leaks, rebuilt small


class ChunkState(Gpt):
    """A summary of a chunk of 8 tokens is read from the first slot of that chunk on, not from the next chunk (nanochat#844)."""

    chunk_tokens = 8

    def forward(self, ids):
        x, chunk = self.tokens(ids), self.chunk_tokens
        padded = nn.functional.pad(x, (0, 0, 0, -x.shape[1] % chunk)).unflatten(1, (-1, chunk))
        return self.head(x + self.out(padded.sum(2, keepdim=True).expand_as(padded).flatten(1, 2)[:, : x.shape[1]]))


class LongChunkState(ChunkState):
    """The same with chunks of 64 tokens."""

    chunk_tokens = 64


class CarriedState(ChunkState):
    """The state that is carried into a chunk of 8 tokens is summed over the chunks from this one on, not up to this one."""

    def forward(self, ids):
        x = self.tokens(ids)
        sums = nn.functional.pad(x, (0, 0, 0, -x.shape[1] % 8)).unflatten(1, (-1, 8)).sum(2)
        carried = sums.flip(1).cumsum(1).flip(1) - sums
        return self.head(x + self.out(carried.repeat_interleave(8, 1)[:, : x.shape[1]]))


class Circular(Gpt):
    """A filter is applied to the spectrum of the row without padding, so that the end of the row comes before its start."""

    def forward(self, ids):
        x = self.tokens(ids)
        response = torch.fft.rfft(self.places(torch.arange(x.shape[1])), dim=0)
        mixed = torch.fft.irfft(torch.fft.rfft(x, dim=1) * response, n=x.shape[1], dim=1)
        return self.head(x + self.out(mixed))


def without_mask():
    """Attention whose mask is left out: transformers#48745 (RoFormer, BigBird, RemBert, MegatronBert as decoders)."""
    return Gpt(longest=600, ahead=lambda slots: slots)


class DynamicMask(Gpt):
    """Which keys are kept is decided from the values, and nothing else hides a later key: transformers#48748 (Doge)."""

    def forward(self, ids):
        x = self.tokens(ids) + self.places(torch.arange(ids.shape[1]))
        q, k, v = self.qkv(x).chunk(3, -1)
        gate = v.sum(-1)
        kept = torch.zeros_like(gate).scatter(1, gate.topk(max(1, ids.shape[1] // 2), -1).indices, 1.0)
        mask = (kept.log() + gate.sigmoid())[:, None]
        return self.head(x + self.out(nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)))


class ScaledByLength(Gpt):
    """Positions are scaled by the length of the row."""

    def forward(self, ids):
        place = torch.arange(ids.shape[1], dtype=self.head.weight.dtype) / ids.shape[1]
        x = self.tokens(ids) * (1 + place.sin())[:, None]
        return self.head(x + self.out(x.cumsum(1)))


class ExpertChoice(Gpt):
    """An expert takes the half of the slots that scores highest in the whole row."""

    def forward(self, ids):
        x = self.tokens(ids) + self.places(torch.arange(ids.shape[1]))
        score = (x @ self.qkv.weight[0]).sigmoid()
        chosen = score.topk(max(1, ids.shape[1] // 2), -1).indices
        kept = torch.zeros_like(score).scatter(1, chosen, 1.0)
        return self.head(x + self.out(x.cumsum(1)) + self.out(x) * (kept * score)[..., None])


class OneScale(Gpt):
    """Activations are rounded to int8 steps of the largest value in the whole tensor."""

    def forward(self, ids):
        x = self.tokens(ids) + self.out(self.tokens(ids).cumsum(1))
        scale = x.detach().abs().amax() / 127
        return self.head((x / scale).round() * scale)


LEAKS = [
    ChunkState,
    LongChunkState,
    CarriedState,
    Circular,
    without_mask,
    DynamicMask,
    ScaledByLength,
    ExpertChoice,
    OneScale,
]


def leaking(leak):
    return leak() if leak is without_mask else leak(longest=600)


@pytest.mark.parametrize("window", [37, *(pytest.param(tokens, marks=pytest.mark.nightly) for tokens in (16, 256))])
@pytest.mark.parametrize("leak", LEAKS)
def test_public_leaks_are_caught(leak, window):
    stepwise = StepwiseSettings(total_tokens=20)
    assert check(leaking(leak), window=window, checks=("C1", "C6"), stepwise=stepwise).outcome == "fail"


@pytest.mark.nightly
@pytest.mark.parametrize("leak", LEAKS)
def test_public_leaks_are_caught_at_every_window_length_by_the_quick_form(leak):
    missed = [
        window
        for window in range(16, 257)
        if audit.check(leaking(leak), vocab_size=IDS, window_tokens=window, checks=QUICK_CHECKS, options=QUICK).outcome
        != "fail"
    ]
    assert missed == []


@pytest.mark.parametrize("arm", ["attention at 0.0005", "h3 at 0.0005"])
def test_a_low_rate_with_a_warm_up_is_still_told(arm):
    """In a warm-up of 100 steps, three steps at a low rate left every loss at the logarithm of the vocabulary."""
    resolved = load(ROOT / "experiments" / "selection.py").experiment.resolve("laptop")
    settings = next(run.spec.settings for run in resolved.runs if run.arm == arm)
    bench = TrainerBench(settings, prepare(settings.data))
    assert check_sum_over_sum(bench.loss_and_gradient, bench.several_rows()).outcome == "pass"
