"""`palinode findings`: a page and its numbers, or one line that says why not."""

import json
import re

import pytest

from palinode import Claim, Store
from palinode.checks.laws import LAWS
from palinode.cli import compare
from palinode.report.findings import _laws_of
from palinode.results.record import ChoiceEntry
from palinode.results.seals import Seal
from synthetic_store import Synthetic, SyntheticArm, make_store

COMMAND = ("palinode", "run", "an idea.py", "--store", "/here/runs", "--workers=2", "--set", "a=1", "--stack", "8")
CLAIMS = (
    Claim(
        name="C1",
        sentence="Better.",
        measure="difference",
        arm="other",
        against=("base",),
        published=-0.3,
        source="a paper",
        note="see it",
    ),
    Claim(name="C2", sentence="Lower.", measure="ratio", arm="other", against=("base",), expect="below", bound=0.0),
    Claim(name="C3", sentence="Shown.", measure="score", arm="other", expect="shown", published=2.0),
)


@pytest.fixture
def store(here):
    arms = (SyntheticArm("base"), SyntheticArm("other", effect_nats=-0.2))
    store = make_store(here / "runs", Synthetic(name="idea", arms=arms, command=COMMAND, smallest_effect=0.01))
    store.write_experiment(store.entry("idea").with_(claims=CLAIMS))
    return store


def test_a_page_says_what_was_run_and_what_holds(store, palinode, here):
    output = palinode("findings", "idea", "-o", "pages")
    name = store.entry("idea").full_name
    assert output.code == 0, output.err
    assert output.out.split() == [f"pages/{name}.{ending}" for ending in ("md", "json", "svg")]
    page, numbers = (
        (here / "pages" / f"{name}.md").read_text(),
        json.loads((here / "pages" / f"{name}.json").read_text()),
    )
    verdicts = {row["name"]: row["verdict"] for row in numbers["claims"]}
    assert verdicts == {"C1": "holds", "C2": "holds", "C3": "not judged"}
    for text in (
        "Published: a paper.",
        "C1: see it",
        "none allows for other claims",
        "- C1. Better: holds.",
        "- C2. Lower: holds.",
        "No plan was sealed before the runs.",
        f"]({name}.svg)",
        "| holds |",
        "    palinode run 'an idea.py' --set a=1\n",
    ):
        assert text in page
    assert numbers["intervals"] == sum(row["low"] is not None for row in [*numbers["claims"], *numbers["arms"]])
    assert "lies outside our interval: C1" in page
    width = None
    for line in page.splitlines():
        width = (width or line.count("|")) if line.startswith("|") else None
        assert width is None or line.count("|") == width, line
    assert "nan" not in page.lower().split()


def test_a_report_shows_the_claims_of_an_experiment_that_has_some(store, palinode, here):
    for claims, shown in ((CLAIMS, True), ((), False)):
        store.write_experiment(store.entry("idea").with_(claims=claims))
        assert palinode("report", "idea", "--out", "report").code == 0
        assert ('id="claims"' in (here / "report" / "report.html").read_text()) == shown


def test_compare_ends_with_a_line_for_each_claim_or_with_where_to_read_them(store, palinode, monkeypatch):
    lines = palinode("compare", "idea").out.strip().splitlines()[-3:]
    assert re.fullmatch(r"C1: Better: −0\.\d+ \(−0\.\d+ to −0\.\d+; \d seeds\): holds", lines[0])
    assert re.fullmatch(r"C2: Lower: −\d+\.\d% \(−\d+\.\d% to −\d+\.\d%; \d seeds\): holds", lines[1])
    assert re.fullmatch(r"C3: Shown: \+.* seeds\)", lines[2])
    rows = json.loads(palinode("compare", "idea", "--json").out)
    assert [row["arm"] for row in rows] == ["other"]
    monkeypatch.setattr(compare, "MOST_CLAIMS", 2)
    last = palinode("compare", "idea").out.strip().splitlines()[-1]
    assert last == "3 rows judge its claims: `palinode findings idea--laptop` writes them."


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("ideas",), "did you mean 'idea'"),
        (("idea", "--store", "nowhere"), "no results store"),
        (("idea", "--out", "runs/.gitignore"), "is a file"),
    ],
)
def test_what_a_user_can_cause_is_one_line(store, palinode, arguments, says):
    output = palinode("findings", *arguments)
    assert output.code == 2
    assert len(output.err.splitlines()) == 1
    assert says in output.err


