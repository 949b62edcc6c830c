"""Configuration: what is encoded decodes to the same value, nothing unknown passes at any depth, hashes name values."""

import importlib.util
import json
import subprocess
import sys
from typing import Annotated, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, model_validator

from palinode.base.config import (
    LATER,
    Config,
    Part,
    canonical_json,
    code_of,
    content_hash,
    decode,
    diff,
    encode,
    finite,
    identity,
    one_of,
)
from palinode.base.errors import BadInput
from palinode.base.visibility import VISIBILITIES, Flipped, Full, Intersection, Ltr, Prefix, Rtl, Union, Visibility
from palinode.objectives import OBJECTIVES, BothObjective, LtrObjective, Objective
from palinode.objectives.probability import Adaptive, Constant


class Inner(Config):
    rate: float = Field(default=0.5, ge=0.0, le=1.0)
    names: tuple[str, ...] = ()


class Outer(Config):
    steps: int = Field(gt=0)
    mode: Literal["fast", "slow"] = "fast"
    inner: Inner = Inner()
    objective: Annotated[Objective, one_of(lambda: OBJECTIVES, "objective")] = LtrObjective()
    sees: Annotated[Visibility, one_of(lambda: VISIBILITIES, "visibility")] = Ltr()
    table: dict[str, tuple[int, ...]] = {}
    limit: float | None = None


SIMPLE = st.sampled_from([Ltr(), Rtl(), Full()]) | st.builds(Prefix, length_slots=st.integers(0, 9))
SEES = st.recursive(
    SIMPLE,
    lambda inner: (
        st.builds(Flipped, of=inner)
        | st.builds(Intersection, left=inner, right=inner)
        | st.builds(Union, left=inner, right=inner)
    ),
    max_leaves=5,
)
OBJECTIVE_VALUES = st.booleans().map(lambda token: LtrObjective(direction_token=token)) | st.builds(
    BothObjective,
    p=st.floats(0, 1).map(lambda p: Constant(p=p)) | st.just(Adaptive(rule="difference")),
    rtl_sees=SEES,
)
OUTERS = st.builds(
    Outer,
    steps=st.integers(1, 10**12),
    mode=st.sampled_from(["fast", "slow"]),
    inner=st.builds(Inner, rate=st.floats(0, 1), names=st.lists(st.text()).map(tuple)),
    objective=OBJECTIVE_VALUES,
    sees=SEES,
    table=st.dictionaries(st.text(), st.lists(st.integers()).map(tuple), max_size=3),
    limit=st.none() | st.floats(allow_nan=False, allow_infinity=False),
)


@given(OUTERS)
def test_what_is_encoded_decodes_to_the_same_value(value):
    assert decode(Outer, encode(value)) == value
    again = decode(Outer, json.loads(canonical_json(value).encode("utf-8", "surrogatepass")))
    assert again == value
    assert content_hash(again) == content_hash(value)
    assert diff(value, again) == []


@given(OUTERS, OUTERS)
def test_hashes_are_equal_exactly_when_values_are(one, other):
    assert (content_hash(one) == content_hash(other)) == (canonical_json(one) == canonical_json(other))
    assert (canonical_json(one) == canonical_json(other)) == (not diff(one, other))


def test_the_hash_is_the_same_in_another_process_and_release():
    value = Outer(steps=3, objective=BothObjective(p=Constant(p=0.1)), sees=Prefix(length_slots=2))
    text = (
        '{"inner":{"names":[],"rate":0.5},"limit":null,"mode":"fast","objective":{"combine":"sum","direction_token":true,'
        '"granularity":"batch","kind":"both","p":{"kind":"constant","p":0.1},"rtl_sees":{"kind":"rtl"}},'
        '"sees":{"kind":"prefix","length_slots":2},"steps":3,"table":{}}'
    )
    assert canonical_json(value) == text
    program = "import sys, hashlib; print(hashlib.sha256(sys.argv[1].encode()).hexdigest())"
    done = subprocess.run([sys.executable, "-c", program, text], capture_output=True, text=True, timeout=30)
    assert content_hash(value) == done.stdout.strip()


def test_a_tables_order_and_spelling_of_lists_do_not_change_the_hash():
    one = decode(Outer, {"steps": 3, "inner": {"names": ["a"], "rate": 0.5}, "table": {"x": [1], "y": [2]}})
    other = decode(Outer, {"table": {"y": (2,), "x": (1,)}, "inner": {"rate": 0.5, "names": ("a",)}, "steps": 3})
    assert content_hash(one) == content_hash(other)


class Grown(Config):
    """A config to which two fields came later."""

    old: int = 1
    new: Annotated[int, LATER] = 0
    table: dict[str, Inner] = {}
    rows: tuple["Grown", ...] = ()
    part: Annotated["Grown | None", LATER] = None


