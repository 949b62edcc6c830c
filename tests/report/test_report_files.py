"""What a report writes: the page, its figures and its tables, from stores of every condition, the same bytes each time."""

import base64
import gzip
import hashlib
import html.parser
import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import polars as pl
import pytest

import palinode
from palinode.analysis.audits import Picture, pictures
from palinode.analysis.verdict import verdicts
from palinode.base.errors import BadInput, Damaged
from palinode.base.finding import Finding
from palinode.checks.explained import explanation
from palinode.checks.text import ranges
from palinode.report import words
from palinode.report.build import all_figures, build_report, guarded
from palinode.report.content import Page
from palinode.report.maps import law_boundary, map_rows
from palinode.report.page import columns, embedded_json, render_page
from palinode.report.study import Study
from palinode.results.record import Result
from synthetic_store import DEMO_ARMS, Synthetic, SyntheticArm, make_store

LTR, BOTH, MASK = DEMO_ARMS


class Visible(html.parser.HTMLParser):
    """The text of a page and the skeleton of its tags; scripts and styles apart."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.links, self.scripts, self.words = [], [], [], []
        self._inside = None
        self.feed(page)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self._inside = tag
        self.tags.append((tag, *(name for name, _ in attributes)))
        self.links += [value for name, value in attributes if name in ("href", "src", "action", "data")]

    def handle_endtag(self, tag):
        self._inside = None

    def handle_data(self, data):
        (self.scripts if self._inside in ("script", "style") else self.words).append(data)


def unpacked(text):
    """The data of the charts, as the page's own script reads it."""
    return json.loads(gzip.decompress(base64.b64decode(text)))


@pytest.fixture
def page_only(monkeypatch):
    """Most tests look at the page; drawing its figures takes a quarter of a second each."""
    monkeypatch.setattr("palinode.report.build.write_figures", lambda figures, directory: [])


