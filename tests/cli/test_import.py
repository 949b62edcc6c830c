"""`palinode import mask`: published rows become records, the alarm sounds, and a bad file is one line and no trace."""

import csv
import json
import random
from pathlib import Path

import pytest
from tiny_experiment import everything_in

from palinode.published.mask_csv import CUT_SCORES, DIRECTIONS, EVAL, EVAL_SCORES, TRAIN
from palinode.results.store import Store

LISTS = {place.format(way) for places in (EVAL_SCORES, CUT_SCORES) for place in places.values() for way in ("fw", "bw")}


def row(depth=4, width=96, p=0.05, seed=1, evaluations=5, rtl=1.01, mask="bidirectional", **changes):
    """One published model: ltr 6 / sqrt(evaluation), rtl that many times as much."""
    ltr = [6.0 / index**0.5 for index in range(1, evaluations + 1)]
    nats = {"fw": ltr, "bw": [rtl * value for value in ltr]}
    cut = {way: [values[-1] + removed for removed in range(1, depth)] for way, values in nats.items()}
    lists = {name: [50.0 * n for n in range(evaluations)] for name in TRAIN.values()}
    lists |= {name: [n + 0.5 for n in range(evaluations)] for name in EVAL.values()}
    for name in ("steps_train", "steps_val", "tokens_seen_train", "tokens_seen_val"):
        lists[name] = [50 * (n + 1) for n in range(evaluations)]
    lists["train_accs"] = [0.1] * evaluations
    for way in DIRECTIONS.values():
        lists |= {f"val_losses_{way}": nats[way], f"val_accs_{way}": [0.2] * evaluations}
        lists |= {f"val_pplxs_{way}": [9.0] * evaluations, f"cut_losses_{way}": cut[way]}
        lists |= {f"cut_accs_{way}": [0.1] * (depth - 1), f"cut_pplxs_{way}": [30.0] * (depth - 1)}
    lists |= {"n_layers_removed": list(range(1, depth)), "backward_probs": [p] * 7}
    plain = {
        "depth": depth,
        "width": width,
        "num_params": depth * width**2,
        "run_num": seed,
        "seed": seed,
        "mask": mask,
    }
    plain |= {
        "model_scale": 1.0,
        "initial_backward_prob": p,
        "adjust_backward_prob": "false",
        "use_extra_tokens": "true",
    }
    plain |= {"final_val_loss_fw": nats["fw"][-1], "final_val_loss_bw": nats["bw"][-1]}
    return plain | {name: json.dumps(values) for name, values in lists.items()} | changes


