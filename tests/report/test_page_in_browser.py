"""The page in a real browser: no error, every chart drawn, hovering answers, names are never programs."""

import json

import pytest
from headless import CHROMIUM, Browser

from palinode.base.measures import CURVE_AXES
from palinode.report.build import build_report
from synthetic_store import Synthetic, SyntheticArm, grid, make_store

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]
ATTACK = "<img src=x onerror=\"window.pwned='image'\"><script>window.pwned='script'</script>${window.pwned='template'}"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return build_report(make_store(tmp_path_factory.mktemp("browser") / "runs"), "demo")


@pytest.fixture(scope="module")
def browser(report):
    with Browser() as opened:
        opened.open(report)
        yield opened


def place_in(browser, selector, index=0, across=0.5):
    """Scroll an element into view; the page coordinates of a point on its middle line."""
    element = f"document.querySelectorAll({json.dumps(selector)})[{index}]"
    browser.run(f"{element}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
    box = browser.run(f"(({{x, y, width, height}}) => [x, y, width, height])({element}.getBoundingClientRect())")
    return box[0] + across * box[2], box[1] + box[3] / 2


def hover(browser, selector, index=0, across=0.5):
    browser.move(1, 1)
    browser.wait("!document.querySelector('#vg-tooltip-element.visible')")
    x, y = place_in(browser, selector, index, across)
    browser.move(x - 2, y)
    browser.move(x, y)
    browser.wait("!!document.querySelector('#vg-tooltip-element.visible')", seconds=10)
    return browser.run("document.querySelector('#vg-tooltip-element').innerText")


def test_every_chart_is_drawn_and_the_console_is_silent(browser, report):
    assert browser.problems == []
    drawn = browser.run(
        "[...document.querySelectorAll('figure[data-figure]')].map(f => [f.dataset.figure, "
        "f.querySelectorAll('.canvas svg path, .canvas svg line, .canvas svg rect').length, "
        "f.querySelector('svg.marks').clientWidth])"
    )
    assert {name for name, _, _ in drawn} == {
        "differences",
        "learning-curves",
        "final--ltr",
        "final--rtl",
        "ratio-1--over-training",
        "ratio-2--over-training",
        "influence--ltr--ltr",
        "influence--both--ltr",
        "influence--both--rtl",
        "influence--both-published-mask--ltr",
        "influence--both-published-mask--rtl",
    }
    assert all(marks > 10 and width > 200 for _, marks, width in drawn), drawn
    assert {url.split("?")[0] for url in browser.requests if not url.startswith("data:")} == {
        report.absolute().as_uri()
    }


def test_hovering_a_curve_names_arm_seed_and_value(browser):
    text = hover(browser, "[data-figure=learning-curves] .canvas svg .mark-symbol.role-mark path", 20)
    for word in ("arm", "seed", "direction", "tokens read", "validation loss, nats per token"):
        assert word in text, text


def test_hovering_the_final_scores_and_the_map_answers(browser):
    assert "seed" in hover(browser, "[data-figure='final--ltr'] .canvas svg .mark-symbol.role-mark path", 1)
    assert "interval" in hover(browser, "[data-figure=differences] .canvas svg .intervals_marks path", across=0.03)
    text = hover(browser, "[data-figure='influence--both-published-mask--rtl'] .canvas svg .cells_leak_marks path", 40)
    assert "LEAK" in text
    assert "influence" in text


@pytest.mark.parametrize("axis", sorted(CURVE_AXES))
def test_the_axis_switch_redraws_the_curves(browser, axis):
    browser.run(f"document.querySelector('[data-figure=learning-curves] input[value={axis}]').click()")
    browser.wait(f"document.querySelector('[data-figure=learning-curves]').dataset.drawn === '{axis}'")
    titles = browser.run(
        "[...document.querySelectorAll('[data-figure=learning-curves] svg text')].map(t => t.textContent)"
    )
    assert CURVE_AXES[axis].heading in titles
    lines = browser.run("document.querySelectorAll('[data-figure=learning-curves] .mark-line path').length")
    assert lines == 20  # 15 seeds' lines and 5 means
    assert browser.problems == []


def test_the_direction_switch_shows_one_direction(browser):
    browser.run("document.querySelector('[data-figure=learning-curves] input[value=ltr]').click()")
    browser.wait("document.querySelectorAll('[data-figure=learning-curves] .mark-line path').length === 12")
    browser.run("document.querySelector('[data-figure=learning-curves] input[name^=direction][value=\"\"]').click()")
    browser.wait("document.querySelectorAll('[data-figure=learning-curves] .mark-line path').length === 20")


def test_a_name_clicked_in_the_legend_is_seen_alone(browser):
    lines = "[...document.querySelectorAll('[data-figure=learning-curves] .mark-line path')]"
    faint = f"{lines}.filter(line => Number(line.getAttribute('opacity')) < 0.1).length"
    names = "[...document.querySelectorAll('[data-figure=learning-curves] .role-legend-label text')]"
    name = f"{names}.find(text => text.textContent === 'both')"
    click = f"{name}.dispatchEvent(new PointerEvent('click', {{bubbles: true}}))"
    assert browser.run(faint) == 0
    browser.run(click)
    browser.wait(f"{faint} === 20 - 8")  # of three arms with three seeds and a mean, two of them in both directions
    browser.run(click)
    browser.wait(f"{faint} === 0")


def test_the_log_switch_stretches_both_axes_and_back(browser):
    """On a log axis equal ratios are equally far apart: the labels' places tell which axis it is."""
    figure = "[data-figure=learning-curves]"
    browser.run(f"document.querySelector('{figure} input[value=step]').click()")
    browser.wait(f"document.querySelector('{figure}').dataset.drawn === 'step'")
    before = browser.run(f"document.querySelector('{figure} .mark-line path').getAttribute('d')")
    for axis in ("step", "train_flops"):
        browser.run(f"document.querySelector('{figure} input[value={axis}]').click()")
        browser.wait(f"document.querySelector('{figure}').dataset.drawn === '{axis}'")
        browser.run(f"document.querySelector('{figure} input[value=log]').click()")
        browser.wait(f"document.querySelector('{figure}').dataset.axes === 'log'")
        assert browser.run(f"document.querySelectorAll('{figure} .mark-line path').length") == 20
        assert browser.run(f"document.querySelector('{figure} .mark-line path').getAttribute('d')") != before
        browser.run(f"document.querySelector('{figure} input[value=log]').click()")
        browser.wait(f"document.querySelector('{figure}').dataset.axes === 'linear'")
    browser.run(f"document.querySelector('{figure} input[value=step]').click()")
    browser.wait(f"document.querySelector('{figure} .mark-line path').getAttribute('d') === {json.dumps(before)}")
    assert browser.problems == []


@pytest.fixture(scope="module")
def sizes(tmp_path_factory):
    """The page of a depth x width grid with layer cuts; its files are drawn elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("palinode.report.build.write_figures", lambda figures, directory: [])
        store = make_store(tmp_path_factory.mktemp("sizes") / "runs", grid((2, 4), (64, 128), refitted=True))
        page = build_report(store, "grid")
    with Browser() as opened:
        opened.open(page)
        yield opened


@pytest.mark.nightly
def test_every_chart_of_a_grid_is_drawn_on_every_switch(sizes):
    assert sizes.problems == []
    kinds = (
        "ratio-1--over-training",
        "ratio-2--over-training",
        "ratio-1-by-size",
        "grid-ltr",
        "grid-rtl",
        "grid-ratio-1",
    )
    kinds += ("layer-cut-loss", "layer-cut-ratio-1", "layer-cut-ratio-2")
    for kind in kinds:
        figure = f"[data-figure='{kind}--both']"
        switches = sizes.run(f"[...document.querySelectorAll(`{figure} input[name^=axis]`)].map(input => input.value)")
        for value in switches:
            sizes.run(f"document.querySelector(`{figure} input[name^=axis][value='{value}']`).click()")
            sizes.wait(f"document.querySelector(`{figure}`).dataset.drawn === '{value}'")
            assert sizes.run(f"document.querySelectorAll(`{figure} .canvas svg .role-mark path`).length") >= 4, (
                kind,
                value,
            )
    assert sizes.problems == []


def test_hovering_says_the_interval_and_the_seeds(sizes):
    text = hover(sizes, "[data-figure='layer-cut-ratio-2--both'] .canvas svg .mark-symbol.role-mark path", 1)
    for word in ("interval from", "seeds", "blocks left"):
        assert word in text, text
    assert "over 3 seeds" in hover(sizes, "[data-figure='grid-ratio-1--both'] .canvas svg .mark-rect.role-mark path", 1)


def test_a_narrow_page_does_not_scroll_sideways(browser):
    browser.call("Emulation.setDeviceMetricsOverride", width=390, height=800, deviceScaleFactor=1, mobile=True)
    browser.run("window.dispatchEvent(new Event('resize'))")
    browser.wait("document.querySelector('[data-figure=learning-curves] svg').clientWidth <= 390")
    assert browser.run("document.documentElement.scrollWidth") <= 390
    browser.call("Emulation.clearDeviceMetricsOverride")


@pytest.mark.parametrize(
    "reload", [pytest.param(True, id="opened narrow"), pytest.param(False, id="made narrow", marks=pytest.mark.nightly)]
)
def test_no_title_of_an_axis_is_cut_on_a_narrow_page(browser, reload):
    browser.run("document.documentElement.dataset.charts = ''")
    browser.call("Emulation.setDeviceMetricsOverride", width=420, height=900, deviceScaleFactor=1, mobile=True)
    if reload:
        browser.call("Page.reload")
    browser.wait("document.documentElement?.dataset.charts === 'drawn'")
    cut = browser.run(
        "[...document.querySelectorAll('figure[data-figure]')].flatMap(f => { const box = f.querySelector('.canvas svg')"
        ".getBoundingClientRect(); return [...f.querySelectorAll('.role-axis-title text')].filter(t => { const r = "
        "t.getBoundingClientRect(); return r.left < box.left - 1 || r.right > box.right + 1; }).map(t => t.textContent); })"
    )
    assert cut == []
    browser.call("Emulation.clearDeviceMetricsOverride")
    browser.call("Page.reload")
    browser.wait("document.documentElement?.dataset.charts === 'drawn'")


def test_the_first_screen_shows_a_chart_and_what_was_trained(browser):
    browser.call("Emulation.setDeviceMetricsOverride", width=1400, height=900, deviceScaleFactor=1, mobile=False)
    browser.run("window.scrollTo(0, 0)")
    for selector in ("[data-figure=differences] .canvas", "#trained dl"):
        assert browser.run(f"document.querySelector('{selector}').getBoundingClientRect().bottom") <= 900
    browser.call("Emulation.clearDeviceMetricsOverride")


def test_on_paper_charts_are_no_wider_than_the_page(browser):
    widths = (
        "[...document.querySelectorAll('figure[data-figure] svg.marks')].map(svg => Number(svg.getAttribute('width')))"
    )
    # again and again: a window that was just resized gives its charts their width a moment later
    browser.wait(f"window.dispatchEvent(new Event('beforeprint')), Math.max(...{widths}) <= 645")
    browser.wait(f"window.dispatchEvent(new Event('afterprint')), Math.max(...{widths}) > 700")


def test_dark_paper_is_drawn_with_light_ink(browser):
    def ink():
        return browser.run("getComputedStyle(document.querySelector('[data-figure=differences] svg text')).fill")

    light = ink()
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    browser.wait(
        "getComputedStyle(document.querySelector('[data-figure=differences] svg text')).fill !== " + json.dumps(light)
    )
    browser.call("Emulation.setEmulatedMedia", features=[])
    assert browser.problems == []


def test_names_are_never_programs(tmp_path):
    arms = (SyntheticArm(ATTACK), SyntheticArm("'\"><svg/onload=alert(1)>" + ATTACK, rtl="honest", p=0.5, note=ATTACK))
    wanted = Synthetic(arms=arms, question=ATTACK, command=("palinode", ATTACK), scales=(ATTACK,), steps=200)
    report = build_report(make_store(tmp_path / "runs", wanted), "demo")
    with Browser() as browser:
        browser.open(report)
        hover(browser, "[data-figure^=learning] .canvas svg .mark-symbol.role-mark path", 2)
        hover(browser, "[data-figure^=differences] .canvas svg .intervals_marks path", across=0.03)
        assert browser.run("window.pwned") is None
        assert browser.run("document.querySelectorAll('img, iframe, object, embed').length") == 0
        assert browser.problems == []
        assert ATTACK in browser.run("document.querySelector('h1').textContent")


def test_the_policy_refuses_what_is_not_ours(report, tmp_path):
    """The positive control: the same browser does complain about a script that the policy does not name."""
    page = report.read_text().replace("</main>", "<script>window.pwned = 1</script></main>")
    (tmp_path / "changed.html").write_text(page)
    with Browser() as browser:
        browser.open(tmp_path / "changed.html")
        assert browser.run("window.pwned") is None
        assert any("Content Security Policy" in problem for problem in browser.problems)