def built(tmp_path, **changes):
    store = make_store(tmp_path / "runs", Synthetic(**changes))
    report = build_report(store, "demo")
    return report, Visible(report.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    store = make_store(tmp_path_factory.mktemp("files") / "runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURCE_DATE_EPOCH", "1767600000")
        report = build_report(store, "demo")
    return store, report, Visible(report.read_text(encoding="utf-8"))


def test_the_verdict_comes_first_in_plain_words(demo):
    _, _, page = demo
    start = page.text[: page.text.index("Learning curves and final")]
    assert start.index("both is worse than ltr") < start.index("both-published-mask sees its own answer")
    assert "Exact sign-flip p = 0.25, the least that this number of seeds can give" in start
    assert "32 of 32 positions see their own target: 0-31." in start
    assert "The rule : validation ltr loss" in start
    assert "It was not sealed before the first run." in start
    assert "fixed before the first run" not in start, "nothing shows when the rule of these runs was written"
    assert page.text.index("LEAK") < page.text.index("Learning curves and final")


def test_every_section_says_what_it_must(demo):
    _, _, page = demo
    for piece in (
        "C4.contamination",
        "could not tell",
        "objective.rtl_sees.kind",
        "flipped-lower-triangle",
        "must match",
        "+50.0%",
        "9 done",
        "AVX512",
        "palinode run experiments/demo.py --size laptop",
        "Never trained on rtl, so not drawn: ltr (at the end",
    ):
        assert piece in page.text, piece


def test_what_was_trained_is_said_once_and_each_arm_by_its_change(demo):
    _, _, page = demo
    start = page.text[page.text.index("What was trained") : page.text.index("The rule")]
    assert start.count("objective.kind ltr → both") == 2, "two arms change it"
    assert "objective.rtl_sees.kind = flipped-lower-triangle" in start
    assert "(meant to be equal in all arms)" in start


def test_the_split_sizes_of_the_plan_are_shown_as_they_are_read_from_the_store(tmp_path, page_only):
    """The entry is written and read again: what was a list is a tuple then."""
    store = make_store(tmp_path / "store", Synthetic(arms=(LTR, BOTH), steps=100))
    (entry,) = store.experiments()
    sizes = {"train": 1_340_000, "tuning": 0, "validation": 52_737, "test": 40_823}
    cells = [{"arm": entry.rule.baseline, "scale": scale, "split_tokens": sizes} for scale in entry.scales]
    store.write_experiment(entry.with_(plan={"cells": cells}))
    text = Visible(build_report(store, entry.full_name).read_text(encoding="utf-8")).text
    assert "train 1.34 M, validation 52 737, test 40 823 tokens" in text


def test_only_the_smoke_size_says_that_it_decides_nothing(tmp_path, demo, page_only):
    _, page = built(tmp_path, size="smoke", arms=(LTR, BOTH), steps=100)
    assert "it decides nothing" in page.text
    assert "it decides nothing" not in demo[2].text


def test_an_experiment_without_two_directions_has_no_ratios_and_no_legend_of_directions(tmp_path, page_only):
    report, page = built(tmp_path, arms=(LTR, SyntheticArm("wide")), steps=200)
    assert "Ratios" not in page.text
    assert not [name for name in _chart_data(report)["figures"] if name.startswith("ratio")]
    layers = [layer for one in _chart_data(report)["specifications"] for layer in one["layer"]]
    dashes = [layer["encoding"]["strokeDash"] for layer in layers if "strokeDash" in layer.get("encoding", {})]
    assert dashes
    assert all(dash["legend"] is None for dash in dashes)


def test_a_chart_is_on_the_first_screen_where_there_is_one(tmp_path, page_only):
    report, page = built(tmp_path, arms=(LTR,), steps=200)
    verdict = report.read_text(encoding="utf-8").partition('<section id="curves"')[0]
    assert 'data-figure="learning-curves"' in verdict
    assert "There is one arm only" in page.text


def test_a_pass_of_a_users_own_objective_is_drawn(tmp_path, page_only):
    """It is trained under a name of its own, and evaluated under `own`."""
    store = make_store(tmp_path / "runs", Synthetic(arms=(LTR, SyntheticArm("skip")), steps=200))
    for run in store.experiment("demo").runs:
        if run.entry.arm != "skip":
            continue
        store.write_result(
            run.result.with_(
                counters={**run.result.counters, "tokens_scored_ltr": 0},
                scores={split: {"own": scores["ltr"]} for split, scores in run.result.scores.items()},
            )
        )
        for row in run.record.metrics:
            changed = {"scores": {"own": row["scores"]["ltr"]}} if "scores" in row else {}
            changed |= {"nats_by_group": {"skip": 1.0}} if "nats_by_group" in row else {}
            store.append_metrics(run.entry.run_id, {**row, **changed})
    figures = {figure.name: figure for figure in all_figures(Study.of(store.experiment("demo")))}
    drawn = {(row["arm"], row["direction"]) for row in figures["learning-curves"].rows}
    assert drawn == {("ltr", "ltr"), ("skip", "own")}
    assert "final--own" in figures
    assert not [note for note in figures["learning-curves"].notes if "skip" in note]


def test_one_fact_has_one_percentage(tmp_path, page_only):
    """The difference in the declared cost: on the card, and in the table of costs."""
    _, page = built(tmp_path, arms=(LTR, BOTH), equal="tokens_read", steps=200)
    card = re.search(r"not at equal tokens_read: it differs by (\S+)", page.text)
    table = re.search(r"tokens read must match \S+ \S+ (?:\S+ )*?(\+\S+%)", page.text.replace("\u202f", ""))
    assert card[1] == table[1]


def test_the_text_about_the_checks_that_were_made_is_folded_into_the_page(demo):
    _, _, page = demo
    about = page.text[page.text.index("What the checks are") :]
    for code in ("C1", "C2", "C3", "C4", "C9"):
        assert explanation(code).failure in about.replace("\n", " ")
    assert explanation("C6").asks not in about


def test_the_page_is_one_offline_file_of_at_most_two_megabytes(demo):
    _, report, page = demo
    assert report.stat().st_size <= 2 * 2**20
    assert all(link == "data:," or link.startswith(("#", "figures/", "tables/")) for link in page.links)
    assert all((report.parent / link).is_file() for link in page.links if "/" in link)
    text = report.read_text(encoding="utf-8")
    assert "default-src &#39;none&#39;" in text
    assert "unsafe" not in text[: text.index("</head>")]


def test_figures_are_drawings_with_every_axis(demo):
    _, report, _ = demo
    figures = report.parent / "figures"
    axes = ("step", "tokens-read", "tokens-scored-ltr", "train-flops", "seconds")
    names = {f"learning-curves-{axis}" for axis in axes} | {"final--ltr", "final--rtl", "differences"}
    names |= {f"ratio-{number}--over-training-{axis}" for axis in axes for number in (1, 2)}
    names |= {f"learning-curves-{axis}-log" for axis in axes}
    names |= {f"influence--{arm}--{group}" for arm, group in [("ltr", "ltr"), ("both", "ltr"), ("both", "rtl")]}
    names |= {f"influence--both-published-mask--{group}" for group in ("ltr", "rtl")}
    assert {path.stem for path in figures.glob("*.svg")} == {path.stem for path in figures.glob("*.pdf")} == names
    for path in figures.glob("*.svg"):
        drawn = ElementTree.fromstring(path.read_text())
        assert len(list(drawn.iter("{http://www.w3.org/2000/svg}path"))) > 10, path.name
    for path in figures.glob("*.pdf"):
        content = path.read_bytes()
        assert content.startswith(b"%PDF-")
        assert _offsets_hold(content), path.name


def _offsets_hold(pdf):
    """Every entry of the cross-reference table points at its object: reordering resources moved nothing else."""
    table = pdf[pdf.rindex(b"\nxref") :].splitlines()
    entries = [line.split() for line in table if line.endswith((b" n", b" n "))]
    return entries and all(pdf[int(offset) :].split(None, 2)[1:2] == [b"0"] for offset, _, _ in entries)


def test_tables_hold_the_numbers_in_full(demo):
    store, report, _ = demo
    tables = report.parent / "tables"
    result = pl.read_parquet(tables / "verdicts.parquet")
    [expected] = [item for item in verdicts(store.experiment("demo")) if item.arm == "both"]
    assert result.filter(arm="both")["mean_difference"].item() == expected.comparison.mean
    assert result.filter(arm="both")["interval_low"].item() == expected.deciding.interval.low
    runs = pl.read_csv(tables / "runs.csv")
    assert runs.height == 9
    assert runs["value"].to_list() == pl.read_parquet(tables / "runs.parquet")["value"].to_list()


def hashes_of(directory):
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.nightly
def test_the_same_store_gives_the_same_bytes_in_another_process(demo, tmp_path):
    """Another process, which gives strings other hashes and so another order in a set."""
    store, report, _ = demo
    program = (
        "import sys; from pathlib import Path; from palinode.report.build import build_report;"
        " from palinode.results.store import Store;"
        "build_report(Store(Path(sys.argv[1])), 'demo', out=Path(sys.argv[2]))"
    )
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    environment = {"SOURCE_DATE_EPOCH": "1767600000", "PYTHONHASHSEED": seed, "PATH": "/usr/bin:/bin"}
    environment["PYTHONPATH"] = str(Path(palinode.__file__).parents[1])  # the same code, wherever it was imported from
    command = [sys.executable, "-c", program, str(store.root), str(tmp_path / "two")]
    subprocess.run(command, check=True, env=environment)
    assert hashes_of(tmp_path / "two") == hashes_of(report.parent)
    assert "2026-01-05 08:00 UTC" in report.read_text()


def test_building_writes_nothing_into_run_directories(demo):
    store, _, _ = demo
    names = {path.name for run_id in store.run_ids() for path in store.run_directory(run_id).iterdir()}
    assert names == {"spec.json", "metrics.jsonl", "audit.json", "result.json"}


def test_every_outcome_is_on_the_page_and_blocks_the_verdict(tmp_path, page_only):
    kinds = ("diverged", "failed", "stopped", "oom", "missing", "unfinished")
    outcomes = {("both", "base", seed): kind for seed, kind in enumerate(kinds)}
    _, page = built(tmp_path, seeds=tuple(range(7)), outcomes=outcomes)
    for kind in kinds:
        assert f"1 {kind}" in page.text
        assert f"both: {kind}" in page.text
    assert "Cannot tell whether both is better or worse than ltr" in page.text
    assert "5 of 7 pairs cannot be compared" in page.text


def test_an_experiment_before_its_first_run_has_a_report(tmp_path, page_only):
    outcomes = {(arm.name, "base", seed): "missing" for arm in DEMO_ARMS for seed in range(3)}
    _, page = built(tmp_path, outcomes=outcomes, audited=False)
    assert "9 missing" in page.text
    assert "no pair of runs could be compared" in page.text
    assert "both was not audited" in page.text
    assert "No run is finished." in page.text


def test_a_leak_that_nobody_expected_is_stamped_and_not_compared(tmp_path, page_only):
    _, page = built(tmp_path, arms=(LTR, SyntheticArm("surprise", rtl="leak", p=0.5)))
    assert "surprise sees its own answer" in page.text
    assert "The experiment does not expect this, so the arm is not compared." in page.text
    assert "LEAK" in page.text
    assert "is better than" not in page.text
    assert "is worse than" not in page.text


def test_scales_have_figures_and_verdicts_of_their_own(tmp_path, page_only):
    report, page = built(tmp_path, scales=("small", "large"), steps=200)
    names = set(_chart_data(report)["figures"])
    assert {"learning-curves--small", "learning-curves--large", "final--ltr--small", "final--ltr--large"} <= names
    assert "both: worse than ltr at all 2 scales" in page.text


@pytest.mark.nightly
def test_a_hundred_runs_fit_on_a_page(tmp_path, page_only):
    arms = tuple(SyntheticArm(f"arm {number}", rtl="honest", p=0.3, effect_nats=number / 100) for number in range(10))
    report, _ = built(tmp_path, arms=arms, seeds=tuple(range(10)), steps=2000, evaluate_every=50, picture_length=64)
    assert report.stat().st_size <= 2 * 2**20
    data = _chart_data(report)
    assert len(data["figures"]["learning-curves"]["columns"]["value"]) <= 8000 * 1.1


def test_thinned_curves_say_so_and_keep_first_and_last(tmp_path, page_only, monkeypatch):
    monkeypatch.setattr("palinode.report.study.MOST_CURVE_ROWS", 100)
    report, page = built(tmp_path, arms=(LTR,), steps=60, evaluate_every=1, seeds=(0, 1, 2))
    assert "One evaluation in 3 is drawn; the tables hold all of them." in page.text
    steps = _chart_data(report)["figures"]["learning-curves"]["columns"]["step"]
    assert (min(steps), max(steps)) == (1, 60)
    assert pl.read_parquet(report.parent / "tables" / "evaluation_curves.parquet").height == 60 * 3 * 2


def test_a_report_goes_where_it_is_asked_to(demo, tmp_path, page_only):
    store, _, _ = demo
    assert build_report(store, "demo--laptop", out=tmp_path / "here") == tmp_path / "here" / "report.html"


def test_what_is_wrong_is_named(demo, tmp_path):
    store, _, _ = demo
    with pytest.raises(BadInput, match="no experiment 'dem'"):
        build_report(store, "dem")
    broken = make_store(tmp_path / "runs")
    (broken.root / "experiments" / "demo--laptop.json").write_text("{}")
    with pytest.raises(Damaged, match=r"demo--laptop\.json"):
        build_report(broken, "demo")
    assert not (broken.root / "reports").exists()


# --- maps -----------------------------------------------------------------------------------------------------------


def test_a_map_marks_exactly_the_forbidden_influence(demo):
    store, _, _ = demo
    [rtl] = [p for p in pictures(store.experiment("demo"), "both-published-mask") if p.group == "rtl"]
    rows = map_rows(rtl, 1)
    leaks = {(row["target"], row["source"]) for row in rows if row["state"] == "LEAK"}
    assert leaks == {(t, s) for t in range(32) for s in range(t + 1)}
    assert rtl.targets_that_see_themselves == tuple(range(32))
    for honest in pictures(store.experiment("demo"), "both"):
        assert honest.leaks == frozenset()
        assert {row["state"] for row in map_rows(honest, 1)} == {"allowed"}


def test_coarser_maps_keep_the_strongest_and_never_lose_a_leak():
    influence = [[0.0] * 8 for _ in range(8)]
    influence[5][2], influence[5][3], influence[2][2] = 0.9, 0.1, 0.2
    law = tuple(tuple(float(s < t) for s in range(8)) for t in range(8))
    picture = Picture("a", "base", "C1", "ltr", tuple(map(tuple, influence)), law, failed=True)
    rows = {(row["target"], row["source"]): row for row in map_rows(picture, 4)}
    assert rows[4, 0]["influence"] == 0.9
    assert rows[4, 0]["state"] == "allowed"
    assert rows[0, 0]["state"] == "LEAK"
    assert rows[0, 0]["targets"] == "0 to 3"


def test_the_laws_edge_encloses_exactly_the_law():
    law = tuple(tuple(float(s < t) for s in range(5)) for t in range(5))
    picture = Picture("a", "base", "C1", "ltr", law, law, failed=False)
    edges = law_boundary(picture)
    length = sum(abs(e["x2"] - e["x"]) + abs(e["y2"] - e["y"]) for e in edges)
    assert length == 4 * 4  # a staircase of four steps: 4 across, 4 down along the diagonal, 4 and 4 along the sides
    assert law_boundary(Picture("a", "base", "C1", "x", law, None, failed=False)) == []


def test_a_picture_without_a_law_can_only_show_a_target_that_sees_itself():
    ones = ((1.0, 1.0), (1.0, 1.0))
    assert Picture("a", "base", "C1", "x", ones, None, failed=True).leaks == {(0, 0), (1, 1)}
    assert Picture("a", "base", "C1", "x", ones, None, failed=False).leaks == frozenset()


def test_ranges():
    assert ranges([]) == ""
    assert ranges([3]) == "3"
    assert ranges([0, 1, 2, 5, 7, 8]) == "0-2, 5, 7-8"


# --- words ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0, "0"),
        (0.01, "0.01"),
        (1.89523, "1.895"),
        (-0.0175, "−0.0175"),
        (1_228_800, "1 228 800"),
        (3.1519e12, "3.152 × 10¹²"),
        (1e-9, "1 × 10⁻⁹"),
        (float("inf"), "not finite"),
    ],
)
def test_numbers_for_reading(value, text):
    assert words.number(value).replace("\u202f", " ").replace("\u2009", " ") == text