def test_an_option_that_came_later_names_no_run_anew_until_it_is_used():
    plain = Grown(rows=(Grown(old=2),))
    assert identity(plain) == {"old": 1, "table": {}, "rows": [{"old": 2, "table": {}, "rows": []}]}
    assert encode(plain)["new"] == 0
    assert decode(Grown, identity(plain)) == plain
    used = [plain.with_(new=1), plain.with_(rows=(Grown(old=2, new=3),)), plain.with_(part=Grown())]
    hashes = {content_hash(identity(one)) for one in (plain, *used)}
    assert len(hashes) == 4


def test_half_a_character_has_a_hash():
    """JSON may say "\\ud800"; it must not end in a traceback when a run is named after it."""
    names = [Inner(names=(text,)) for text in ("\ud800", "\ud801", "\\ud800")]
    assert len({content_hash(name) for name in names}) == 3


MISTAKES = [
    ({"steps": 1, "stepz": 2}, "stepz", "did you mean 'steps'?"),
    ({"steps": 1, "inner": {"ratee": 0.1}}, "inner.ratee", "did you mean 'rate'?"),
    ({"steps": 1, "objective": {"kind": "ltr", "direction": True}}, "objective.direction", "direction_token"),
    (
        {"steps": 1, "objective": {"kind": "both", "p": {"kind": "constant", "q": 0.1}}},
        "objective.p.q",
        "did you mean 'p'?",
    ),
    (
        {"steps": 1, "sees": {"kind": "flipped", "of": {"kind": "union", "left": {"kind": "ltr"}, "rihgt": {}}}},
        "sees.of.rihgt",
        "did you mean 'right'?",
    ),
    ({"steps": 1, "objective": {"kind": "bth"}}, "objective", "did you mean 'both'?"),
    ({"steps": 1, "objective": {}}, "objective", f"needs kind = one of {', '.join(sorted(OBJECTIVES))}"),
    ({"steps": True}, "steps", "valid integer"),
    ({"steps": 2.0}, "steps", "valid integer"),
    ({"steps": "2"}, "steps", "valid integer"),
    ({"steps": 0}, "steps", "greater than 0"),
    ({"steps": 1, "mode": "medium"}, "mode", "fast"),
    ({"steps": 1, "inner": {"rate": float("nan")}}, "inner.rate", "finite"),
    ({"steps": 1, "inner": {"rate": 1.5}}, "inner.rate", "less than or equal to 1"),
    ({"steps": 1, "inner": {"names": "abc"}}, "inner.names", "must be a list, got 'abc' (such as [\"abc\"])"),
    ({"steps": 1, "table": {"x": "16, 32"}}, "table.x", "(such as [16, 32])"),
    ({"steps": 1, "table": {"x": 3}}, "table.x", "(such as [3])"),
    ({"steps": 1e3}, "steps", "got 1000.0 (write 1000)"),
    ({"steps": 1, "objective": LtrObjective}, "objective", "is the class LtrObjective, not an object of it (write Ltr"),
    ({"steps": 1, "inner": Inner}, "inner", "(write Inner())"),
    ({"steps": 1, "objective": {"kind": "both", "p": True}}, "objective.p", "Probability"),
    ({"steps": 1, "objective": {"kind": "both", "p": 1.5}}, "objective.p", "less than or equal to 1"),
    (
        {"steps": 1, "objective": {"kind": "both", "p": {"kind": "constant", "p": 1.5}}},
        "objective.p.p",
        "less than or equal to 1",
    ),
    ({"steps": 1, "sees": {"kind": "prefix", "length_slots": -1}}, "sees.length_slots", "greater than or equal to 0"),
    ({}, "steps", "required"),
]


class Three(Config):
    one: int
    two: int
    three: int
    four: str = ""


