"""The look of charts: colours of arms and sizes, and two Vega configurations, for a light and a dark background."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from string import Template
from typing import Any

import vl_convert

BASELINE = "#4a6a8f"
ARMS = ("#1f8a80", "#c7861a", "#7a5ba6", "#5f8f2e", "#b0578d", "#3c9dc4", "#8a6a4f", "#6f7480")
LEAKS = ("#c8372d", "#e08a5b", "#8f1d3f", "#f0a59c")  # red marks a leak everywhere on the page
# The colours of model sizes, from the smallest model to the largest.
SIZES = ("#d29a2e", "#7d9a3f", "#1f8a80", "#3f7fb0", "#5a5fa8", "#7a3f86")
LEAKING_SIZES = ("#f0b48f", "#e58a66", "#d8503f", "#b32a33", "#8f1d3f")
DASHES: dict[str, list[int]] = {"ltr": [1, 0], "rtl": [5, 4]}
OTHER_DASHES: tuple[list[int], ...] = ([2, 3], [9, 3, 2, 3], [12, 4])
NO_XML = re.compile("[^\\t\\n\\r\\u0020-\\ud7ff\\ue000-\\ufffd\\U00010000-\\U0010ffff]")  # XML 1.0, section 2.2
FONT = "Helvetica Neue, Helvetica, Arial, Liberation Sans, sans-serif"

LIGHT = {"ink": "#26241f", "muted": "#6d685e", "rule": "#e4dfd3", "faint": "#f3efe6", "paper": "#fdfcf9"}
DARK = {"ink": "#e9e5dc", "muted": "#a39d90", "rule": "#3a3833", "faint": "#262522", "paper": "#1b1a18"}


def arm_colours(arms: Sequence[str], baseline: str, leaking: Sequence[str]) -> dict[str, str]:
    """The colour of each arm: fixed for the baseline, red for arms that leak, and in the experiment's order for the others.

    If there are more arms than colours, each family of arms gets shades of one colour. A family is a set of arms whose names have
    the same text before the first `-`. The family of the baseline gets shades of the baseline's colour.
    """
    honest = [arm for arm in arms if arm not in leaking]
    families = list(dict.fromkeys(_family(arm) for arm in honest))
    if len(honest) > len(ARMS) + 1 and 1 < len(families) <= len(ARMS) + 1:
        colours = _family_colours(honest, _family(baseline), families)
    else:
        others = [arm for arm in honest if arm != baseline]
        colours = {baseline: BASELINE} | {arm: ARMS[index % len(ARMS)] for index, arm in enumerate(others)}
    colours |= {arm: LEAKS[index % len(LEAKS)] for index, arm in enumerate(leaking)}
    return {arm: colours[arm] for arm in arms}


def _family(arm: str) -> str:
    return arm.partition("-")[0]


def _family_colours(arms: Sequence[str], baseline_family: str, families: Sequence[str]) -> dict[str, str]:
    others = [family for family in families if family != baseline_family]
    hues = {baseline_family: BASELINE} | dict(zip(others, ARMS, strict=False))
    colours: dict[str, str] = {}
    for family in families:
        members = [arm for arm in arms if _family(arm) == family]
        shades = (("#000000", 0.4), ("#000000", 0.0), ("#ffffff", 0.5))
        stops = [_between((hues[family], end), share) for end, share in shades]
        last = max(1, len(members) - 1)
        colours |= {arm: _between(stops, index / last) for index, arm in enumerate(members)}
    return colours


def size_colours(sizes: Sequence[str], leaking: bool) -> dict[str, str]:
    """The colour of each size, taken from a ramp of colours; the ramp is red for an arm that leaks."""
    stops = LEAKING_SIZES if leaking else SIZES
    last = max(1, len(sizes) - 1)
    return {size: _between(stops, index / last) for index, size in enumerate(sizes)}


def _between(stops: Sequence[str], share: float) -> str:
    place = share * (len(stops) - 1)
    first = min(int(place), len(stops) - 2)
    pair = [[int(stops[first + step][at : at + 2], 16) for at in (1, 3, 5)] for step in (0, 1)]
    mixed = [round(low + (high - low) * (place - first)) for low, high in zip(*pair, strict=True)]
    return "#" + "".join(f"{value:02x}" for value in mixed)


def direction_dashes(directions: Sequence[str]) -> dict[str, list[int]]:
    """The dashes of the lines of each direction: ltr is solid, rtl is dashed, every other pass has its own dashes."""
    others = [direction for direction in directions if direction not in DASHES]
    known = {direction: DASHES[direction] for direction in directions if direction in DASHES}
    return known | {direction: OTHER_DASHES[index % len(OTHER_DASHES)] for index, direction in enumerate(others)}


def vega_config(paper: dict[str, str]) -> dict[str, Any]:
    """The Vega-Lite configuration for one background (LIGHT or DARK), from `templates/vega.json`."""
    text = (resources.files("palinode.report") / "templates" / "vega.json").read_text(encoding="utf-8")
    return json.loads(Template(text).substitute(paper, font=FONT))  # type: ignore[no-any-return]


def svg(chart: Mapping[str, Any]) -> str:
    """A Vega-Lite chart as SVG on white paper. The drawing needs neither a browser nor a network.

    A character that XML does not allow, such as ESC in the name of an arm from a stranger's pack, is drawn as U+FFFD. The drawing
    program ends the whole process where it meets one.
    """
    config = {**vega_config(LIGHT), "background": "white", "padding": 12}
    drawable = json.dumps(_drawable(chart), allow_nan=False)
    return str(vl_convert.vegalite_to_svg(drawable, config=config, allowed_base_urls=[]))


def _drawable(value: Any) -> Any:
    """A chart whose texts hold characters of XML alone."""
    if isinstance(value, str):
        return NO_XML.sub("\ufffd", value)
    if isinstance(value, Mapping):
        return {_drawable(name): _drawable(part) for name, part in value.items()}
    if isinstance(value, Sequence):
        return [_drawable(part) for part in value]
    return value
