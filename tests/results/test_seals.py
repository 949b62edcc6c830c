"""The files of seals and looks: a chain of hashes, torn lines, damage."""

import pytest

from palinode.base.errors import Damaged
from palinode.results.record import ExperimentEntry
from palinode.results.seals import Look, LookOutcome, Seal
from palinode.results.store import Store

ENTRY = ExperimentEntry(name="demo", size="laptop")


@pytest.fixture
def store(tmp_path) -> Store:
    """A store with two seals and two looks."""
    store = Store(tmp_path)
    previous = ""
    for number, seeds in ((1, (1, 2, 3)), (2, (1, 2, 3, 4))):
        seal = Seal(number=number, created="", decision={"baseline": "ltr"}, seeds=seeds, previous=previous).hashed()
        store.append_seal(ENTRY, seal)
        previous = seal.sha256
        outcome = LookOutcome(arm="both", scale="base", outcome="better")
        store.append_look(ENTRY, Look(seeds=seeds, outcomes=(outcome,), runs=("a", "b")))
    return store


def test_what_was_appended_is_read(store):
    seals, looks = store.seals(ENTRY), store.looks(ENTRY)
    assert [seal.seeds for seal in seals.rows] == [look.seeds for look in looks.rows] == [(1, 2, 3), (1, 2, 3, 4)]
    assert seals.rows[1].previous == seals.rows[0].sha256 != ""
    assert not seals.torn
    assert not looks.torn
    assert store.experiments() == []  # neither file is taken for an entry
    assert Store(store.root / "other").seals(ENTRY) == ((), False)


@pytest.mark.parametrize("kind", ["seals", "looks"])
def test_a_torn_last_line_is_left_out_and_the_next_row_follows_it(store, kind):
    path = getattr(store, f"{kind}_path")(ENTRY)
    first, second, _ = path.read_bytes().split(b"\n")
    path.write_bytes(first + b"\n" + second[:20])
    stored = getattr(store, kind)(ENTRY)
    assert (len(stored.rows), stored.torn) == (1, True)
    if kind == "looks":
        store.append_look(ENTRY, stored.rows[0].with_(seeds=(1, 2)))
        stored = store.looks(ENTRY)
        assert (len(stored.rows), stored.torn) == (2, False)


def test_a_changed_line_is_named(store):
    """A change with a true checksum is noticed by the hash; a line that is taken out, by the chain of hashes."""
    path = store.seals_path(ENTRY)
    first, second, _ = path.read_bytes().split(b"\n")
    store.append_seal(other := ENTRY.with_(name="other"), store.seals(ENTRY).rows[0].with_(seeds=(1, 2)))
    with pytest.raises(Damaged, match=r"other--laptop\.seals\.jsonl: line 1: was changed"):
        store.seals(other)
    path.write_bytes(second + b"\n")
    with pytest.raises(Damaged, match="line 1: was changed"):
        store.seals(ENTRY)
    path.write_bytes(first + b"\n" + second.replace(b"ltr", b"rtl") + b"\n")
    with pytest.raises(Damaged, match="line 2: is damaged"):
        store.seals(ENTRY)


def test_what_two_processes_wrote_at_the_same_time_counts_once(store):
    first, second = store.seals(ENTRY).rows
    store.append_seal(ENTRY, second.with_(created="later").hashed())
    third = Seal(number=3, created="", decision={}, seeds=(1,), previous=second.sha256).hashed()
    store.append_seal(ENTRY, third)
    assert store.seals(ENTRY).rows == (first, second, third)
    looks = store.looks(ENTRY).rows
    store.append_look(ENTRY, looks[0].with_(created="later"))
    assert store.looks(ENTRY).rows == looks


def test_rows_of_another_shape_and_links_are_damage(store, tmp_path):
    from palinode.base import fsio

    path = store.looks_path(ENTRY)
    fsio.append_line(path, {"seeds": "1"})
    with pytest.raises(Damaged, match=r"looks\.jsonl: line 3\."):
        store.looks(ENTRY)
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Damaged, match="not a regular file"):
        store.looks(ENTRY)
    with pytest.raises(Damaged, match="is a link"):
        store.append_look(ENTRY, Look(seeds=(1,), outcomes=()))


def test_claims_are_sealed_and_a_seal_without_them_keeps_its_hash(store):
    before = store.seals(ENTRY).rows[-1]
    assert b"claims" not in store.seals_path(ENTRY).read_bytes(), "lines of older versions have no such field"
    sealed = Seal(
        number=3,
        created="",
        decision={},
        seeds=(1,),
        claims=({"name": "M1", "half_width": 0.05},),
        previous=before.sha256,
    )
    store.append_seal(ENTRY, sealed.hashed())
    assert store.seals(ENTRY).rows[-1].claims == ({"name": "M1", "half_width": 0.05},)
    path = store.seals_path(ENTRY)
    path.write_bytes(path.read_bytes().replace(b"0.05", b"0.50"))
    with pytest.raises(Damaged, match="line 3"):
        store.seals(ENTRY)
