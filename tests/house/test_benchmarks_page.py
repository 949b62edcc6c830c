"""docs/benchmarks.md says what the committed results say, and every program has its results."""

import importlib.util
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
# Programs in tools/ make docs/reliability.md and docs/census.md; benchmarks/verdict_statistics.py makes docs/statistics.md.
OF_OTHER_PAGES = {"reliability", "census", "verdict_statistics", "training_a_a"}
NOT_MEASURING = {
    "verdict_statistics",
    "training_a_a",
    "machine",
    "page",
    "plain",
    "shakespeare",
    "task_loops",
    "family_simulations",
}


@pytest.fixture
def page(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    spec = importlib.util.spec_from_file_location("benchmarks_page", BENCHMARKS / "page.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_made_from_the_results(page):
    assert page.PAGE.read_text(encoding="utf-8") == page.page(page.RESULTS), "run: python benchmarks/page.py"


def test_the_end_of_the_page_on_several_hosts_is_made_from_the_results(page):
    written = page.SCALING_PAGE.read_text(encoding="utf-8")
    assert written == page.scaling_page(page.RESULTS, written), "run: python benchmarks/page.py"
    assert "| as it is | 100,000 | 1,000 |" in written


def test_every_program_has_results_and_a_section(page):
    programs = {path.stem for path in BENCHMARKS.glob("*.py")} - NOT_MEASURING
    results = {path.stem for path in page.RESULTS.glob("*.json")} - OF_OTHER_PAGES
    assert programs == results == set(page.SECTIONS)


def test_the_section_of_long_rows_judges_growth_and_learning(page):
    rows = [
        {"case": case, "length": length, "peak_mib": length / 100, "seconds": 0.5, "first_loss": 4.0, "last_loss": 3.0}
        for case in ("hyena", "long_conv")
        for length in (1024, 2048)
    ]
    result = {
        "rows": rows,
        "judged": ["hyena", "long_conv"],
        "target_exponent": 1.15,
        "layers": 2,
        "width": 32,
        "vocabulary": 40,
    }
    section = "\n".join(page.long_context({**result, "exponents": {"hyena": 1.0, "long_conv": 1.1}}))
    assert "| hyena | 10 MiB, 0.50 s | 20 MiB, 0.50 s | 1.00 |" in section
    assert "a loss that falls; met." in section.replace("\n", " ")
    assert "**missed**" in "\n".join(page.long_context({**result, "exponents": {"hyena": 2.0, "long_conv": 1.1}}))
    rows[0]["last_loss"] = 4.5
    assert "**missed**" in "\n".join(page.long_context({**result, "exponents": {"hyena": 1.0, "long_conv": 1.1}}))


def test_the_section_of_the_step_rate_judges_shares_page_faults_and_bfloat16(page):
    def spread(median):
        return {"median": median, "lowest": median / 2, "highest": median * 2}

    row = {
        **{"case": "2x64, 16 x 128", "threads": 1, "mode": "float32", "cpu_ms": spread(40.0), "wall_ms": spread(41.0)},
        **{"model_gflop": 1.8, "optimizer_gflop": 0.1, "product_gflop_per_second": spread(60.0), "share": spread(0.7)},
        **{"page_faults": spread(3.0), "system_share": 0.01, "peak_mib": 99.0, "load_average": 1.5},
    }
    result = {
        "rows": [
            row,
            {**row, "threads": 2, "share": spread(0.3)},
            {**row, "case": "4x128, 16 x 128", "share": spread(0.7)},
        ],
        **{"bfloat16": [], "bfloat16_is_emulated": True, "vocabulary": 259, "target_page_faults": 50},
        **{"target_shares": {"2x64, 16 x 128": 0.64, "4x128, 16 x 128": 0.77, "2x64, 32 x 20": 0.45}},
        "target_bfloat16": 1.5,
    }
    lines = list(page.step_rate(result))
    assert "- share of 2x64, 16 x 128: at least 0.64; met (0.70)" in lines
    assert "- share of 4x128, 16 x 128: at least 0.77; **missed** (0.70)" in lines
    assert not any("share of 2x64, 32 x 20" in line for line in lines), "it was not measured"
    assert "- page faults of a step: fewer than 50; met (at most 3)" in lines
    assert "- bfloat16: not measured, because this CPU emulates it" in lines
    pair = {"case": "6x256, 16 x 64", "ratio": spread(1.6)}
    lines = list(page.step_rate({**result, "bfloat16": [pair], "bfloat16_is_emulated": False}))
    assert lines[-1] == "- 6x256, 16 x 64, float32 over bfloat16, CPU time: at least 1.5; met, 1.60 (0.80 to 3.20)"