@pytest.mark.parametrize(("data", "field", "message"), MISTAKES)
def test_mistakes_name_their_field_at_any_depth(data, field, message):
    with pytest.raises(BadInput) as caught:
        decode(Outer, data, file="spec.toml")
    assert str(caught.value).startswith(f"spec.toml: {field}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_missing_fields_are_all_named():
    for data, message in (
        ({}, "one: is required, and so are two, three"),
        ({"two": 1}, "one: is required, and so is three"),
        ({"two": 1, "three": 1}, "one: is required"),
        ({"four": 4}, "one: is required, and so are two, three; and 1 more"),
    ):
        with pytest.raises(BadInput) as caught:
            decode(Three, data)
        assert str(caught.value) == message


class Picky(Part):
    """A part that refuses a field in its own words, which pydantic gives no place."""

    kind: ClassVar[str] = "picky"
    length: int = 2

    @model_validator(mode="after")
    def _long_enough(self):
        if self.length < 2:
            raise BadInput("too short", field="length")
        return self


class HoldsPicky(Config):
    part: Annotated[Picky, one_of(lambda: {"picky": Picky}, "part")]


class HoldsTwice(Config):
    outer: Annotated[Part, one_of(lambda: {"holder": Holder}, "part")]


class Holder(Part):
    kind: ClassVar[str] = "holder"
    part: Annotated[Picky, one_of(lambda: {"picky": Picky}, "part")]


def test_a_refusal_of_a_part_itself_gets_the_place_of_the_part():
    with pytest.raises(BadInput) as caught:
        decode(HoldsPicky, {"part": {"kind": "picky", "length": 1}})
    assert caught.value.field == "part.length"
    with pytest.raises(BadInput) as caught:
        decode(HoldsTwice, {"outer": {"kind": "holder", "part": {"kind": "picky", "length": 1}}})
    assert caught.value.field == "outer.part.length"


def test_a_field_is_inside_a_place_once():
    assert BadInput("x", field="length").inside("data").field == "data.length"
    assert BadInput("x", field="data.length").inside("data").field == "data.length"
    assert BadInput("x", field="database").inside("data").field == "data.database"
    assert BadInput("x").inside("data").field == "data"
    assert BadInput("x", field="data").inside("").field == "data"


@pytest.mark.parametrize("data", [[], None, 3, "steps", {1: 2}])
def test_what_is_no_table_is_refused(data):
    with pytest.raises(BadInput):
        decode(Outer, data)


def test_configs_are_frozen_and_variants_are_checked():
    base = Outer(steps=3)
    with pytest.raises(ValueError, match="frozen"):
        base.steps = 4
    assert base.with_(steps=4) == Outer(steps=4)
    assert base == Outer(steps=3)
    with pytest.raises(ValueError, match="greater than 0"):
        base.with_(steps=0)
    with pytest.raises(ValueError, match="unknown key 'stepz'"):
        base.with_(stepz=4)


def test_diff_names_the_leaves_that_differ():
    before = Outer(steps=3, inner=Inner(rate=0.1))
    after = before.with_(inner=Inner(rate=0.2), objective=BothObjective())
    changes = {path: (old, new) for path, old, new in diff(before, after)}
    assert changes.pop("inner.rate") == (0.1, 0.2)
    assert changes.pop("objective.kind") == ("ltr", "both")
    assert changes["objective.p.p"] == (None, 0.05)
    assert all(path.startswith("objective.") for path in changes)


USER_FILE = """
from typing import ClassVar
from palinode.objectives import LtrObjective

class Mine(LtrObjective):
    strength: float = {strength}

class Impostor(LtrObjective):
    kind: ClassVar[str] = "ltr"
"""


def user_module(tmp_path, name, strength=1.0):
    path = tmp_path / f"{name}.py"
    path.write_text(USER_FILE.format(strength=strength))
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def user(tmp_path):
    yield lambda name, **options: user_module(tmp_path, name, **options)
    for name in ("idea_one", "idea_two"):
        sys.modules.pop(name, None)


def test_a_users_part_carries_its_source(user):
    one, two = user("idea_one"), user("idea_two", strength=2.0)
    encoded = encode(Outer(steps=1, objective=one.Mine()))["objective"]
    assert encoded["kind"] == "user:Mine"
    assert encoded["code_sha256"] == code_of(one.Mine).sha256
    same_fields = one.Mine(strength=2.0), two.Mine()
    hashes = {content_hash(Outer(steps=1, objective=part)) for part in same_fields}
    assert len(hashes) == 2  # other code, another run


def test_a_users_part_decodes_only_with_the_source_it_was_written_with(user):
    one, two = user("idea_one"), user("idea_two", strength=2.0)
    value = Outer(steps=1, objective=one.Mine(strength=3.0))
    assert decode(Outer, encode(value), user_parts={"user:Mine": one.Mine}) == value
    with pytest.raises(BadInput, match="has changed since"):
        decode(Outer, encode(value), user_parts={"user:Mine": two.Mine})
    with pytest.raises(BadInput, match="unknown objective 'user:Mine'"):
        decode(Outer, encode(value))


def test_a_users_class_cannot_take_a_built_in_name(user):
    impostor = user("idea_one").Impostor()
    assert encode(impostor)["kind"] == "user:Impostor"
    assert content_hash(impostor) != content_hash(LtrObjective())


def test_a_class_without_a_file_is_refused():
    made = type("Made", (Part,), {"__module__": "nowhere"})
    with pytest.raises(BadInput, match="must be written in a file"):
        encode(made())


def test_every_built_in_part_is_in_its_table_under_its_own_kind():
    for table in (OBJECTIVES, VISIBILITIES):
        for kind, cls in table.items():
            assert cls.kind_name() == kind == cls.__dict__["kind"]


def test_finite():
    assert [finite(x) for x in (1.5, None, float("nan"), float("inf"))] == [1.5, None, None, None]


def test_a_table_of_lists_is_a_table_of_tuples():
    class Pictures(Config):
        kind: ClassVar[str] = "no part"
        squares: dict[str, tuple[tuple[float, ...], ...]] = {}

    value = Pictures(squares={"a": ((1.0, 2.0), (3.0, 4.0))})
    assert decode(Pictures, json.loads(canonical_json(value))) == value
