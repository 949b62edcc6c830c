"""The code that a user's class depends on, and its hash: what a run id says of a class that the user wrote.

The hash covers the tokens of the class, and of every top-level statement of the user's files that the class can depend on: its
bases, the functions, classes and constants that it reads, what these read in turn, also in other modules of the user, and
the statements that change one of them. Comments, docstrings, blank lines and the width of an indentation do not count. An
installed package counts by the name under which it is imported.

In doubt more code counts: a module that uses `globals()`, a star import of a module of the user, or the like, counts whole, and
`UserCode.doubts` says why. The files are read and not run. Python 3.11 and later versions give one hash.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.machinery
import io
import json
import symtable
import sys
import sysconfig
import tokenize
import warnings
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

OWN_PACKAGE = __name__.partition(".")[0]
INSTALLED_FOLDERS = {"site-packages", "dist-packages"}
STANDARD_LIBRARY = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib"))
# Code that reaches names without writing them down. A use on `self` alone is harmless.
DYNAMIC_CALLS = {"globals", "locals", "vars", "eval", "exec", "__import__", "setattr", "delattr"}
DYNAMIC_NAMES = {"__dict__", "__subclasses__", "__init_subclass__", "__pydantic_init_subclass__", "__set_name__"}
DYNAMIC_MODULES = {"importlib", "inspect", "gc", "ctypes", "pkgutil", "runpy"}
DOCSTRING_READERS = (
    "__doc__",
    "getdoc",
    "use_attribute_docstrings",
)  # a file that holds one of these keeps its docstrings
# How the name of a method that changes its object begins; those of torch end with "_".
CHANGING_METHODS = (
    *("add", "append", "clear", "discard", "extend", "insert", "load", "pop", "push", "put", "register"),
    *("remove", "reset", "reverse", "set", "sort", "update"),
)
STRING_STARTS = {getattr(tokenize, name, None) for name in ("FSTRING_START", "TSTRING_START")} - {None}
STRING_ENDS = {getattr(tokenize, name, None) for name in ("FSTRING_END", "TSTRING_END")} - {None}
WITHOUT_MEANING = {tokenize.COMMENT, tokenize.NL, tokenize.ENCODING, tokenize.ENDMARKER}
LITERALS = (ast.Constant, ast.Tuple, ast.UnaryOp, ast.BinOp, ast.operator, ast.unaryop, ast.expr_context)
WHOLE = ""  # as a name that is imported: the module, however it is used
DEFINITIONS = {"function", "class"}
METHOD, CHANGING_METHOD = ".", "!"  # how an object is passed to a call when it is not an argument


@dataclass(frozen=True)
class UserCode:
    """The statements that a user's class depends on.

    Attributes:
        sha256: the hash of all their tokens, in order.
        names: what each statement defines or changes -> the hash of its tokens; `helper.f` for f of another module.
        doubts: why a whole module counts, one text for each such module.
    """

    sha256: str
    names: Mapping[str, str]
    doubts: tuple[str, ...]


def user_code(module_name: str, file: Path, class_name: str) -> UserCode:
    """What a class of a user's module depends on.

    Args:
        class_name: its `__qualname__`.
    """
    search = _Search()
    module = search.module(module_name, file)
    top = class_name.partition(".")[0]
    if "<locals>" in class_name or top not in module.by_name:
        search.take_whole(module, f"{class_name} is not defined at the top level")
    else:
        search.want(module, top)
    search.finish()
    return search.result(module)


# --- statements of one module -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Import:
    """One imported name: `from module import name`, or (`name` None) `import module`."""

    module: str
    name: str | None


@dataclass(frozen=True)
class Statement:
    """One top-level statement, or one name of a top-level import.

    Attributes:
        kind: "function", "class", "import", "literal" (a constant that cannot change), "value" (another assignment), or
            "effect": whatever else there is.
        binds: the module-level names that it defines.
        reads: the names that it reads from the module, also inside functions.
        sets: the names of objects whose attributes or entries it sets; of an effect also those whose method it calls.
        passes: (function, name) of the named objects that it passes to a call; `METHOD` or `CHANGING_METHOD` stands for the
            function where a method of the object is called, "" for a function without a name.
        attributes: name -> the attributes that are read from it; None where the object itself is used.
        imports: what it imports, at any depth.
        doubt: why it may reach names that are not written in it.
    """

    kind: str
    tokens: tuple[str, ...]
    binds: frozenset[str]
    reads: frozenset[str] = frozenset()
    sets: frozenset[str] = frozenset()
    passes: frozenset[tuple[str, str]] = frozenset()
    attributes: Mapping[str, set[str] | None] = field(default_factory=dict)
    imports: tuple[Import, ...] = ()
    doubt: str | None = None


@dataclass(frozen=True)
class Module:
    """A user's file, statement by statement."""

    name: str
    file: Path
    statements: tuple[Statement, ...]
    by_name: Mapping[str, tuple[int, ...]]

    def kinds(self, name: str) -> set[str]:
        """The kinds of the statements that define this name."""
        return {self.statements[index].kind for index in self.by_name.get(name, ())}


