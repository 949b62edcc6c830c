"""The algebra of visibilities, cell by cell, and what is wrong with the published mask."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from palinode.base.config import decode, encode
from palinode.base.errors import BadInput
from palinode.base.visibility import (
    VISIBILITIES,
    Bottleneck,
    Flipped,
    FlippedLowerTriangle,
    Full,
    Intersection,
    Ltr,
    Prefix,
    Rtl,
    Union,
    Visibility,
)

LENGTHS = st.integers(0, 20)
SIMPLE = (
    st.sampled_from([Ltr(), Rtl(), Full(), FlippedLowerTriangle(size=20)])
    | st.builds(Prefix, length_slots=st.integers(0, 25))
    | st.builds(Bottleneck, slot=st.integers(0, 25), sealed=st.booleans())
)
ANY = st.recursive(
    SIMPLE,
    lambda inner: (
        st.builds(Flipped, of=inner)
        | st.builds(Intersection, left=inner, right=inner)
        | st.builds(Union, left=inner, right=inner)
    ),
    max_leaves=6,
)


def cells(sees, length):
    """Slot i may read slot j, by the definition of each kind: slow, and independent of any tensor operation."""
    rules = {
        "ltr": lambda i, j: j <= i,
        "rtl": lambda i, j: j >= i,
        "full": lambda i, j: True,
        "prefix": lambda i, j: j <= i or (i < sees.length_slots and j < sees.length_slots),
        "bottleneck": lambda i, j: (
            i == j or (j == sees.slot if i > sees.slot else j < i and not (sees.sealed and i == sees.slot))
        ),
        "flipped-lower-triangle": lambda i, j: j <= sees.size - 1 - i,
    }
    index = range(length)
    if sees.kind == "flipped":
        inner = cells(sees.of, length)
        return [[inner[length - 1 - i][length - 1 - j] for j in index] for i in index]
    if sees.kind in ("intersection", "union"):
        left, right = cells(sees.left, length), cells(sees.right, length)
        both = sees.kind == "intersection"
        return [[(left[i][j] and right[i][j]) if both else (left[i][j] or right[i][j]) for j in index] for i in index]
    return [[rules[sees.kind](i, j) for j in index] for i in index]


@given(ANY, LENGTHS)
def test_every_mask_is_its_definition(sees, length):
    mask = sees.mask(length)
    assert mask.dtype == torch.bool
    assert mask.tolist() == cells(sees, length)


@given(LENGTHS)
def test_rtl_is_ltr_flipped_on_both_axes(length):
    ltr = Ltr().mask(length)
    assert torch.equal(Rtl().mask(length), ltr.flip(0, 1))
    assert torch.equal(Rtl().mask(length), ltr.T)
    assert torch.equal(Flipped(of=Ltr()).mask(length), Rtl().mask(length))


@given(ANY, LENGTHS)
def test_flipping_twice_changes_nothing(sees, length):
    once = sees.flipped()
    assert torch.equal(once.mask(length), sees.mask(length).flip(0, 1))
    assert torch.equal(once.flipped().mask(length), sees.mask(length))


def test_simple_visibilities_flip_to_each_other():
    assert Ltr().flipped() == Rtl()
    assert Rtl().flipped() == Ltr()
    assert Full().flipped() == Full()
    assert Prefix(length_slots=2).flipped() == Flipped(of=Prefix(length_slots=2))
    assert Flipped(of=Prefix(length_slots=2)).flipped() == Prefix(length_slots=2)


@given(ANY, ANY, LENGTHS)
def test_and_or_are_those_of_sets(one, other, length):
    left, right = one.mask(length), other.mask(length)
    assert torch.equal((one & other).mask(length), left & right)
    assert torch.equal((one | other).mask(length), left | right)


@given(ANY)
def test_every_visibility_survives_a_spec(sees):
    data = encode(sees)
    assert data.pop("kind") == sees.kind
    assert decode(type(sees), data) == sees


def test_a_bottleneck_as_it_is_drawn():
    """Behind slot 2 a slot reads slot 2 and itself; sealed, slot 2 reads itself."""
    assert Bottleneck(slot=2).mask(5).int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [0, 0, 1, 1, 0],
        [0, 0, 1, 0, 1],
    ]
    sealed = Bottleneck(slot=2, sealed=True).mask(5)
    assert sealed[2].int().tolist() == [0, 0, 1, 0, 0]
    others = [0, 1, 3, 4]
    assert torch.equal(sealed[others], Bottleneck(slot=2).mask(5)[others])


def test_what_runs_natively():
    native = {kind: (cls.native, cls.reads_from_end) for kind, cls in VISIBILITIES.items()}
    assert native.pop("ltr") == ("causal", False)
    assert native.pop("rtl") == ("causal", True)
    assert native.pop("full") == ("full", False)
    assert set(native.values()) == {("mask", False)}


@pytest.mark.parametrize("length", [1, 16, 512, 513, 1024])
def test_the_published_mask_row_by_row(length):
    """Row i sees columns j <= 1023 - i."""
    mask = FlippedLowerTriangle().mask(length)
    i, j = torch.arange(length)[:, None], torch.arange(length)[None]
    assert torch.equal(mask, j <= 1023 - i)
    assert torch.equal(mask, torch.ones(1024, 1024).tril().flip(0)[:length, :length].bool())


def own_targets_seen(mask):
    """Share of slots that read the slot holding their own target: slot i predicts the token that stands in slot i - 1."""
    return float(mask.diagonal(-1).float().mean())


def test_the_published_mask_shows_slots_their_own_target():
    assert bool(FlippedLowerTriangle().mask(512).all())
    assert own_targets_seen(FlippedLowerTriangle().mask(16)) == 1.0
    at_full_length = own_targets_seen(FlippedLowerTriangle().mask(1024))
    assert at_full_length == pytest.approx(0.5, abs=1e-3)
    assert own_targets_seen(Rtl().mask(1024)) == 0.0


def test_the_published_mask_is_no_mirror():
    published = FlippedLowerTriangle(size=16).mask(16)
    assert not torch.equal(published, Rtl().mask(16))
    assert torch.equal(published.flip(1), Rtl().mask(16))  # one more flip would have made it right


def test_the_published_mask_ends_at_its_size():
    with pytest.raises(BadInput, match="1024 slots, a row of 1025 does not fit"):
        FlippedLowerTriangle().mask(1025)


def test_a_visibility_needs_a_mask():
    class Nothing(Visibility):
        pass

    with pytest.raises(NotImplementedError, match="Nothing must define mask"):
        Nothing().mask(3)
