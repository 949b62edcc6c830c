"""An audit as text: what a reader is told, and that the picture says what the matrices say."""

from hypothesis import given
from hypothesis import strategies as st
from test_planted_defects import flow_report

from palinode.audit import audit_text
from palinode.checks.text import picture_lines, ranges, sight_sentence

ALLOWED = ((0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (1.0, 1.0, 0.0))


def test_each_cell_has_its_mark():
    seen = ((0.5, 0.0, 0.0), (0.1, 0.0, 0.0), (0.0, 2.0, 0.3))
    assert picture_lines(seen, ALLOWED) == ["   012", "0  !", "1  #", "2  .#!"]


def test_sentences_name_the_targets():
    assert sight_sentence(ALLOWED, ALLOWED) == "every target sees what it may, and nothing else"
    seen = ((0.0, 0.0, 0.0), (0.0, 0.5, 0.0), (1.0, 1.0, 0.5))
    assert sight_sentence(seen, ALLOWED) == "targets 1-2 see themselves; targets 1 do not see all they may"
    ahead = ((0.0, 0.5, 0.0), (1.0, 0.0, 0.0), (1.0, 1.0, 0.0))
    assert sight_sentence(ahead, ALLOWED) == "targets 0 see tokens they may not"


@given(st.sets(st.integers(0, 30)))
def test_ranges_name_every_number_once(numbers):
    text = ranges(sorted(numbers))
    named = []
    for part in filter(None, text.split(", ")):
        low, _, high = part.partition("-")
        named += list(range(int(low), int(high or low) + 1))
    assert named == sorted(numbers)


def test_a_leak_is_shown_with_its_place_and_its_picture():
    text = audit_text(flow_report("M07"))
    assert text.startswith("planted: FAIL")
    assert "targets 0-14 see themselves" in text
    assert "\n     3  ###!" in text
    assert "C1.neighbours" not in text  # passed: only `verbose` lists it


def test_a_clean_audit_shows_who_sees_whom_and_all_checks_when_asked():
    text = audit_text(flow_report("rtl"), verbose=True)
    assert text.startswith("planted: pass")
    assert "rtl: every target sees what it may, and nothing else" in text
    assert "C1.neighbours" in text
    assert "\n    15" in text