def test_terminal_lines_say_the_same(demo):
    store, _, _ = demo
    both, mask = (words.verdict_lines(item) for item in verdicts(store.experiment("demo")))
    assert both[0].startswith("both is worse than ltr by ")
    assert mask[0].startswith("LEAK  both-published-mask is worse than ltr by ")
    assert any("sees its own answer" in line for line in mask)


# --- hostile stores -------------------------------------------------------------------------------------------------

PAYLOADS = (
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "</title><script>alert(1)</script>",
    "</style><script>alert(1)</script>",
    "</textarea><svg/onload=alert(1)>",
    "<img src=x onerror=alert(1)>",
    "<svg><animate onbegin=alert(1) attributeName=x></svg>",
    "<iframe srcdoc='<script>alert(1)</script>'>",
    "<a href=javascript:alert(1)>x</a>",
    "<body onload=alert(1)>",
    "<base href=//evil.example/>",
    "<meta http-equiv=refresh content='0;url=//evil.example'>",
    "<link rel=stylesheet href=//evil.example/x.css>",
    "<form action=//evil.example><input name=x autofocus onfocus=alert(1)>",
    "<details open ontoggle=alert(1)>",
    "<math><mtext></p><img src=x onerror=alert(1)>",
    '"><script>alert(1)</script>',
    "' onmouseover='alert(1)",
    '" autofocus onfocus=alert(1) x="',
    "` onload=alert(1) `",
    "{{ 7 * 7 }}{% raw %}",
    "{{ ''.__class__.__mro__ }}",
    "${alert(1)}",
    "<!--<script>",
    "--><script>alert(1)</script>",
    "]]><script>alert(1)</script>",
    "\\u003cscript\\u003ealert(1)\\u003c/script\\u003e",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "\u2028alert(1)\u2029",
    "javascript:alert(1)//\\';alert(1)//",
    "\ufeff<ſcript>alert(1)</ſcript>",
    '=HYPERLINK("//evil.example")',
)


