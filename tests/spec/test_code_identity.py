"""What changes the id of a run with code of the user, and what does not."""

import re
import sys
from pathlib import Path

import pytest
import torch

from palinode.base.user_code import user_code

FILE = '''
"""An idea."""
import os
import torch
from torch import nn
from own_helper import imported, Imported, UNUSED_OF_HELPER
import own_tools
from palinode import Arm, Experiment, Objective

SCALE = 2.0
FACTOR = SCALE * 3
TABLE = {}
OTHER_TABLE = []
annotated: int = 4
DEVICE = "cpu"


def decorator(cls):
    cls.extra = 1
    return cls


def default():
    return 5


def inner_most(x):
    return x + FACTOR  # a comment


def helper(x):
    """What a helper does."""

    def nested(y):
        return inner_most(y) * 2

    return nested(x)


def fills_the_table():
    TABLE["key"] = 1


fills_the_table()


class Base(Objective):
    weight: float = 0.5


class Shape:
    size = 1


class Typed:
    name = "typed"


@decorator
class Mine(Base):
    """The idea itself."""

    strength: float = default()
    shape: "Shape" = None
    chosen: list["Typed"] = []
    pick = staticmethod(lambda x: x @ helper(x))
    kept = TABLE

    def draw(self, experiment, *, gain=annotated):
        nn.init.normal_(self.weight)
        return f"{experiment!r} {imported(1)} {self.strength:>{annotated}}" + own_tools.used(2)


class Unused(Base):
    def draw(self):
        return 1


def unused():
    return Unused()


OTHER_TABLE.append(Mine(strength=1.0))
arms = [Arm(name="a", change={"objective": Mine(strength=2.0)})]
for p in (0.1, 0.2):
    arms.append(Arm(name=f"b{p}", change={"objective": Mine(strength=p)}))
experiment = Experiment(name="e", question="Does it help?", arms=tuple(arms), objective=Mine())

if __name__ == "__main__":
    print(Mine)
'''
HELPER = """
from own_deep import deep

UNUSED_OF_HELPER = 1


def imported(x):
    return deep(x)


class Imported:
    pass
"""
DEEP = "LEVEL = 7\n\n\ndef deep(x):\n    return x + LEVEL\n\n\ndef shallow():\n    return 0\n"
TOOLS = "def used(x):\n    return x\n\n\ndef not_used(x):\n    return x\n"
FILES = {"own.py": FILE, "own_helper.py": HELPER, "own_deep.py": DEEP, "own_tools.py": TOOLS}


