"""What an effect says about a published one."""

import pytest

from palinode.analysis.published_effect import agrees, published_words

ROWS = [
    (0.06, 0.04, 0.08, 0.07, "confirmed"),
    (0.012, 0.004, 0.020, 0.07, "real but smaller"),
    (0.15, 0.13, 0.17, 0.07, "real but larger"),
    (0.001, -0.009, 0.011, 0.07, "not found here"),
    (-0.05, -0.06, -0.04, 0.07, "the opposite"),
    (0.05, -0.02, 0.12, 0.07, "cannot tell"),
]


@pytest.mark.parametrize(("mean", "low", "high", "published", "words"), ROWS)
def test_the_words_of_a_published_effect_in_either_sign(mean, low, high, published, words):
    assert published_words(mean, low, high, published) == words
    assert published_words(-mean, -high, -low, -published) == words


def test_the_half_widths_add_as_the_root_of_their_squares():
    assert agrees(0.0, -3.0, 3.0, 5.0, 1.0, 9.0)
    assert not agrees(0.0, -3.0, 3.0, 5.01, 1.01, 9.01)
    assert agrees(0.0, -3.0, 3.0, 3.0)
    assert not agrees(0.0, -3.0, 3.0, 3.01)
    assert published_words(2.0, 1.0, 3.0, 5.0) == "real but smaller"
    assert published_words(2.0, 1.0, 3.0, 5.0, 2.0, 8.0) == "confirmed"