def hostile_store(root, text):
    """Every string that a user, a file or a machine controls is `text` (made unique where names must differ)."""
    arms = (
        SyntheticArm(f"{text} A", note=text),
        SyntheticArm(
            f"{text} B", rtl="leak", p=0.5, expect_leak=True, note=text, diff=((text, text, text), ("x", None, [text]))
        ),
        SyntheticArm(f"{text} C", rtl="honest", p=0.5, note=text),
    )
    wanted = Synthetic(
        arms=arms, scales=(f"{text} 1",), question=text, command=("palinode", text), steps=100, picture_length=4,
        seeds=(0, 1), outcomes={(f"{text} C", f"{text} 1", 1): "diverged"},
    )  # fmt: skip
    store = make_store(root, wanted)
    entry = store.entry("demo")
    store.write_experiment(entry.with_(code=text, created=text, plan={"disk": text, text: 1}))
    for audit_hash in store.audits():
        report = store.audit(audit_hash)
        findings = [
            finding.with_(
                law=text,
                message=text,
                numbers={text: text, "n": 1},
                reproduce={text: text},
                pictures={name.replace("ltr", text): picture for name, picture in finding.pictures.items()},
            )  # fmt: skip
            for finding in report.findings
        ]
        extra = Finding(check=f"C7 {text}", outcome="could_not_tell", law=text, message=text)
        store.write_audit(audit_hash, report.with_(subject=text, findings=(*findings, extra)))
    for record in store.records():
        result: Result = record.result
        reason = text if result.outcome == "diverged" else None
        store.write_result(result.with_(fingerprint={text: text, "torch": text}, weights_sha256=text, reason=reason))
    return store


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return Visible(_page_of(hostile_store(tmp_path_factory.mktemp("plain") / "runs", "plain text")))