@functools.lru_cache(maxsize=64)
def _statements(text: str, package: str) -> tuple[Statement, ...]:
    """The statements of a file, in order; its imports are made absolute with the name of its package."""
    lines = text.splitlines(keepends=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # running the file gave them already
        tree = ast.parse(text)
        keep_docstrings = any(word in text for word in DOCSTRING_READERS)
        left_out = [] if keep_docstrings else [_span(node, lines) for node in ast.walk(tree) if _is_docstring(node)]
        tokens = list(_tokens(text, lines, left_out))
        places = [place for place, _ in tokens]
        found: list[Statement] = []
        for node in tree.body:
            start, end = _span(node, lines)
            own = tuple(string for _, string in tokens[bisect_left(places, start) : bisect_left(places, end)])
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                found += _import_statements(node, package)
            elif own and not _is_script_part(node):
                found.append(_statement(node, _slice(lines, start, end), own, package))
    return tuple(found)


def _statement(node: ast.stmt, text: str, tokens: tuple[str, ...], package: str) -> Statement:
    table = symtable.symtable(text, "user code", "exec")
    binds = frozenset(
        symbol.get_name() for symbol in table.get_symbols() if symbol.is_assigned() or symbol.is_imported()
    )
    kind, nodes = _kind(node), list(ast.walk(node))
    reads = frozenset(_global_names(table)) | frozenset(_names_in_annotations(nodes))
    sets, passes = _changes(nodes, kind)
    within = reads | binds
    return Statement(
        kind=kind,
        tokens=tokens,
        binds=binds,
        reads=reads,
        sets=frozenset(sets & within),
        passes=frozenset(one for one in passes if one[1] in within),
        attributes=_attributes(nodes),
        imports=tuple(
            one
            for inner in nodes
            if isinstance(inner, (ast.Import, ast.ImportFrom))
            for one in _imports(inner, package)
        ),
        doubt=_doubt(nodes, reads),
    )


def _kind(node: ast.stmt) -> str:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return "function"
    if isinstance(node, ast.ClassDef):
        return "class"
    targets: list[ast.expr] = []
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, (ast.AnnAssign, ast.AugAssign)):
        targets = [node.target]
    names = [inner for target in targets for inner in ast.walk(target) if isinstance(inner, ast.expr)]
    if not names or not all(isinstance(inner, (ast.Name, ast.Tuple, ast.List, ast.Starred)) for inner in names):
        return "value" if type(node).__name__ == "TypeAlias" else "effect"
    value = getattr(node, "value", None)
    is_literal = value is not None and all(isinstance(inner, LITERALS) for inner in ast.walk(value))
    return "literal" if is_literal and not isinstance(node, ast.AugAssign) else "value"


def _changes(nodes: Sequence[ast.AST], kind: str) -> tuple[set[str], set[tuple[str, str]]]:
    """`sets` and `passes` of a statement, local names included."""
    sets: set[str] = set()
    passes: set[tuple[str, str]] = set()
    called = {id(inner.func) for inner in nodes if isinstance(inner, ast.Call)}
    for inner in nodes:
        if isinstance(inner, (ast.Attribute, ast.Subscript)) and not isinstance(inner.ctx, ast.Load):
            sets.add(_root(inner))
        elif isinstance(inner, ast.Global):
            sets.update(inner.names)
        elif isinstance(inner, ast.Call):
            passes.update(_passes(inner))
        elif kind != "effect":
            continue
        elif isinstance(inner, ast.Expr) and isinstance(inner.value, ast.Call):
            sets.add(_root(inner.value.func))
        elif isinstance(inner, ast.Name) and id(inner) not in called:
            passes.add(("", inner.id))
    return sets, passes