def test_an_experiment_without_claims_says_so(store, palinode):
    store.write_experiment(store.entry("idea").with_(claims=()))
    output = palinode("findings", "idea")
    assert output.code == 2
    assert len(output.err.splitlines()) == 1
    assert "has no claims" in output.err


def test_entries_without_claims_are_read_as_before(store):
    path = next((store.root / "experiments").glob("*.json"))
    data = json.loads(path.read_text())
    del data["claims"], data["self_sha256"]
    path.write_text(json.dumps(data))
    assert Store(store.root).entry("idea").claims == ()


def test_a_page_names_arms_whose_names_have_spaces_or_the_word_and(here, palinode):
    arms = (SyntheticArm("ltr"), SyntheticArm("as is", effect_nats=0.02), SyntheticArm("this and that"))
    store = make_store(here / "runs", Synthetic(arms=arms))
    tuned = [
        ChoiceEntry(arm=arm.name, scale="base", field="rate", values=(1.0, 2.0), scores=(0.1, 0.2), chosen=2.0, runs=())
        for arm in arms[1:]
    ]
    claim = Claim(name="D", sentence="d", measure="difference", arm="as is", against=("ltr",), expect="better")
    store.write_experiment(store.entry("demo").with_(choices=tuple(tuned), claims=(claim,)))
    assert palinode("findings", "demo", "-o", "pages").code == 0
    page = (here / "pages" / "demo--laptop.md").read_text()
    assert "so another setting may be better: as is, this and that\n" in page
    assert "C4.contamination could not tell on as is, ltr, this and that\n" in page


def test_a_page_says_what_a_check_asks_that_could_not_tell():
    assert (
        _laws_of("C8.falls, C2.markov could not tell on ")
        == f". C8.falls: {LAWS['C8.falls']}. C2.markov: {LAWS['C2.markov']}"
    )
    assert _laws_of("its runs were evaluated 8 times") == ""


def test_a_page_gives_the_seal_and_every_later_change(store, palinode, here):
    entry = store.entry("idea")
    settings = {arm.name: {"base": "a"} for arm in entry.arms}
    first = Seal(
        number=1, created="2026-01-02T03:04:05+00:00", decision=entry.decision, seeds=entry.seeds, settings=settings
    )
    store.append_seal(entry, first := first.hashed())
    palinode("findings", "idea", "-o", "pages")
    page = (here / "pages" / f"{entry.full_name}.md").read_text()
    assert "The rule, fixed before the first run: " in page
    assert f"sealed at 2026-01-02 03:04 UTC, SHA-256 `{first.sha256[:16]}`. Nothing was changed since then." in page
    changed = {**settings, "other": {"base": "b"}}
    second = first.with_(number=2, settings=changed, previous=first.sha256, runs_ended=6).hashed()
    store.append_seal(entry, second)
    palinode("findings", "idea", "-o", "pages")
    page = (here / "pages" / f"{entry.full_name}.md").read_text()
    assert "- the settings of other at base were changed in seal 2, when 6 runs had ended\n" in page


def test_a_character_that_no_figure_can_hold_is_drawn_as_another_one(here, palinode):
    """The drawing program ended the process. A name in a stranger's pack is not checked by the experiment file."""
    arms = (SyntheticArm("ltr"), SyntheticArm("a\x1bb\uffff", effect_nats=0.02))
    make_store(here / "runs", Synthetic(arms=arms))
    done = palinode("report", "demo")
    assert done.code == 0, done.err
    drawn = [path.read_text() for path in here.rglob("*.svg")]
    assert any("a\ufffdb\ufffd" in text for text in drawn)
