"""A pack brings an experiment whole into another store, and nothing else; a pack that is not whole changes nothing."""

import hashlib
import io
import json
import zipfile

import pytest

from palinode.analysis.tables import all_tables
from palinode.analysis.verdict import verdicts
from palinode.base import fsio
from palinode.base.errors import BadInput, Damaged, EnvironmentProblem
from palinode.report.content import Page
from palinode.report.page import render_page
from palinode.report.study import Study
from palinode.results.holds import take
from palinode.results.pack import MANIFEST, pack, unpack
from palinode.results.seals import Look, Seal
from palinode.results.store import Store
from synthetic_store import Synthetic, make_store


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A store with an experiment whose runs ended in several ways, with a seal and a look."""
    outcomes = {("both", "base", 1): "diverged", ("both", "base", 2): "unfinished", ("ltr", "base", 2): "missing"}
    store = make_store(tmp_path_factory.mktemp("from") / "runs", Synthetic(seeds=(0, 1, 2, 3), outcomes=outcomes))
    entry = store.entry("demo")
    store.append_seal(
        entry, Seal(number=1, created="2026-01-05T09:30:00", decision=entry.decision, seeds=(0, 1)).hashed()
    )
    store.append_look(entry, Look(seeds=(0, 1), outcomes=()))
    (store.run_directory(entry.runs[0].run_id) / "ckpt").mkdir()
    (store.run_directory(entry.runs[0].run_id) / "ckpt" / "model.safetensors").write_bytes(b"weights")
    return store


@pytest.fixture(scope="module")
def packed(source, tmp_path_factory):
    path = tmp_path_factory.mktemp("pack") / "demo.palinode"
    assert pack(source, "demo", path) == 11
    return path


def files_of(store):
    return {path.relative_to(store.root): path.read_bytes() for path in store.root.rglob("*") if path.is_file()}


def page_of(store):
    record = store.experiment("demo")
    seals, looks = store.seals(record.entry).rows, store.looks(record.entry).rows
    return render_page(Page(Study.of(record), (), (), (), seals, looks))


def repacked(path, place, change):
    """The pack with some members changed: `change` gets and returns a mapping name -> bytes."""
    with zipfile.ZipFile(path) as archive:
        members = change({name: archive.read(name) for name in archive.namelist()})
    with zipfile.ZipFile(place, "w") as archive:
        for name, content in members.items() if isinstance(members, dict) else members:
            archive.writestr(name, content)
    return place


def with_manifest(members, **changes):
    """The members with a manifest that fits them, and these changes of its fields."""
    members = {name: content for name, content in members.items() if name != MANIFEST}
    files = [
        {"path": name, "size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in members.items()
    ]
    manifest = {"format": "palinode pack", "version": 1, "experiment": "demo--laptop", "files": files, **changes}
    return {MANIFEST: json.dumps(manifest).encode(), **members}


def test_the_page_the_tables_and_the_verdicts_from_a_pack_are_those_of_the_store(source, packed, tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1767600000")
    store = Store(tmp_path / "to")
    assert unpack(store, packed) == ("demo--laptop", 11, 0, False)
    assert page_of(store) == page_of(source)
    assert verdicts(store.experiment("demo")) == verdicts(source.experiment("demo"))
    ours, theirs = all_tables(store.experiment("demo")), all_tables(source.experiment("demo"))
    assert all(ours[name].equals(theirs[name], null_equal=True) for name in theirs)
    assert not list(store.root.rglob("*.safetensors"))


def test_a_tokenizer_stays_in_its_store(source, packed, tmp_path):
    """It may hold words of the user's text, and is of no use without weights."""
    store = Store(tmp_path / "to")
    unpack(store, packed)
    run_id = store.entry("demo").runs[0].run_id
    store.write_tokenizer(run_id, '{"kind": "char", "characters": "secret"}')
    pack(store, "demo--laptop", tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == packed.read_bytes()


def test_the_same_store_gives_the_same_bytes_and_a_pack_of_the_unpacked_one_too(source, packed, tmp_path):
    again, round_trip, store = tmp_path / "again", tmp_path / "round", Store(tmp_path / "to")
    pack(source, "demo--laptop", again)
    unpack(store, packed)
    pack(store, "demo", round_trip)
    assert again.read_bytes() == packed.read_bytes() == round_trip.read_bytes()


def test_unpacking_twice_changes_nothing_and_fills_what_is_missing(packed, tmp_path):
    store = Store(tmp_path / "to")
    unpack(store, packed)
    before = files_of(store)
    assert unpack(store, packed) == ("demo--laptop", 0, 11, False)
    assert files_of(store) == before
    run = store.entry("demo").runs[0]
    (store.run_directory(run.run_id) / "result.json").unlink()
    assert unpack(store, packed).added == 1
    assert store.experiment("demo").runs[0].outcome == "done"


@pytest.mark.parametrize(
    "name",
    [
        "../evil.json",
        "/etc/evil",
        "a/../../evil",
        "C:/evil",
        "a\\evil",
        "experiments/other--laptop.json",
        "audits/../x.json",
    ],
)
def test_a_name_that_leads_out_of_the_store_is_refused(packed, tmp_path, name):
    bad = repacked(packed, tmp_path / "bad", lambda members: with_manifest({**members, name: b"x"}))
    with pytest.raises(BadInput, match="no file of an experiment"):
        unpack(Store(tmp_path / "to"), bad)
    assert [path.name for path in tmp_path.iterdir()] == ["bad"]


def test_an_experiment_whose_name_leads_out_is_refused(packed, tmp_path):
    def change(members):
        moved = {name.replace("demo--laptop", "../up"): content for name, content in members.items()}
        return with_manifest(moved, experiment="../up")

    with pytest.raises(BadInput, match="no file of an experiment"):
        unpack(Store(tmp_path / "to"), repacked(packed, tmp_path / "bad", change))


def test_a_name_twice_is_refused(packed, tmp_path):
    def change(members):
        run = next(name for name in members if name.endswith("result.json"))
        return [*members.items(), (run.upper().replace("RESULT.JSON", "result.json"), b"x")]

    with pytest.raises(BadInput, match="is there twice"):
        unpack(Store(tmp_path / "to"), repacked(packed, tmp_path / "bad", change))


def test_every_changed_byte_is_damage_or_changes_nothing(packed, tmp_path):
    content = packed.read_bytes()
    whole = Store(tmp_path / "whole")
    unpack(whole, packed)
    for place in range(0, len(content), max(1, len(content) // 60)):
        bad, store = tmp_path / "bad", Store(tmp_path / f"to{place}")
        bad.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        try:
            unpack(store, bad)
        except (Damaged, BadInput):
            assert not store.root.exists()
        else:  # a byte that no reader of a zip file looks at
            assert {path.name for path in store.root.iterdir()} == {path.name for path in whole.root.iterdir()}


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_cut_pack_is_damaged(packed, tmp_path, share):
    content = packed.read_bytes()
    (tmp_path / "bad").write_bytes(content[: int(len(content) * share)])
    with pytest.raises(Damaged, match="no whole pack"):
        unpack(Store(tmp_path / "to"), tmp_path / "bad")
    assert not (tmp_path / "to").exists()


def test_a_missing_a_changed_and_a_stray_member_are_damage(packed, tmp_path):
    def without(members):
        return {name: content for name, content in members.items() if not name.endswith("audit.json")}

    def changed(members):
        return {name: content + b" " if name.endswith("spec.json") else content for name, content in members.items()}

    for change, words in (
        (without, "is missing"),
        (changed, "more bytes"),
        (lambda m: {**m, "x": b"x"}, "not in the manifest"),
    ):
        with pytest.raises(Damaged, match=words):
            unpack(Store(tmp_path / "to"), repacked(packed, tmp_path / "bad", change))
    assert not (tmp_path / "to").exists()


def test_a_member_that_unpacks_to_more_than_it_says_is_not_read(packed, tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(packed) as archive, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as bomb:
        for name in archive.namelist():
            bomb.writestr(name, b"\0" * 2_000_000 if name.endswith("spec.json") else archive.read(name))
    (tmp_path / "bad").write_bytes(buffer.getvalue())
    with pytest.raises(Damaged, match="more bytes than its"):
        unpack(Store(tmp_path / "to"), tmp_path / "bad")


def test_a_pack_of_too_many_bytes_is_refused_on_both_sides(source, packed, tmp_path, monkeypatch):
    monkeypatch.setattr("palinode.results.pack.LARGEST_PACK_BYTES", 1000)
    with pytest.raises(BadInput, match="a pack has at most 1,000"):
        unpack(Store(tmp_path / "to"), packed)
    with pytest.raises(BadInput, match="a pack has at most 1,000"):
        pack(source, "demo", tmp_path / "large")
    assert not list(tmp_path.iterdir())


def test_another_compression_is_damage(packed, tmp_path):
    with zipfile.ZipFile(packed) as archive, zipfile.ZipFile(tmp_path / "bad", "w", zipfile.ZIP_LZMA) as other:
        for name in archive.namelist():
            other.writestr(name, archive.read(name))
    with pytest.raises(Damaged, match="in a way that no pack uses"):
        unpack(Store(tmp_path / "to"), tmp_path / "bad")


@pytest.mark.parametrize("place", ["run", "audits", "experiments"])
def test_nothing_is_written_through_a_link_in_the_store(packed, tmp_path, place):
    store, outside = Store(tmp_path / "to").create(), tmp_path / "outside"
    outside.mkdir()
    with zipfile.ZipFile(packed) as archive:
        run_id = next(name.partition("/")[0] for name in archive.namelist() if name.endswith("result.json"))
    (store.root / (run_id if place == "run" else place)).symlink_to(outside)
    before = sorted(store.root.iterdir())
    with pytest.raises(Damaged, match="nothing is written through it"):
        unpack(store, packed)
    assert not list(outside.iterdir())
    assert sorted(store.root.iterdir()) == before


def test_a_damaged_result_is_not_packed(tmp_path):
    store = make_store(tmp_path / "runs")
    result = store.run_directory(store.entry("demo").runs[0].run_id) / "result.json"
    result.write_bytes(result.read_bytes().replace(b"done", b"gone"))
    with pytest.raises(Damaged) as refusal:
        pack(store, "demo", tmp_path / "demo.palinode")
    assert refusal.value.file == str(result)
    assert not (tmp_path / "demo.palinode").exists()


def test_a_name_that_the_store_takes_goes_through_a_pack(tmp_path):
    store = make_store(tmp_path / "runs")
    store.write_experiment(store.entry("demo").with_(name="Idée 2.0"))
    pack(store, "Idée 2.0", tmp_path / "file")
    assert unpack(Store(tmp_path / "to"), tmp_path / "file").experiment == "Idée 2.0--laptop"


def test_a_damaged_audit_of_the_store_is_replaced(source, packed, tmp_path):
    store = Store(tmp_path / "to")
    unpack(store, packed)
    for audit_hash in store.audits():
        (store.root / "audits" / f"{audit_hash}.json").write_text("{")
    unpack(store, packed)
    assert [store.audit(audit_hash) for audit_hash in source.audits()] == list(map(source.audit, source.audits()))


def test_a_newer_version_and_another_format_name_the_field(packed, tmp_path):
    newer = repacked(packed, tmp_path / "newer", lambda members: with_manifest(members, version=2, colour="new"))
    with pytest.raises(BadInput, match="is 2, and this program reads 1") as refusal:
        unpack(Store(tmp_path / "to"), newer)
    assert (refusal.value.field, refusal.value.file) == ("version", f"{newer}: manifest.json")
    other = repacked(packed, tmp_path / "other", lambda members: with_manifest(members, format="wheel"))
    with pytest.raises(BadInput, match="a pack says"):
        unpack(Store(tmp_path / "to"), other)
    (tmp_path / "zip").write_bytes(packed.read_bytes())
    with pytest.raises(BadInput, match="no pack of palinode"):
        unpack(Store(tmp_path / "to"), repacked(packed, tmp_path / "zip", lambda members: {"a": b"b"}))


def test_what_the_store_has_otherwise_is_refused_before_anything_is_written(packed, tmp_path):
    store = Store(tmp_path / "to")
    unpack(store, packed)
    entry = store.entry("demo")
    run = next(run for run in entry.runs if run.arm == "ltr")
    result = store.record(run.run_id).result
    store.write_result(result.with_(weights_sha256="0" * 64))
    before = files_of(store)
    with pytest.raises(BadInput, match="has other scores or weights"):
        unpack(store, packed)
    assert files_of(store) == before
    store.write_result(result)
    store.write_experiment(entry.with_(question="another?"))
    before = files_of(store)
    with pytest.raises(BadInput, match="is there already and differs"):
        unpack(store, packed)
    assert files_of(store) == before


def test_the_later_state_of_an_experiment_stays_in_whichever_order_the_packs_come(tmp_path):
    packs, stores = [], []
    for seeds in ((0, 1), (0, 1, 2)):
        store = make_store(tmp_path / f"from-{len(seeds)}" / "runs", Synthetic(seeds=seeds))
        store.append_look(store.entry("demo"), Look(seeds=(0, 1), outcomes=(), created="2026-01-05T10:00:00"))
        stores.append(store)
    stores[1].append_look(stores[1].entry("demo"), Look(seeds=(0, 1, 2), outcomes=(), created="2026-01-06T10:00:00"))
    for store in stores:
        packs.append(tmp_path / f"{store.root.parent.name}.palinode")
        pack(store, "demo", packs[-1])
    early, late = packs
    to = Store(tmp_path / "to")
    assert unpack(to, early) == ("demo--laptop", 6, 0, False)
    assert unpack(to, late) == ("demo--laptop", 3, 6, False)
    assert page_of(to) == page_of(stores[1])
    grown = files_of(to)
    assert unpack(to, early) == ("demo--laptop", 0, 6, True)
    assert files_of(to) == grown


@pytest.mark.parametrize("change", ["a decision without a seal", "another look", "a run of its own", "another start"])
def test_a_state_that_did_not_grow_out_of_the_other_is_refused(tmp_path, change):
    ours, theirs = (make_store(tmp_path / name / "runs", Synthetic(seeds=(0, 1))) for name in ("a", "b"))
    pack(ours, "demo", tmp_path / "ours")
    entry = theirs.entry("demo")
    ours.append_look(entry, Look(seeds=(0,), outcomes=(), created="2026-01-05T10:00:00"))
    if change == "another look":
        theirs.append_look(entry, Look(seeds=(0,), outcomes=(), created="2026-01-05T11:00:00"))
    elif change == "a decision without a seal":
        theirs.write_experiment(entry.with_(decision={**entry.decision, "smallest_effect": 0.5}))
    elif change == "another start":
        theirs.write_experiment(entry.with_(created="2026-02-01T00:00:00"))
    else:
        ours.write_experiment(entry.with_(runs=entry.runs[:-1]))
        theirs.write_experiment(entry.with_(runs=entry.runs[1:]))
    pack(theirs, "demo", tmp_path / "theirs")
    before = files_of(ours)
    with pytest.raises(BadInput, match="is there already and differs"):
        unpack(ours, tmp_path / "theirs")
    assert files_of(ours) == before


def test_a_run_that_a_process_works_on_is_left_alone(packed, tmp_path):
    store = Store(tmp_path / "to")
    unpack(store, packed)
    directory = store.run_directory(store.entry("demo").runs[0].run_id)
    (directory / "result.json").unlink()
    with take(directory), pytest.raises(EnvironmentProblem, match="working on this run"):
        unpack(store, packed)


def test_an_interrupted_unpack_leaves_a_store_that_the_next_one_completes(source, packed, tmp_path, monkeypatch):
    whole = Store(tmp_path / "whole")
    unpack(whole, packed)
    written, stopped = [], []

    def stops(path, content, write=fsio.write_bytes):
        if len(written) == stop and stop not in stopped:
            stopped.append(stop)
            raise KeyboardInterrupt
        written.append(path)
        write(path, content)

    for stop in (1, 5, 20):
        store = Store(tmp_path / f"to{stop}")
        written.clear()
        monkeypatch.setattr(fsio, "write_bytes", stops)
        with pytest.raises(KeyboardInterrupt):
            unpack(store, packed)
        monkeypatch.undo()
        assert store.experiments() == [], "the entry comes last"
        unpack(store, packed)
        assert verdicts(store.experiment("demo")) == verdicts(whole.experiment("demo"))