def write(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


GRID = [row(depth, width, p, seed) for depth in (2, 4) for width in (64, 96) for p in (0.05, 0.1) for seed in (1, 2, 3)]


def test_rows_become_runs_of_one_experiment(palinode, here):
    output = palinode("import", "mask", str(write(here / "a.csv", GRID)))
    assert (output.code, output.err) == (0, "")
    store = Store("runs")
    record = store.experiment("mask-published")
    assert len(record.runs) == len(GRID)
    assert all(run.outcome == "done" and run.result.provenance == "imported" for run in record.runs)
    assert [arm.name for arm in record.entry.arms] == ["p=0", "p=0.05", "p=0.1"]
    assert record.entry.scales == ("2x64", "4x64", "2x96", "4x96")  # by parameters
    one = record.runs_of("p=0.05", "4x96")[0]
    assert one.result.score("validation.rtl.nats_per_token") == pytest.approx(1.01 * 6 / 5**0.5)
    assert one.result.parameters == {"total": 4 * 96**2}
    assert one.record.spec["model"]["layers"] == 4
    assert one.result.source["line"] == 2 + GRID.index(row(4, 96, 0.05, 1))


LATER_COLUMNS = {"use_extra_tokens", "n_layers_removed", *(name for name in LISTS if name.startswith("cut_"))}


def test_the_oldest_table_has_no_direction_tokens_and_no_cuts(palinode, here, monkeypatch):
    monkeypatch.setattr("palinode.report.build.write_figures", lambda figures, directory: [])
    rows = [{name: value for name, value in one.items() if name not in LATER_COLUMNS} for one in GRID]
    told = palinode("import", "mask", str(write(here / "a.csv", rows)))
    assert (told.code, told.err) == (0, "")
    record = Store("runs").experiment("mask-published")
    assert [arm.name for arm in record.entry.arms[1:]] == ["p=0.05, no direction tokens", "p=0.1, no direction tokens"]
    assert {event["event"] for event in record.runs[0].record.metrics} == {"train", "eval", "rtl_probability"}
    assert palinode("report", "mask-published").code == 0


def test_a_table_with_some_of_the_cut_columns_is_refused(palinode, here):
    rows = [{name: value for name, value in one.items() if name != "cut_accs_bw"} for one in GRID]
    told = palinode("import", "mask", str(write(here / "a.csv", rows)))
    assert told.code == 2
    assert "column cut_accs_bw: is missing" in told.err


def test_the_number_of_heads_is_a_setting_of_its_own(palinode, here):
    rows = [row(seed=seed, num_heads=heads) for heads in (1, 2, 4) for seed in (1, 2)]
    told = palinode("import", "mask", str(write(here / "a.csv", rows)))
    assert (told.code, told.err) == (0, "")
    record = Store("runs").experiment("mask-published")
    assert record.entry.scales == ("4x96", "4x96, 2 heads", "4x96, 4 heads")
    assert [run.record.spec["model"]["heads"] for run in record.runs_of("p=0.05", "4x96, 2 heads")] == [2, 2]
    assert "num_heads" in palinode("import", "mask", str(write(here / "b.csv", [row(num_heads=0)])), "--name", "b").err


def test_every_curve_and_the_layer_cut_arrive(palinode, here):
    palinode("import", "mask", str(write(here / "a.csv", [row(depth=3, evaluations=4)])))
    [run] = Store("runs").experiment("mask-published").runs
    by_event = {}
    for line in run.record.metrics:
        by_event.setdefault(line["event"], []).append(line)
    assert [line["step"] for line in by_event["eval"]] == [50, 100, 150, 200]
    assert [line["seconds"] for line in by_event["eval"]] == [0.5, 1.5, 2.5, 3.5]
    assert by_event["eval"][1]["scores"]["ltr"]["nats_per_token"] == 6.0 / 2**0.5
    assert len(by_event["train"]) == 4
    [cut] = by_event["layer_cut"]
    assert [item["blocks"] for item in cut["scores"]["ltr"]] == [1, 2, 3]
    assert [item["nats_per_token"] for item in cut["scores"]["ltr"]] == [3.0 + 2, 3.0 + 1, 3.0]
    assert by_event["rtl_probability"][0]["p_and_passes"] == [[0.05, 7]]


def test_importing_twice_changes_nothing(palinode, here):
    file = write(here / "a.csv", GRID[:3])
    assert palinode("import", "mask", str(file)).code == 0
    before = {path: (content, (here / path).stat().st_mtime_ns) for path, content in everything_in(here).items()}
    output = palinode("import", "mask", str(file), "--json")
    assert json.loads(output.out)["written"] == 0
    assert {
        path: (content, (here / path).stat().st_mtime_ns) for path, content in everything_in(here).items()
    } == before


def without_caches(directory: Path) -> dict[str, bytes | None]:
    """Every path without the rows for listings, to which each ended run adds a line."""
    return {path: content for path, content in everything_in(directory).items() if "/index.d/" not in path}


def test_an_import_that_was_cut_off_is_finished_by_the_next(palinode, here):
    file = write(here / "a.csv", GRID[:3])
    palinode("import", "mask", str(file))
    whole = without_caches(here)
    run_id = Store("runs").run_ids()[1]
    (here / "runs" / run_id / "result.json").unlink()
    (here / "runs" / run_id / "metrics.jsonl").write_text("")
    palinode("import", "mask", str(file))
    assert without_caches(here) == whole


def test_another_file_under_the_same_name_is_refused(palinode, here):
    palinode("import", "mask", str(write(here / "a.csv", GRID[:3])))
    before = everything_in(here)
    output = palinode("import", "mask", str(write(here / "a.csv", GRID[:2])))
    assert (output.code, "--name" in output.err) == (2, True)
    assert {p: c for p, c in everything_in(here).items() if "runs" in p} == {
        p: c for p, c in before.items() if "runs" in p
    }
    assert palinode("import", "mask", "a.csv", "--name", "second").code == 0
    assert palinode("import", "mask", "a.csv", "--name", "../up").code == 2


def test_an_rtl_loss_far_below_ltr_is_stamped_everywhere(palinode, here):
    rows = [
        row(depth, 96, p, seed, rtl=0.2 if (p, depth) == (0.1, 4) else 1.01)
        for depth in (2, 4)
        for p in (0.05, 0.1)
        for seed in (1, 2)
    ]
    output = palinode("import", "mask", str(write(here / "a.csv", rows)))
    assert "LEAK  p=0.1: rtl far below ltr in 2 of 4 runs" in output.out
    assert "LEAK  p=0.05" not in output.out
    assert "arm p=0.1  LEAK" in palinode("show", "mask-published").out
    assert "arm p=0.05  LEAK" not in palinode("show", "mask-published").out
    compared = palinode("compare", "mask-published").out
    assert compared.count("LEAK  p=0.1") == 2  # also at the scale where the numbers alone do not show it
    assert "p=0.1 sees its own answer at 4x96" in compared


def test_without_a_baseline_the_verdict_says_what_is_missing(palinode, here):
    palinode("import", "mask", str(write(here / "a.csv", GRID[:6])))
    output = palinode("compare", "mask-published")
    assert output.code == 0
    assert "p=0 has no run with this seed" in output.out
    verdicts = json.loads(palinode("compare", "mask-published", "--json").out)
    assert {verdict["outcome"] for verdict in verdicts} == {"cannot tell"}


def test_a_file_with_p_0_has_its_baseline(palinode, here):
    rows = [row(2, 64, p, seed, rtl=1.4 if p == 0 else 1.01) for p in (0.05, 0.0) for seed in (1, 2)]
    assert palinode("import", "mask", str(write(here / "a.csv", rows))).code == 0
    record = Store("runs").experiment("mask-published")
    assert [arm.name for arm in record.entry.arms] == ["p=0", "p=0.05"]
    assert all(not arm.note.endswith("no such run.") for arm in record.entry.arms)
    [verdict] = json.loads(palinode("compare", "mask-published", "--json").out)
    assert verdict["pairs"] == 2


@pytest.mark.parametrize(
    ("changes", "column", "message"),
    [
        ({"val_losses_fw": "[1, 2"}, "val_losses_fw", "not a list"),
        ({"val_losses_fw": "[1, 2, 3, 4, nan]"}, "val_losses_fw", "not a list of finite"),
        ({"val_losses_fw": "[1, 2, 3, 4, NaN]"}, "val_losses_fw", "not a list of finite"),
        ({"val_losses_fw": "[1, 2, 3, 4, 1e999]"}, "val_losses_fw", "not a finite number"),
        ({"val_losses_fw": "[1, 2, 3, 4, true]"}, "val_losses_fw", "not a finite number"),
        ({"val_losses_fw": "[1, 2, 3, 4, [5]]"}, "val_losses_fw", "not a finite number"),
        ({"val_losses_fw": "[" * 100_000}, "val_losses_fw", "not a list"),
        ({"val_losses_fw": "[" + "9" * 10_000 + "]"}, "val_losses_fw", "not a list"),
        ({"val_losses_fw": "__import__('os').getcwd()"}, "val_losses_fw", "not a list"),
        ({"val_losses_fw": '{"a": 1}'}, "val_losses_fw", "not a list"),
        ({"val_losses_fw": "[1, 2, 3, 4]"}, "val_losses_fw", "4 numbers, steps_val 5"),
        ({"val_losses_fw": "[1, 2, 3, 4, -5]"}, "val_losses_fw", "below 0"),
        ({"val_accs_bw": "[0, 0, 0, 0, 1.5]"}, "val_accs_bw", "between 0 and 1"),
        ({"steps_val": "[50, 50, 150, 200, 250]"}, "steps_val", "does not grow"),
        ({"steps_val": "[50.5, 100, 150, 200, 250]"}, "steps_val", "not a whole number"),
        ({"n_layers_removed": "[1, 2, 4]"}, "n_layers_removed", "at least one"),
        ({"cut_accs_fw": "[]"}, "cut_accs_fw", "0 numbers"),
        ({"depth": "four"}, "depth", "not a whole number"),
        ({"depth": ""}, "depth", "not a whole number"),
        ({"width": "0"}, "width", "at least 1"),
        ({"seed": "-1"}, "seed", "not a whole number"),
        ({"seed": "1" * 50}, "seed", "not a whole number"),
        ({"initial_backward_prob": "5"}, "initial_backward_prob", "probability"),
        ({"final_val_loss_fw": "inf"}, "final_val_loss_fw", "finite"),
        ({"adjust_backward_prob": "maybe"}, "adjust_backward_prob", "neither true nor false"),
        ({"mask": "sideways"}, "mask", "none of"),
        ({"seed": "2"}, "seed", "line 3 again"),
    ],
)
def test_a_bad_cell_is_one_line_with_its_place_and_nothing_is_written(palinode, here, changes, column, message):
    file = write(here / "a.csv", [row(seed=1), row(seed=2), row(seed=3) | changes])
    before = everything_in(here)
    output = palinode("import", "mask", str(file))
    assert (output.code, output.out) == (2, "")
    assert output.err.count("\n") == 1
    assert f"a.csv: line 4, column {column}: " in output.err
    assert message in output.err
    assert everything_in(here) == before


def broken(text, kind):
    lines = text.splitlines(keepends=True)
    return {
        "empty": "",
        "blank": "\n\n",
        "header only": lines[0],
        "cut in a row": text[: len(text) - 40],
        "a cell too many": text.rstrip() + ",7\n",
        "an open quote": text.replace('"', "", 1),
        "nul": text.replace("bidirectional", "bi\0directional"),
        "no width": lines[0].replace("width", "breadth") + lines[1],
        "width twice": lines[0].replace("depth", "width") + lines[1],
        "not CSV": "\x00\x01\x02" * 50,
    }[kind]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("empty", "line 1: holds no rows"),
        ("blank", "column"),
        ("header only", "line 2: holds no rows"),
        ("cut in a row", "line 2"),
        ("a cell too many", "line 2, column"),
        ("an open quote", "line 2"),
        ("nul", "line 2"),
        ("no width", "line 1, column width: is missing"),
        ("width twice", "column"),
        ("not CSV", "line 1"),
    ],
)
def test_a_bad_file_is_one_line_and_nothing_is_written(palinode, here, kind, message):
    file = write(here / "a.csv", [row()])
    file.write_bytes(broken(file.read_bytes().decode(), kind).encode())
    before = everything_in(here)
    output = palinode("import", "mask", str(file))
    assert (output.code, output.out, output.err.count("\n")) == (2, "", 1)
    assert "a.csv: " in output.err
    assert message in output.err
    assert everything_in(here) == before


def test_what_is_not_a_text_file_is_refused(palinode, here):
    (here / "a.csv").write_bytes(b"depth\n\xff\xfe\n")
    assert "line 2: is not UTF-8" in palinode("import", "mask", "a.csv").err
    assert palinode("import", "mask", ".").code == 2
    assert palinode("import", "mask", "absent.csv").code == 2


def test_damage_anywhere_never_crashes(palinode, here):
    """Single bytes of a good file changed at random: imported or refused, never an internal error."""
    good = write(here / "a.csv", [row(depth=2, evaluations=2)]).read_bytes()
    draw = random.Random(7)
    for number in range(60):
        damaged = bytearray(good)
        damaged[draw.randrange(len(damaged))] = draw.choice(b'",[]0x\n\xff-')
        (here / "a.csv").write_bytes(damaged)
        output = palinode("import", "mask", "a.csv", "--store", f"store{number}")
        assert output.code in (0, 2), output.err
        assert output.err.count("\n") == (output.code == 2)