def _passes(call: ast.Call) -> Iterator[tuple[str, str]]:
    """The objects that a call may change: those it is given, and the one whose method it is."""
    function = call.func.id if isinstance(call.func, ast.Name) else ""
    if isinstance(call.func, ast.Attribute):
        method = call.func.attr
        changing = method.startswith(CHANGING_METHODS) or (method.endswith("_") and not method.endswith("__"))
        yield CHANGING_METHOD if changing else METHOD, _root(call.func)
    for argument in (*call.args, *(keyword.value for keyword in call.keywords)):
        yield from ((function, name) for name in _objects(argument))


def _objects(argument: ast.expr) -> Iterator[str]:
    """The names of the objects that are handed over in an argument, alone or in a list or a table."""
    if isinstance(argument, ast.Name):
        yield argument.id
    elif isinstance(argument, (ast.Tuple, ast.List, ast.Set, ast.Dict, ast.Starred)):
        for inner in ast.iter_child_nodes(argument):
            if isinstance(inner, ast.expr):
                yield from _objects(inner)


def _root(node: ast.expr) -> str:
    """`a` of `a.b[c].d`; nothing where the chain begins with a call."""
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _attributes(nodes: Sequence[ast.AST]) -> dict[str, set[str] | None]:
    read = {id(inner.value): inner.attr for inner in nodes if isinstance(inner, ast.Attribute)}
    found: dict[str, set[str] | None] = {}
    for inner in nodes:
        if isinstance(inner, ast.Name):
            before = found.setdefault(inner.id, set())
            if before is not None and id(inner) in read:
                before.add(read[id(inner)])
            else:
                found[inner.id] = None
    return found


def _global_names(table: symtable.SymbolTable) -> Iterator[str]:
    """The module-level names that a statement reads, at any depth."""
    # A class body may read a module's name before it defines its own of the same name.
    unscoped = table.get_type() in ("module", "class")
    for symbol in table.get_symbols():
        if symbol.is_global() or (unscoped and symbol.is_referenced()):
            yield symbol.get_name()
    for child in table.get_children():
        yield from _global_names(child)


def _names_in_annotations(nodes: Sequence[ast.AST]) -> Iterator[str]:
    """Names inside texts that stand for types, such as `x: "Other"` and `list["Other"]`."""
    for inner in nodes:
        places = [getattr(inner, name, None) for name in ("annotation", "returns", "slice")]
        for place in places:
            for constant in ast.walk(place) if isinstance(place, ast.expr) else ():
                if isinstance(constant, ast.Constant) and isinstance(constant.value, str):
                    try:
                        expression = ast.parse(constant.value, mode="eval")
                    except (SyntaxError, ValueError):
                        continue
                    yield from (name.id for name in ast.walk(expression) if isinstance(name, ast.Name))


def _doubt(nodes: Sequence[ast.AST], reads: frozenset[str]) -> str | None:
    """What in a statement may reach names that are not written in it."""
    for inner in nodes:
        if isinstance(inner, ast.Call) and isinstance(inner.func, ast.Name):
            first = inner.args[0] if inner.args else None
            on_self = isinstance(first, ast.Name) and first.id == "self"
            if inner.func.id in DYNAMIC_CALLS and not on_self:
                return f"{inner.func.id}()"
            fixed = len(inner.args) > 1 and isinstance(inner.args[1], ast.Constant)
            if inner.func.id == "getattr" and first is not None and not fixed and _root(first) in {*reads, ""}:
                return "getattr()"
        elif isinstance(inner, ast.Name) and inner.id in DYNAMIC_CALLS - {"setattr", "delattr", "vars"}:
            return inner.id
        elif isinstance(inner, ast.Attribute) and inner.attr in DYNAMIC_NAMES and _root(inner) != "self":
            return inner.attr
        elif isinstance(inner, ast.Attribute) and inner.attr == "modules" and _root(inner) == "sys":
            return "sys.modules"
        elif isinstance(inner, (ast.FunctionDef, ast.AsyncFunctionDef)) and inner.name in DYNAMIC_NAMES:
            return inner.name
        elif isinstance(inner, ast.ClassDef) and any(keyword.arg == "metaclass" for keyword in inner.keywords):
            return "metaclass"
        elif isinstance(inner, (ast.Import, ast.ImportFrom)):
            names = [inner.module or ""] if isinstance(inner, ast.ImportFrom) else [alias.name for alias in inner.names]
            if dynamic := [name for name in names if name.partition(".")[0] in DYNAMIC_MODULES]:
                return f"import {dynamic[0]}"
    if isinstance(nodes[0], ast.FunctionDef) and nodes[0].name == "__getattr__":
        return "__getattr__"
    return None


