"""The page of a report: one HTML file that needs no other file. No name in a store can put code into the page.

The template engine escapes every value. The data of the charts is JSON in a block of text that no browser runs; compression with
gzip makes it five times smaller, and it is written in base64. The content security policy of the page allows exactly two scripts
and one style sheet, by their hashes, and no network. Vega runs its expressions through an interpreter, so the policy does not need
`unsafe-eval`.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import time
from collections.abc import Sequence
from functools import cache
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
LIBRARY_SNIPPET = "window.vegaEmbed = vegaEmbed;"  # with this line in the bundle, report.js can call vegaEmbed
ESCAPES = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}

VERDICT_WORDS = (
    "sentence",
    "headline",
    "alone",
    "stability",
    "published",
    "predicted",
    "more_seeds",
)  # functions of words.py
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


@cache
def _chart_library() -> str:
    """Vega and its parts as one script. To put it together takes 1.5 s, so that a process does it once."""
    return str(vl_convert.javascript_bundle(LIBRARY_SNIPPET))


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
    environment.globals |= {name: getattr(words, name) for name in VERDICT_WORDS}
    environment.globals |= {"cost_axes": COST_AXES, "code_of": code_of}
    scripts = {"library": _chart_library(), "script": _source("report.js")}
    style = _source("report.css")
    return environment.get_template("report.html").render(
        page=page_content(page),
        policy=_policy(list(scripts.values()), style),
        style=Markup(style),  # noqa: S704  the style sheet is our own file
        data=packed(embedded_json(_chart_data(page.figures))),
        written=_written(),
        version=_version(),
        **{name: Markup(text) for name, text in scripts.items()},  # noqa: S704  the scripts are our own file and the library
    )


def embedded_json(value: Any) -> str:
    """The value as JSON text. Characters that could end the script block around the text are escaped."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=True).translate(
        ESCAPES
    )


def packed(text: str) -> str:
    """The text, compressed with gzip and written in base64. Equal texts give equal bytes."""
    return base64.b64encode(gzip.compress(text.encode("utf-8"), compresslevel=9, mtime=0)).decode()


def columns(rows: Rows) -> dict[str, Any]:
    """The rows of a chart as a mapping (column -> values), which is five times smaller. Texts are indices into a list of words.

    On the page, `report.js` turns the columns into rows again.
    """
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
    """The charts of all figures. If several figures have an equal chart specification, it is stored only once."""
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
    """The date and time of writing, or the time in the environment variable SOURCE_DATE_EPOCH, so that the bytes repeat."""
    fixed = os.environ.get("SOURCE_DATE_EPOCH", "")
    seconds = int(fixed) if fixed.isdigit() else int(time.time())
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def _version() -> str:
    try:
        return metadata.version("palinode")
    except metadata.PackageNotFoundError:  # Palinode runs from a source tree and is not installed
        return "not installed"
