"""The page: one HTML file that needs nothing else, and that no name in a store can turn into a program.

Everything is escaped by the template engine; the data of the charts lies in a block of text that no browser runs: JSON, packed
with gzip and written in base64, a fifth of its size. The policy at the top allows exactly the two scripts and the one style
sheet below, by their hashes, and no network at all. Vega runs its expressions through an interpreter, so no `unsafe-eval` is
needed.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import time
from collections.abc import Sequence
from importlib import metadata, resources
from typing import Any

import jinja2
import vl_convert
from markupsafe import Markup

from palinode.base.measures import COST_AXES
from palinode.checks.explained import code_of
from palinode.report import theme, words
from palinode.report.charts import ROWS
from palinode.report.content import Page, page_content
from palinode.report.study import Figure, Rows

TEMPLATES = "templates"
LIBRARY_SNIPPET = "window.vegaEmbed = vegaEmbed;"  # what the bundle hands to report.js
ESCAPES = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}

FILTERS = {
    "number": words.number,
    "signed": words.signed,
    "aligned": words.aligned,
    "percent": words.percent,
    "duration": words.duration,
    "plain": words.plain,
    "value": words.value,
    "home": lambda text: words.without_home(str(text)),
    "metric": lambda metric: ", ".join(words.metric_words(metric)),
}


def render_page(page: Page) -> str:
    """The HTML text of the page."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_source),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= FILTERS
    environment.globals |= {"effect": words.effect, "headline": words.headline, "more_seeds": words.more_seeds}
    environment.globals |= {"cost_axes": COST_AXES, "code_of": code_of}
    scripts = {"library": vl_convert.javascript_bundle(LIBRARY_SNIPPET), "script": _source("report.js")}
    style = _source("report.css")
    return environment.get_template("report.html").render(
        page=page_content(page),
        policy=_policy(list(scripts.values()), style),
        style=Markup(style),  # noqa: S704  our own file
        data=packed(embedded_json(_chart_data(page.figures))),
        written=_written(),
        version=_version(),
        **{name: Markup(text) for name, text in scripts.items()},  # noqa: S704  our own file and the packaged library
    )


def embedded_json(value: Any) -> str:
    """JSON without the characters that could end its script block."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=True).translate(
        ESCAPES
    )


def packed(text: str) -> str:
    """The text compressed with gzip and written in base64. The same text gives the same bytes."""
    return base64.b64encode(gzip.compress(text.encode("utf-8"), compresslevel=9, mtime=0)).decode()


def columns(rows: Rows) -> dict[str, Any]:
    """Rows as columns, with texts as indices into a list of words: a fifth of the size. `report.js` makes rows of them again."""
    names = dict.fromkeys(name for row in rows for name in row)
    packed: dict[str, Any] = {}
    for name in names:
        values = [row.get(name) for row in rows]
        if any(isinstance(value, str) for value in values):
            words = list(dict.fromkeys(values))
            places = {word: place for place, word in enumerate(words)}
            packed[name] = {"words": words, "at": [places[value] for value in values]}
        else:
            packed[name] = values
    return packed


def _chart_data(figures: Sequence[Figure]) -> dict[str, Any]:
    """The charts by figure. A specification that several figures share, such as curves at every scale, is stored once."""
    specifications: dict[str, int] = {}
    places = {
        figure.name: {
            variant: specifications.setdefault(json.dumps(specification, sort_keys=True), len(specifications))
            for variant, specification in figure.variants.items()
        }
        for figure in figures
    }
    return {
        "rows_name": ROWS,
        "figures": {
            figure.name: {"columns": columns(figure.rows), "charts": places[figure.name]} for figure in figures
        },
        "specifications": [json.loads(text) for text in specifications],
        "config": {"light": theme.vega_config(theme.LIGHT), "dark": theme.vega_config(theme.DARK)},
    }


def _policy(scripts: Sequence[str], style: str) -> str:
    allowed = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'sha256-{_digest(style)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode()


def _source(name: str) -> str:
    return (resources.files("palinode.report") / TEMPLATES / name).read_text(encoding="utf-8")


def _written() -> str:
    """The day on which the page is written, or the day of SOURCE_DATE_EPOCH, which makes the bytes repeatable."""
    fixed = os.environ.get("SOURCE_DATE_EPOCH", "")
    seconds = int(fixed) if fixed.isdigit() else int(time.time())
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def _version() -> str:
    try:
        return metadata.version("palinode")
    except metadata.PackageNotFoundError:  # run from a source tree that was never installed
        return "not installed"