def _page_of(store):
    """The page only, without drawing figures: what the tests of all payloads can afford."""
    study = Study.of(store.experiment("demo"))
    return render_page(Page(study, all_figures(study), []))


# A page for each name takes half a second. Every third name is tried by day, all of them by night.
BY_NIGHT = [
    one if place % 3 == 0 else pytest.param(one, marks=pytest.mark.nightly) for place, one in enumerate(PAYLOADS)
]


@pytest.mark.parametrize("payload", BY_NIGHT)
def test_no_name_changes_the_skeleton_of_the_page(tmp_path, plain, payload):
    page = _page_of(hostile_store(tmp_path / "runs", payload))
    visible = Visible(page)
    assert visible.tags == plain.tags
    assert visible.links == plain.links
    assert len(visible.scripts) == 4  # style, data, library, script
    data = unpacked(visible.scripts[1])
    assert f"{payload} A" in json.dumps(data, ensure_ascii=False).replace('\\"', '"').replace("\\\\", "\\")
    assert re.fullmatch(r"[A-Za-z0-9+/=]+", visible.scripts[1])
    assert page.count("</script>") == 3


def test_hostile_names_draw_harmless_figures_and_guarded_tables(tmp_path):
    store = hostile_store(tmp_path / "runs", "=cmd|' /C calc'!A0<script>alert(1)</script>")
    report = build_report(store, "demo")
    for path in (report.parent / "figures").glob("*.svg"):
        for element in ElementTree.fromstring(path.read_text()).iter():
            assert element.tag.rpartition("}")[2] not in ("script", "foreignObject", "image", "a")
            assert not [name for name in element.attrib if name.lower().startswith("on") or "href" in name]
    for path in (report.parent / "tables").glob("*.csv"):
        frame = pl.read_csv(path, infer_schema=False)
        for name in frame.columns:
            starts = {str(value)[0] for value in frame[name] if value and not _is_number(value)}
            assert not starts & set("=+-@\t\r"), (path.name, name, starts)


