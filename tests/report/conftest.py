"""The library of the page is made once per test run: making it takes a second and gives the same text each time."""

import functools

import pytest
import vl_convert


@pytest.fixture(scope="session", autouse=True)
def one_library():
    original = vl_convert.javascript_bundle
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vl_convert, "javascript_bundle", functools.cache(original))
        yield
