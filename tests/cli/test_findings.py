"""`palinode findings`: a page and its numbers, or one line that says why not."""

import json
import re

import pytest

from palinode import Claim, Store
from palinode.cli import compare
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
        "each allows for the other rows of the same claim",
        "- C1: holds.",
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
