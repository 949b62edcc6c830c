"""The audit of an arm before training, in four parts. Each part is stored under the hash of everything that it depends on.

The first part reads the model with its objective (C1, C6, C7). The second part trains canaries (C2). The third part checks the
trainer and the evaluator on this data (C3, C9). The fourth part checks the data alone (C4), and arms usually share it.

The models of the first two parts are small, and larger models of one kind share them. The findings of each pass in the second part
are stored on their own as well: arms that read a pass in the same way share them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from palinode.audit.cache import DATA_ROOMS, cached_part, cached_parts, part_key, stored_or_measured
from palinode.audit.palinode_models import AUDIT_VOCABULARY, canary_config, flow_config, pair_score, subject_of_config
from palinode.audit.trainer_bench import AUDIT_SEED, TrainerBench, bench_model
from palinode.base.config import USER_PREFIX, content_hash, encode
from palinode.base.finding import AuditReport, Finding
from palinode.base.seeds import generator
from palinode.checks.aggregation import check_initial_loss, check_sum_over_sum, check_training_loss
from palinode.checks.canary import CanarySettings, PassCheck, check_canary, measure_each
from palinode.checks.collapse import check_aggregated, probe_collapse
from palinode.checks.contamination import BPE_TOKEN, BYTE, CHARACTER, check_contamination, check_prompt_splits
from palinode.checks.determinism import check_determinism
from palinode.checks.flow import check_flow
from palinode.checks.labels import check_copies, check_streams
from palinode.checks.laws import finding
from palinode.checks.stepwise import check_stepwise
from palinode.checks.subject import Subject
from palinode.data.config import TEST, TRAIN, TUNING, VALIDATION, DataConfig
from palinode.data.source import Source, prepare
from palinode.data.store import TokenStore
from palinode.data.task_store import TaskStore, TaskStream
from palinode.data.tasks.splits import BUCKETS_OF, buckets
from palinode.evaluate.losses import evaluation_passes
from palinode.models.base import PairTerm
from palinode.results.holds import Watch
from palinode.results.store import Store
from palinode.spec.run_spec import RunSettings
from palinode.train.device import use_threads
from palinode.train.loop import DivergedError

TERM_SLOTS = 64  # the length in slots of the longest row of the model whose auxiliary terms are audited


@dataclass(frozen=True)
class AuditedArm:
    """The audit of an arm, and the hash that the audit is stored under."""

    hash: str
    report: AuditReport


def audit_arm(settings: RunSettings, *, name: str, store: Store | None = None) -> AuditedArm:
    """Audit an arm before training. Parts that the store already holds are not measured again."""
    use_threads(settings.threads)
    parts = {key: cached_part(store, name, key, check) for key, check in _parts(settings, name, store)}
    whole = AuditReport(
        subject=name,
        findings=tuple(finding for report in parts.values() for finding in report.findings),
        seconds=sum(report.seconds for report in parts.values()),
        parts={key: report.seconds for key, report in parts.items()},
    )
    key = content_hash([name, *parts])
    if store is not None:
        store.write_audit(key, whole)
    return AuditedArm(key, whole)


def measure_parts(settings: RunSettings, *, name: str, store: Store) -> None:
    """Measure and store the parts of this arm's audit that the store does not hold and that no other process is measuring."""
    use_threads(settings.threads)
    for key, check in _parts(settings, name, store):
        stored_or_measured(store, name, key, check, Watch())


def missing_parts(settings: RunSettings, store: Store) -> frozenset[str]:
    """The hashes of the parts that the store does not hold."""
    stored = set(store.audits())
    return frozenset(key for key, _ in _parts(settings, "", store)) - stored


def _parts(
    settings: RunSettings, name: str, store: Store | None
) -> tuple[tuple[str, Callable[[], tuple[Finding, ...]]], ...]:
    """The four parts: the hash that each is stored under, and the function that measures it."""
    data = prepare(settings.data)
    return (
        (_model_key(settings, data), partial(_model_findings, settings, data, name)),
        (_canary_key(settings), partial(_canary_findings, settings, data, name, store)),
        (_evaluation_key(settings, data), partial(_unless_it_diverges, partial(_evaluation_findings, settings, data))),
        (_data_key(settings, data), partial(_data_findings, settings, data)),
    )


def _model_key(settings: RunSettings, data: Source) -> str:
    read, trained = encode(flow_config(settings.model)), encode(bench_model(settings.model))
    vocabulary = min(data.vocab_size, AUDIT_VOCABULARY)
    return part_key("model", read, trained, encode(settings.objective), settings.data.window_tokens, vocabulary)


def _model_findings(settings: RunSettings, data: Source, name: str) -> tuple[Finding, ...]:
    subject = _subject_of_arm(settings, data, name)
    return (*check_flow(subject), *check_stepwise(subject), *_term_findings(settings))


def _canary_key(settings: RunSettings) -> str:
    """Canaries have a vocabulary and windows of their own, so the key names neither those of the data nor the size of the model."""
    return part_key("canary", encode(canary_config(settings.model)), encode(settings.objective))


def _canary_findings(settings: RunSettings, data: Source, name: str, store: Store | None) -> tuple[Finding, ...]:
    """C2. The findings of a pass are taken from the audit of another arm with the same pass and the same small model."""
    model, objective, canary = canary_config(settings.model), settings.objective, CanarySettings()
    own = encode(objective) if objective.kind_name().startswith(USER_PREFIX) else None  # its code may do anything

    def findings_of(passes: Sequence[PassCheck]) -> list[tuple[Finding, ...]]:
        if store is None:
            return measure_each(passes)
        keys = [part_key("canary pass", encode(model), encode(canary), own, one.depends_on()) for one in passes]
        parts = [(key, one.measure) for key, one in zip(keys, passes, strict=True)]
        return [_of_subject(report) for report in cached_parts(store, name, parts)]

    return check_canary(_subject_of_arm(settings, data, name), canary, findings_of)