def _is_number(text):
    try:
        float(text)
    except ValueError:
        return False
    return True


def test_the_guard_leaves_numbers_and_plain_text_alone():
    frame = pl.DataFrame({"a": ["=1+1", "+x", "-x", "@x", "\tx", "plain", None, "a=b"], "b": [-1.0] * 8})
    assert guarded(frame)["a"].to_list() == ["'=1+1", "'+x", "'-x", "'@x", "'\tx", "plain", None, "a=b"]
    assert guarded(frame)["b"].to_list() == [-1.0] * 8


def test_columns_hold_all_rows_and_embedded_json_stays_json():
    rows = [{"arm": "x", "value": 1.5}, {"arm": "y", "value": None, "more": 2}, {"arm": None, "value": 3}]
    packed = columns(rows)
    assert packed["arm"] == {"words": ["x", "y", None], "at": [0, 1, 2]}
    assert packed["more"] == [None, 2, None]
    text = "</script>&\u2028\u2029<!--"
    assert json.loads(embedded_json({"x": text})) == {"x": text}
    assert "<" not in embedded_json({"x": text})
    with pytest.raises(ValueError, match="JSON"):
        embedded_json(float("nan"))


def test_the_home_directory_is_not_shown(tmp_path, page_only, monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    _, page = built(tmp_path, command=("palinode", "run", "/home/somebody/secret/x.py"), arms=(LTR, BOTH), steps=100)
    assert "~/secret/x.py" in page.text
    assert "somebody" not in page.text


def _chart_data(report):
    return unpacked(Visible(report.read_text(encoding="utf-8")).scripts[1])