@pytest.fixture
def code(tmp_path, monkeypatch):
    """The code of class Mine, with these (file, old text, new text) changes made first."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])

    def of(*changes: tuple[str, str, str], files=FILES):
        texts = dict(files)
        for file, old, new in changes:
            assert old in texts[file], old
            texts[file] = texts[file].replace(old, new, 1)
        for file, text in texts.items():
            Path(tmp_path, file).write_text(text)
        return user_code("own", tmp_path / "own.py", "Mine")

    return of


SAME = {
    "comment": ("own.py", "# a comment", "# another"),
    "comment that is new": ("own.py", "    return x + FACTOR", "    # new\n    return x + FACTOR"),
    "blank lines": ("own.py", "def helper", "\n\n\ndef helper"),
    "blank line inside": ("own.py", "    def nested", "\n    def nested"),
    "docstring of a function": ("own.py", "What a helper does.", "What it does."),
    "docstring of the class": ("own.py", '    """The idea itself."""\n', '    """The idea,\n    at length."""\n'),
    "docstring of the file": ("own.py", "An idea.", "The idea."),
    "a line broken inside brackets": ("own.py", "nested(x)", "nested(\n        x\n    )"),
    "question": ("own.py", "Does it help?", "Does it?"),
    "another arm": ("own.py", "arms = [", 'arms = [Arm(name="c"), '),
    "an arm's value": ("own.py", "strength=2.0", "strength=3.0"),
    "arms of a loop": ("own.py", "(0.1, 0.2)", "(0.1, 0.3)"),
    "a class not used": ("own.py", "        return 1", "        return 2"),
    "a further class": ("own.py", "class Unused", "class Further(Base):\n    pass\n\n\nclass Unused"),
    "a function not used": ("own.py", "return Unused()", "return None"),
    "a constant not used": ("own.py", 'DEVICE = "cpu"', 'DEVICE = "cuda"'),
    "a list that other statements fill": ("own.py", "OTHER_TABLE = []", "OTHER_TABLE = [1]"),
    "an import not used": ("own.py", "import os\n", "import os, math\n"),
    "an imported name not used": ("own.py", "Imported, UNUSED_OF_HELPER", "Imported"),
    "what runs as a script": ("own.py", "    print(Mine)", "    print(Mine())"),
    "unused name of a helper": ("own_helper.py", "UNUSED_OF_HELPER = 1", "UNUSED_OF_HELPER = 2"),
    "comment of a helper": ("own_helper.py", "    return deep(x)", "    return deep(x)  # why"),
    "unused function of a deep helper": ("own_deep.py", "return 0", "return 1"),
    "unused function of a module": ("own_tools.py", "def not_used(x):\n    return x", "def not_used(x):\n    return 2"),
}
CHANGED = {
    "helper": ("own.py", "nested(y)", "nested(z, y=0)", "helper"),
    "function inside a helper": ("own.py", "* 2\n", "* 3\n", "helper"),
    "operator": ("own.py", "return x + FACTOR", "return x - FACTOR", "inner_most"),
    "operator in a lambda": ("own.py", "x @ helper", "x * helper", "Mine"),
    "constant through two functions": ("own.py", "SCALE * 3", "SCALE * 4", "FACTOR"),
    "constant of a constant": ("own.py", "SCALE = 2.0", "SCALE = 2.5", "SCALE"),
    "base class": ("own.py", "weight: float = 0.5", "weight: float = 0.6", "Base"),
    "default of a field": ("own.py", "return 5", "return 6", "default"),
    "default of an argument": ("own.py", "annotated: int = 4", "annotated: int = 5", "annotated"),
    "decorator": ("own.py", "cls.extra = 1", "cls.extra = 2", "decorator"),
    "decorator taken away": ("own.py", "@decorator\n", "", "Mine"),
    "annotation as a text": ("own.py", "size = 1", "size = 2", "Shape"),
    "annotation inside a text": ("own.py", 'name = "typed"', 'name = "other"', "Typed"),
    "class attribute": ("own.py", "kept = TABLE", "kept = None", "Mine"),
    "a table": ("own.py", "TABLE = {}", "TABLE = {1: 2}", "TABLE"),
    "what a function puts in a table": ("own.py", 'TABLE["key"] = 1', 'TABLE["key"] = 2', "fills_the_table"),
    "whether that function is called": ("own.py", "\nfills_the_table()\n", "\n", "fills_the_table"),
    "f-string": ("own.py", "!r} {", "!s} {", "Mine"),
    "indentation that means something": (
        "own.py",
        "    def nested(y):\n        return inner_most(y) * 2\n",
        "    def nested(y):\n        pass\n    return inner_most(x) * 2\n",
        "helper",
    ),
    "where a name is imported from": ("own.py", "from torch import nn", "import torch.nn as nn", "nn"),
    "star import of a package": ("own.py", "import os", "from os.path import *", "*"),
    "setting of a package": ("own.py", 'DEVICE = "cpu"', "torch.manual_seed(1)", "torch"),
    "attribute of a package": ("own.py", 'DEVICE = "cpu"', "torch.backends.flag = 1", "torch"),
    "attribute of the class": ("own.py", 'DEVICE = "cpu"', 'DEVICE = "cpu"\nMine.weight = 2', "Mine"),
    "imported function": ("own_helper.py", "return deep(x)", "return deep(x) + 1", "own_helper.imported"),
    "function of an imported function": ("own_deep.py", "x + LEVEL", "x * LEVEL", "own_deep.deep"),
    "constant of it": ("own_deep.py", "LEVEL = 7", "LEVEL = 8", "own_deep.LEVEL"),
    "function of a module": (
        "own_tools.py",
        "def used(x):\n    return x",
        "def used(x):\n    return 2",
        "own_tools.used",
    ),
}


@pytest.mark.parametrize("change", SAME.values(), ids=SAME.keys())
def test_what_the_class_does_not_depend_on_keeps_the_id(code, change):
    assert code(change).sha256 == code().sha256


@pytest.mark.parametrize("change", CHANGED.values(), ids=CHANGED.keys())
def test_what_the_class_depends_on_makes_a_new_id_and_is_named(code, change):
    *edit, name = change
    before, after = code(), code(tuple(edit))
    assert after.sha256 != before.sha256
    every = {*before.names, *after.names}
    assert name in {one for one in every if before.names.get(one) != after.names.get(one)}
    assert not after.doubts


DOUBTS = {
    "globals": ("own.py", "DEVICE = ", 'DEVICE = globals()["SCALE"] and ', "globals()"),
    "exec": ("own.py", "DEVICE = ", 'exec("SCALE = 3")\nDEVICE = ', "exec()"),
    "getattr of a module": (
        "own.py",
        "return x + FACTOR",
        "return getattr(own_tools, x) + FACTOR",
        "getattr()",
    ),
    "star import": ("own.py", "import os", "from own_tools import *", "from own_tools import *"),
    "metaclass": ("own.py", "class Shape:", "class Shape(metaclass=type):", "metaclass"),
    "subclass hook": (
        "own.py",
        "class Shape:",
        "class Shape:\n    def __init_subclass__(cls): ...\n",
        "__init_subclass__",
    ),
    "importlib": ("own.py", "import os", "import importlib", "importlib"),
    "sys.modules": ("own.py", "DEVICE = ", "import sys\nDEVICE = sys.modules and ", "sys.modules"),
}


@pytest.mark.parametrize("doubt", DOUBTS.values(), ids=DOUBTS.keys())
def test_a_file_whose_names_cannot_be_followed_counts_whole_and_says_why(code, doubt):
    *edit, why = doubt
    result = code(tuple(edit))
    assert any(why in text for text in result.doubts)
    assert code(tuple(edit), ("own.py", "Does it help?", "Does it?")).sha256 != result.sha256
    assert code(tuple(edit), ("own.py", "# a comment", "# another")).sha256 == result.sha256


def test_methods_on_self_raise_no_doubt(code):
    own = "return getattr(self, experiment), setattr(self, 'x', 1), vars(self), self.__dict__, getattr(torch, 'nn'), "
    assert not code(("own.py", 'return f"', own + 'f"')).doubts


def test_docstrings_count_where_they_can_be_read(code):
    reads = ("own.py", "return x + FACTOR", "return x + FACTOR + len(helper.__doc__)")
    assert code(reads).sha256 != code(reads, ("own.py", "What a helper does.", "What?")).sha256


def test_a_class_made_inside_a_function_counts_with_its_whole_file(tmp_path):
    path = tmp_path / "own.py"
    path.write_text("def make(x):\n    class Mine:\n        gain = x\n    return Mine\n\n\nMine = make(1)\n")
    code_of_part = user_code("own", path, "make.<locals>.Mine")
    assert {"Mine", "make"} <= code_of_part.names.keys()
    assert "not defined at the top level" in code_of_part.doubts[0]


@pytest.mark.parametrize("spaces", [1, 2, 8])
def test_the_width_of_an_indentation_does_not_count(code, spaces):
    wider = re.sub(r"^( {4})+", lambda found: " " * spaces * (len(found[0]) // 4), FILE, flags=re.MULTILINE)
    assert code(files={**FILES, "own.py": wider}).sha256 == code().sha256


def test_line_ends_and_a_mark_at_the_start_do_not_count(code, tmp_path):
    before = code().sha256
    (tmp_path / "own.py").write_bytes(b"\xef\xbb\xbf" + FILE.replace("\n", "\r\n").encode())
    assert user_code("own", tmp_path / "own.py", "Mine").sha256 == before


def test_characters_that_only_look_like_line_ends_do_not_count(code):
    """Python ends a line at a line feed alone; a form feed stands between the parts of some old files."""
    fed = [("own.py", "def helper", "\x0c\ndef helper"), ("own.py", "# a comment", "# a \u2028 comment")]
    assert code(*fed).sha256 == code().sha256


def test_every_python_gives_the_same_hash(code):
    """Tokens differ between versions, of f-strings above all: this hash was made with 3.11, 3.12 and 3.13."""
    assert code().sha256 == "606fb3beb4bf2d49561fd3e0748099006ea6ee284f4911dd978d73cd4faa7073"


def test_circular_imports_end(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (tmp_path / "own_round.py").write_text(
        "from own_trip import b\n\n\ndef a():\n    return b()\n\n\nclass Mine:\n    f = a\n"
    )
    (tmp_path / "own_trip.py").write_text("def b():\n    from own_round import a\n    return a\n")
    assert {"Mine", "a", "own_trip.b"} <= user_code("own_round", tmp_path / "own_round.py", "Mine").names.keys()


def test_modules_of_a_package_are_followed(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    folder = tmp_path / "own_package"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "first.py").write_text(
        "from .second import f\nfrom . import third\n\n\ndef g():\n    return f() + third.h()\n"
    )
    (folder / "second.py").write_text("def f():\n    return 1\n")
    (folder / "third.py").write_text("def h():\n    return 1\n")
    (tmp_path / "own.py").write_text("import own_package.first\n\n\nclass Mine:\n    g = own_package.first.g\n")
    names = user_code("own", tmp_path / "own.py", "Mine").names
    assert {"own_package.first.g", "own_package.second.f", "own_package.third.h"} <= names.keys()


def test_modules_that_name_a_file_that_does_not_exist_are_not_the_users(tmp_path):
    """torch.ops says that it is _ops.py, wherever Python was started."""
    own = tmp_path / "own.py"
    own.write_text("import torch.ops\nfrom torch import classes\n\n\nclass Mine:\n    f = torch.ops.aten, classes\n")
    assert torch.ops.__file__ == "_ops.py"
    assert user_code("own", own, "Mine").names.keys() == {"Mine", "torch", "classes"}