def _of_subject(report: AuditReport) -> tuple[Finding, ...]:
    """The findings of a report. Each names the arm, or the run of the arm, whose audit measured it."""
    measured_for = {"measured_for": report.subject}
    return tuple(one.with_(reproduce={**one.reproduce, **measured_for}) for one in report.findings)


def _subject_of_arm(settings: RunSettings, data: Source, name: str) -> Subject:
    return subject_of_config(
        settings.model,
        settings.objective,
        tokenizer_vocab=data.vocab_size,
        window_tokens=settings.data.window_tokens,
        seed=AUDIT_SEED,
        name=name,
    )


def _term_findings(settings: RunSettings) -> Iterator[Finding]:
    """C7 and C9 on each auxiliary term of the arm that compares two states. Each check gets a new small model."""
    small = bench_model(settings.model)

    def terms() -> Mapping[str, PairTerm]:
        return small.build(1, TERM_SLOTS, AUDIT_SEED).pair_terms()

    for name in terms():
        yield probe_collapse(name, pair_score(terms()[name]), AUDIT_SEED)
        yield check_aggregated(name, pair_score(terms()[name].double()), AUDIT_SEED)


def _evaluation_key(settings: RunSettings, data: Source) -> str:
    model = bench_model(settings.model)  # the bench builds this model at every scale
    small = settings.with_(threads=1, model=model, start_from=None)
    return part_key("evaluation", encode(small), data.sha256, data.vocab_size)


def _evaluation_findings(settings: RunSettings, data: Source) -> tuple[Finding, ...]:
    bench = TrainerBench(settings, data)
    fresh, moved = bench.training(), bench.moved()
    passes = evaluation_passes(settings.objective, settings.evaluation.directions)
    evaluate_moved = partial(bench.evaluate, moved.model, passes)
    initial = bench.evaluate(fresh.model, passes, None, None)
    streams = {stream: generator(AUDIT_SEED, stream, 0) for stream in ("data", "objective", "evaluation", "init")}
    findings = [
        *check_determinism(evaluate_moved, moved.model, moved.optimizers, bench.train),
        check_copies(settings.objective, bench.specials, settings.data.window_tokens),
        check_streams(streams),
        check_training_loss(*bench.training_loss()),
        check_sum_over_sum(bench.loss_and_gradient, bench.several_rows()),
        *bench.sums_findings(moved.model, passes),
        *bench.pass_findings(passes),
        *filter(None, [bench.stream_finding()]),
        *filter(None, [bench.auxiliary(passes)]),
    ]
    if "ltr" in initial.scores:
        zero_head = bool(getattr(settings.model, "zero_head", False))
        nats = initial.scores["ltr"].nats_per_token
        findings.append(check_initial_loss(nats, bench.specials.vocab_size, zero_head=zero_head))
    return tuple(findings)


def _unless_it_diverges(check: Callable[[], tuple[Finding, ...]]) -> tuple[Finding, ...]:
    """The findings of a check.

    A check whose few training steps diverge gives a finding that could not tell: the run then reports it.
    """
    try:
        return check()
    except (DivergedError, FloatingPointError) as problem:
        message = f"the arm diverges in the few training steps of its audit, so C3 and C9 were not checked: {problem}"
        return (finding("C3.repeats", "could_not_tell", message, {}),)


def _data_key(settings: RunSettings, data: Source) -> str:
    config = settings.data
    if not isinstance(data, TokenStore):
        return part_key("data", encode(config), rooms=DATA_ROOMS)
    tokens = {split: len(data.tokens(split)) for split in (TRAIN, VALIDATION, TEST)}
    return part_key("data", encode(config), data.sha256, tokens, rooms=DATA_ROOMS)


def _data_findings(settings: RunSettings, data: Source) -> tuple[Finding, ...]:
    """C4 on the data: for text, stretches that two splits share; for a task, prompts that two splits share."""
    if isinstance(data, TaskStore):
        return (_prompt_finding(data),)
    config = settings.data
    assert isinstance(data, TokenStore)
    assert isinstance(config, DataConfig)
    unit = {"byte": BYTE, "char": CHARACTER}.get(config.tokenizer, BPE_TOKEN)
    held_out = {split: data.tokens(split) for split in (VALIDATION, TEST, *((TUNING,) if config.keeps(TUNING) else ()))}
    return check_contamination(data.tokens(TRAIN), held_out, window_tokens=config.window_tokens, unit=unit)


def _prompt_finding(data: TaskStore) -> Finding:
    """C4.prompt_splits on the scored sequences, and on as many training sequences as are scored for validation."""
    task = data.config.task
    train = TaskStream(task, AUDIT_SEED, data.config.train_sequences).batch(0, data.config.sequences(VALIDATION))
    samples = {TRAIN: train, **{split: data.held_out(split) for split in (VALIDATION, TEST, TUNING)}}
    prompts: dict[str, NDArray[np.int64]] = {name: task.split_key(sample).numpy() for name, sample in samples.items()}
    allowed: dict[str, range] = {name: BUCKETS_OF[name] for name in samples}
    return check_prompt_splits(prompts, lambda keys: buckets(task, torch.from_numpy(keys)).numpy(), allowed)