def _import_statements(node: ast.Import | ast.ImportFrom, package: str) -> Iterator[Statement]:
    """A statement for each imported name, so that a further name in the list changes none of the others."""
    doubt = _doubt([node], frozenset())
    for alias, one in zip(node.names, _imports(node, package), strict=True):
        bound = alias.asname or alias.name
        start = ("from", f"{'.' * getattr(node, 'level', 0)}{getattr(node, 'module', None) or ''}") if one.name else ()
        imports: tuple[Import, ...] = (one,)
        if one.name is None and "." in alias.name and alias.asname is None:
            bound = alias.name.partition(".")[0]
            imports = (Import(alias.name, WHOLE), Import(bound, WHOLE))
        tokens = (*start, "import", alias.name, "as", bound)
        yield Statement(kind="import", tokens=tokens, binds=frozenset([bound]), imports=imports, doubt=doubt)


def _imports(node: ast.Import | ast.ImportFrom, package: str) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        yield from (Import(alias.name, None) for alias in node.names)
        return
    module = node.module or ""
    if node.level:
        parents = package.split(".")[: len(package.split(".")) - node.level + 1]
        module = ".".join([*parents, *([module] if module else [])])
    yield from (Import(module, alias.name) for alias in node.names)


def _is_docstring(node: ast.AST) -> bool:
    """A text that stands alone as a statement."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _is_script_part(node: ast.stmt) -> bool:
    """`if __name__ == "__main__":` never holds where palinode runs the file."""
    return (
        isinstance(node, ast.If)
        and not node.orelse
        and isinstance(node.test, ast.Compare)
        and isinstance(node.test.left, ast.Name)
        and node.test.left.id == "__name__"
        and isinstance(node.test.ops[0], ast.Eq)
        and isinstance(node.test.comparators[0], ast.Constant)
        and node.test.comparators[0].value == "__main__"
    )


# --- tokens -------------------------------------------------------------------------------------------------------

Place = tuple[int, int]  # line, from 1, and character, from 0


def _tokens(text: str, lines: list[str], left_out: list[tuple[Place, Place]]) -> Iterator[tuple[Place, str]]:
    """The tokens that mean something; each logical line begins with how deep it is indented.

    An f-string is one token up to Python 3.11 and several from 3.12 on: here it is always its text.
    """
    depth, begins, opened, start = 0, True, 0, (1, 0)
    ends = dict(left_out)
    skip_to: Place = (0, 0)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        place, string = token.start, token.string
        if token.type == tokenize.INDENT:
            depth += 1
        elif token.type == tokenize.DEDENT:
            depth -= 1
        elif token.type == tokenize.NEWLINE:
            begins = True
        elif token.type not in WITHOUT_MEANING:
            if token.type in STRING_STARTS:
                opened += 1
                start = place if opened == 1 else start
            elif token.type in STRING_ENDS:
                opened -= 1
                place, string = start, _slice(lines, start, token.end)
            skip_to = ends.get(place, skip_to)
            if opened or place < skip_to:
                continue
            if begins:
                yield place, f"\n{depth}"
            begins = False
            yield place, string


def _span(node: ast.AST, lines: list[str]) -> tuple[Place, Place]:
    """Where a statement begins, its decorators included, and where it ends; ast counts bytes, tokens count characters."""
    assert isinstance(node, (ast.stmt, ast.expr))
    first = min([node, *getattr(node, "decorator_list", [])], key=lambda one: one.lineno)
    column = first.col_offset if first is node else 0
    assert node.end_lineno is not None
    assert node.end_col_offset is not None
    start = (first.lineno, _characters(lines[first.lineno - 1], column))
    return start, (node.end_lineno, _characters(lines[node.end_lineno - 1], node.end_col_offset))


def _characters(line: str, count_bytes: int) -> int:
    return count_bytes if line.isascii() else len(line.encode()[:count_bytes].decode())


def _slice(lines: list[str], start: Place, end: Place) -> str:
    rows = lines[start[0] - 1 : end[0]]
    rows[-1] = rows[-1][: end[1]]
    rows[0] = rows[0][start[1] :]
    return "".join(rows)


# --- which statements count ---------------------------------------------------------------------------------------


class _Search:
    """Collects the statements that count, from module to module, until no further one does."""

    def __init__(self) -> None:
        self.modules: dict[str, Module] = {}
        self.taken: dict[str, set[int]] = {}
        self.names: dict[str, set[str]] = {}
        self.doubts: dict[str, str] = {}
        self.files: dict[str, Path | None] = {}
        self.waiting: list[tuple[Module, int]] = []

    def module(self, name: str, file: Path) -> Module:
        """The user's module of this name; read at its first mention."""
        if name not in self.modules:
            is_package = file.name == "__init__.py"
            with tokenize.open(file) as opened:
                statements = _statements(opened.read(), name if is_package else name.rpartition(".")[0])
            by_name: dict[str, list[int]] = {}
            for index, statement in enumerate(statements):
                for bound in statement.binds:
                    by_name.setdefault(bound, []).append(index)
            module = Module(name, file, statements, {bound: tuple(found) for bound, found in by_name.items()})
            self.modules[name], self.taken[name], self.names[name] = module, set(), set()
            self._reach_imports(module)
            if doubt := next((one.doubt for one in statements if one.doubt not in (None, "getattr()")), None):
                self.take_whole(module, f"it uses {doubt}")
        return self.modules[name]

    def want(self, module: Module, name: str) -> None:
        """Take every statement that defines this name; unknown names are built in."""
        if name not in self.names[module.name]:
            self.names[module.name].add(name)
            for index in module.by_name.get(name, ()):
                self._take(module, index)

    def take_whole(self, module: Module, why: str) -> None:
        """Take all statements of a module."""
        if module.name not in self.doubts:
            self.doubts[module.name] = f"{module.file.name} counts whole: {why}"
            for index in range(len(module.statements)):
                self._take(module, index)

    def finish(self) -> None:
        """Follow what the statements read, then what changes it, until nothing is left."""
        while self.waiting:
            while self.waiting:
                self._follow(*self.waiting.pop())
            for module in list(self.modules.values()):
                self._take_changes(module)

    def result(self, first: Module) -> UserCode:
        """The statements taken, in the order of the files."""
        whole = hashlib.sha256()
        of_names: dict[str, list[str]] = {}
        for name in sorted(self.modules, key=lambda name: (name != first.name, name)):
            module = self.modules[name]
            for index in sorted(self.taken[name]):
                statement = module.statements[index]
                text = json.dumps(statement.tokens)
                whole.update(text.encode())
                labels = sorted(statement.binds or statement.sets & self.names[name]) or ["a top-level statement"]
                prefix = "" if module is first else f"{name}."
                of_names.setdefault(f"{prefix}{', '.join(labels)}", []).append(text)
        names = {label: hashlib.sha256("\n".join(texts).encode()).hexdigest() for label, texts in of_names.items()}
        return UserCode(whole.hexdigest(), names, tuple(self.doubts[name] for name in sorted(self.doubts)))

    def _take(self, module: Module, index: int) -> None:
        if index not in self.taken[module.name]:
            self.taken[module.name].add(index)
            self.waiting.append((module, index))

    def _follow(self, module: Module, index: int) -> None:
        statement = module.statements[index]
        self.names[module.name] |= statement.binds
        if statement.doubt is not None:
            self.take_whole(module, f"it uses {statement.doubt}")
        for name in statement.reads | statement.binds:
            self.want(module, name)
        for name in statement.reads:
            for definition in (module.statements[one] for one in module.by_name.get(name, ())):
                if definition.kind == "import" and definition.imports[0].name is None:
                    self._want_attributes(definition.imports[0].module, statement.attributes.get(name))
        for one in statement.imports:
            if statement.kind != "import" or one.name is not None:
                self._want_import(one)

    def _want_import(self, one: Import) -> None:
        target = self._user_module(one.module)
        if one.name and target is not None and one.name in target.by_name:
            self.want(target, one.name)
        elif one.name and (inner := self._user_module(f"{one.module}.{one.name}")) is not None:
            self.take_whole(inner, "it is imported whole")
        elif target is not None:
            self.take_whole(target, f"it does not define {one.name}" if one.name else "it is used as an object")

    def _want_attributes(self, module_name: str, attributes: set[str] | None) -> None:
        """What is read from a module that was imported as one; all of it where the module itself is used."""
        for attribute in [WHOLE] if attributes is None else sorted(attributes):
            self._want_import(Import(module_name, attribute))

    def _take_changes(self, module: Module) -> None:
        """Take the statements that change what counts already, and those that call a function which does."""
        names = self.names[module.name]
        for index, statement in enumerate(module.statements):
            if self._acts_outside(module, statement) or self._can_change(module, statement) & names:
                self._take(module, index)
            is_definition = index in self.taken[module.name] and statement.kind in DEFINITIONS
            if is_definition and self._changed_by(module, statement) & names:
                self._take_users(module, statement)

    def _take_users(self, module: Module, changer: Statement) -> None:
        for index, statement in enumerate(module.statements):
            if statement.reads & changer.binds and (changer.kind == "function" or statement.kind != "value"):
                self._take(module, index)

    def _acts_outside(self, module: Module, statement: Statement) -> bool:
        """Whether a statement changes something that was imported, such as a setting of torch, or what the file's names mean."""
        if any(one.module == "__future__" or one.name == "*" for one in statement.imports):
            return True
        return any(module.kinds(name) == {"import"} for name in statement.sets)

    def _changed_by(self, module: Module, statement: Statement) -> set[str]:
        """The names whose objects a statement certainly changes when it runs."""
        called = {name for how, name in statement.passes if how == CHANGING_METHOD}
        return {*statement.sets} | {name for name in called if not module.kinds(name) & {"import", "literal"}}

    def _can_change(self, module: Module, statement: Statement) -> set[str]:
        """The names whose objects a statement may change. A function or a class changes others only when it is called."""
        changed = self._changed_by(module, statement)
        for function, name in statement.passes:
            kinds = module.kinds(name)
            if statement.kind in DEFINITIONS:  # a function of the user may set what it is given
                counts = bool(module.kinds(function) & DEFINITIONS) and not kinds & DEFINITIONS
            else:
                counts = True
            if counts and not kinds & {"import", "literal"}:
                changed.add(name)
        return changed

    def _reach_imports(self, module: Module) -> None:
        """Read the user's modules that this one imports: what they change counts, whoever reads them."""
        for statement in module.statements:
            for one in statement.imports:
                if self._user_module(one.module) is not None and one.name == "*":
                    self.take_whole(module, f"it uses from {one.module} import *")

    def _user_module(self, name: str) -> Module | None:
        if name not in self.files:
            self.files[name] = _user_file(name)
        file = self.files[name]
        return None if file is None else self.module(name, file)


def _user_file(module_name: str) -> Path | None:
    """The file of a module that the user wrote; None for one that is installed, built in, or missing."""
    if module_name.partition(".")[0] in {OWN_PACKAGE, *sys.builtin_module_names, ""}:
        return None
    origin = getattr(sys.modules.get(module_name), "__file__", None) or _find(module_name)
    if origin is None or not origin.endswith(".py"):
        return None
    file = Path(origin)
    installed = INSTALLED_FOLDERS & set(file.parts) or any(file.is_relative_to(root) for root in STANDARD_LIBRARY)
    return None if installed else file


def _find(module_name: str) -> str | None:
    """Where a module that was not imported yet would come from. Imports nothing."""
    steps = module_name.split(".")
    locations: list[str] | None = None
    spec = None
    for depth in range(len(steps)):
        spec = importlib.machinery.PathFinder.find_spec(".".join(steps[: depth + 1]), locations)
        if spec is None:
            return None
        locations = spec.submodule_search_locations or []
    return spec.origin if spec is not None else None
