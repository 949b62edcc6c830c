"""The code that a user's class depends on, and the hash of this code. The hash is part of the id of every run that uses the class.

The hash covers the tokens of the class, and the tokens of every top-level statement of the user's files that the class can depend
on: the bases of the class; the functions, classes and constants that the class reads; the names that these statements read, also
in other modules of the user; and the statements that change one of these objects. Comments, docstrings, blank lines and the width
of an indentation do not change the hash. Of an installed package, the hash covers only the name under which it is imported.

In doubt, the hash covers more code: it covers the whole of a module that uses `globals()`, or a star import of a module of the
user, or similar code, and `UserCode.doubts` gives the reason. This module reads the user's files and does not run them. Python 3.11
and all later versions give the same hash.
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
from typing import NamedTuple, TypeGuard

OWN_PACKAGE = __name__.partition(".")[0]
INSTALLED_FOLDERS = {"site-packages", "dist-packages"}
STANDARD_LIBRARY = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib"))
# Functions that reach names which are not written in the code. A call whose first argument is `self` is harmless.
DYNAMIC_CALLS = {"globals", "locals", "vars", "eval", "exec", "__import__", "setattr", "delattr"}
DYNAMIC_NAMES = {"__dict__", "__subclasses__", "__init_subclass__", "__pydantic_init_subclass__", "__set_name__"}
DYNAMIC_MODULES = {"importlib", "inspect", "gc", "ctypes", "pkgutil", "runpy"}
# If a file contains one of these texts, the hash covers the docstrings of the file.
DOCSTRING_READERS = ("__doc__", "getdoc", "use_attribute_docstrings")
# The beginnings of the names of methods that change their object. Such methods of torch end with "_".
CHANGING_METHODS = (
    *("add", "append", "clear", "discard", "extend", "insert", "load", "pop", "push", "put", "register"),
    *("remove", "reset", "reverse", "set", "sort", "update"),
)
STRING_STARTS = {getattr(tokenize, name, None) for name in ("FSTRING_START", "TSTRING_START")} - {None}
STRING_ENDS = {getattr(tokenize, name, None) for name in ("FSTRING_END", "TSTRING_END")} - {None}
WITHOUT_MEANING = {tokenize.COMMENT, tokenize.NL, tokenize.ENCODING, tokenize.ENDMARKER}
LITERALS = (ast.Constant, ast.Tuple, ast.UnaryOp, ast.BinOp, ast.operator, ast.unaryop, ast.expr_context)
WHOLE = ""  # in the place of a name: the whole object or module is used
DEFINITIONS = {"function", "class"}
# The ways in which a statement may change an object without passing the object to a call.
SET, METHOD, CHANGING_METHOD = "=", ".", "!"


class UserCode(NamedTuple):
    """The statements that a user's class depends on.

    Attributes:
        sha256: the hash of all tokens of the statements, in order.
        names: the name that a statement defines or changes -> the hash of its tokens; `helper.f` for f of another module.
        doubts: the reason why a whole module counts, one text for each such module.
    """

    sha256: str
    names: Mapping[str, str]
    doubts: tuple[str, ...]


def user_code(module_name: str, file: Path, class_name: str) -> UserCode:
    """The code that a class of a user's module depends on.

    Args:
        class_name: the `__qualname__` of the class.
    """
    search = _Search()
    module = search.add(module_name, file)
    top = class_name.partition(".")[0]
    if "<locals>" in class_name or top not in module.by_name:
        search.take_whole(module, f"{class_name} is not defined at the top level")
    else:
        search.want(module, top)
    search.finish()
    return search.result(module)


def installed_imports(module_name: str, file: Path) -> frozenset[str]:
    """The top-level names of the installed packages that a user's module imports, itself or through the user's other modules.

    Palinode itself, the standard library and packages that are not there are left out.
    """
    search = _Search()
    search.add(module_name, file)
    statements = (one for module in search.modules.values() if module is not None for one in module.statements)
    names = {imported.module.partition(".")[0] for statement in statements for imported in statement.imports}
    others = names - {OWN_PACKAGE, "", *sys.builtin_module_names, *sys.stdlib_module_names}
    return frozenset(name for name in others if INSTALLED_FOLDERS & set(Path(_find(name) or "").parts))


# --- the statements of a module -------------------------------------------------------------------------------------


class Import(NamedTuple):
    """One imported name: `from module import name`, or (`name` None) `import module`."""

    module: str
    name: str | None


class Statement(NamedTuple):
    """One top-level statement, or one name of a top-level import.

    Attributes:
        kind: "function", "class", "import", "literal" (a constant that cannot change), "value" (another assignment), or
            "effect" (any other statement).
        binds: the module-level names that the statement defines.
        reads: the names that the statement reads from the module, also inside functions.
        changes: (way, name) of the objects that the statement may change. The way is `SET` if the statement sets an attribute or an
            entry, or is an effect that calls a method. The way is `METHOD` or `CHANGING_METHOD` if another statement calls a method
            of the object. Otherwise the way is the name of the function that receives the object ("" for one without a name).
        attributes: name -> the attributes that are read from the object; `WHOLE` is among them if the object itself is used.
        imports: the imports of the statement, at any depth.
        doubt: the reason why the statement may reach names that are not written in the statement.
    """

    kind: str
    tokens: tuple[str, ...]
    binds: frozenset[str]
    reads: frozenset[str] = frozenset()
    changes: frozenset[tuple[str, str]] = frozenset()
    attributes: Mapping[str, set[str]] = {}
    imports: tuple[Import, ...] = ()
    doubt: str | None = None

    def sets(self) -> set[str]:
        """The names of the objects in which the statement sets an attribute or an entry."""
        return {name for how, name in self.changes if how == SET}


@functools.lru_cache(maxsize=64)
def _statements(text: str, package: str) -> tuple[Statement, ...]:
    """The statements of a file, in order. Relative imports become absolute ones with the name of the file's package."""
    lines = io.StringIO(text).readlines()  # count lines as Python does: a form feed ends no line
    statements: list[Statement] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python gave these warnings already when the file was run
        tree = ast.parse(text)
        docstrings = dict(_span(node, lines) for node in ast.walk(tree) if _is_docstring(node))
        left_out = {} if any(word in text for word in DOCSTRING_READERS) else docstrings
        tokens = list(_tokens(text, lines, left_out))
        places = [place for place, _ in tokens]
        for node in tree.body:
            start, end = _span(node, lines)
            own = tuple(string for _, string in tokens[bisect_left(places, start) : bisect_left(places, end)])
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                statements += _import_statements(node, package)
            elif own and not _is_script_part(node):
                statements.append(_statement(node, _slice(lines, start, end), own, package))
    return tuple(statements)


def _statement(node: ast.stmt, text: str, tokens: tuple[str, ...], package: str) -> Statement:
    table = symtable.symtable(text, "user code", "exec")
    binds = frozenset(
        symbol.get_name() for symbol in table.get_symbols() if symbol.is_assigned() or symbol.is_imported()
    )
    kind, nodes = _kind(node), list(ast.walk(node))
    reads = frozenset(_global_names(table)) | frozenset(_names_in_annotations(nodes))
    attribute_of = {id(inner.value): inner.attr for inner in nodes if isinstance(inner, ast.Attribute)}
    attributes: dict[str, set[str]] = {}
    imports: list[Import] = []
    for inner in nodes:
        if isinstance(inner, ast.Name):
            attributes.setdefault(inner.id, set()).add(attribute_of.get(id(inner), WHOLE))
        elif isinstance(inner, (ast.Import, ast.ImportFrom)):
            imports += _imports(inner, package)
    return Statement(
        kind=kind,
        tokens=tokens,
        binds=binds,
        reads=reads,
        changes=frozenset(change for change in _changes(nodes, kind) if change[1] in reads | binds),
        attributes=attributes,
        imports=tuple(imports),
        doubt=_doubt(nodes, reads),
    )


def _kind(node: ast.stmt) -> str:
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            return "function"
        case ast.ClassDef():
            return "class"
        case ast.Assign(targets=targets):
            pass
        case ast.AnnAssign(target=target) | ast.AugAssign(target=target):
            targets = [target]
        case _:
            return "value" if type(node).__name__ == "TypeAlias" else "effect"
    places = [inner for target in targets for inner in ast.walk(target) if isinstance(inner, ast.expr)]
    if not all(isinstance(inner, (ast.Name, ast.Tuple, ast.List, ast.Starred)) for inner in places):
        return "effect"
    value = None if isinstance(node, ast.AugAssign) else node.value
    return "literal" if value and all(isinstance(inner, LITERALS) for inner in ast.walk(value)) else "value"


def _changes(nodes: Sequence[ast.AST], kind: str) -> Iterator[tuple[str, str]]:
    """The value of `Statement.changes` for a statement, local names included."""
    called = {id(inner.func) for inner in nodes if isinstance(inner, ast.Call)}
    for inner in nodes:
        match inner:
            case ast.Attribute(ctx=ast.Store() | ast.Del()) | ast.Subscript(ctx=ast.Store() | ast.Del()):
                yield SET, _root(inner)
            case ast.Global(names=names):
                yield from ((SET, name) for name in names)
            case ast.Call():
                yield from _passes(inner)
            case ast.Expr(value=ast.Call(func=function)) if kind == "effect":
                yield SET, _root(function)
            case ast.Name(id=name) if kind == "effect" and id(inner) not in called:
                yield "", name


def _passes(call: ast.Call) -> Iterator[tuple[str, str]]:
    """The objects that a call may change: the arguments of the call, and the object whose method is called."""
    function = call.func.id if isinstance(call.func, ast.Name) else ""
    if isinstance(call.func, ast.Attribute):
        method = call.func.attr
        changing = method.startswith(CHANGING_METHODS) or (method.endswith("_") and not method.endswith("__"))
        yield CHANGING_METHOD if changing else METHOD, _root(call.func)
    for argument in (*call.args, *(keyword.value for keyword in call.keywords)):
        yield from ((function, name) for name in _objects(argument))


def _objects(argument: ast.AST) -> Iterator[str]:
    """The names of the objects in an argument of a call; the argument may be a name, a list or a table."""
    if isinstance(argument, ast.Name):
        yield argument.id
    elif isinstance(argument, (ast.Tuple, ast.List, ast.Set, ast.Dict, ast.Starred)):
        for inner in ast.iter_child_nodes(argument):
            yield from _objects(inner)


def _root(node: ast.expr) -> str:
    """The first name of a chain: `a` for `a.b[c].d`; an empty text if the chain begins with a call."""
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _global_names(table: symtable.SymbolTable) -> Iterator[str]:
    """The module-level names that a statement reads, at any depth."""
    # A class body may read a name of the module before the class defines an attribute of the same name.
    unscoped = table.get_type() in ("module", "class")
    for symbol in table.get_symbols():
        if symbol.is_global() or (unscoped and symbol.is_referenced()):
            yield symbol.get_name()
    for child in table.get_children():
        yield from _global_names(child)


def _names_in_annotations(nodes: Sequence[ast.AST]) -> Iterator[str]:
    """The names inside texts that are used as types, such as `x: "Other"` and `list["Other"]`."""
    for place in [getattr(inner, name, None) for inner in nodes for name in ("annotation", "returns", "slice")]:
        for constant in ast.walk(place) if isinstance(place, ast.expr) else ():
            if isinstance(constant, ast.Constant) and isinstance(constant.value, str):
                try:
                    expression = ast.parse(constant.value, mode="eval")
                except (SyntaxError, ValueError):
                    continue
                yield from (name.id for name in ast.walk(expression) if isinstance(name, ast.Name))


def _doubt(nodes: Sequence[ast.AST], reads: frozenset[str]) -> str | None:
    """The code in a statement that may reach names which are not written in the statement; None if there is no such code."""
    for inner in nodes:
        match inner:
            case ast.Call(func=ast.Name(id=called), args=arguments):
                first = arguments[0] if arguments else None
                on_self = isinstance(first, ast.Name) and first.id == "self"
                if called in DYNAMIC_CALLS and not on_self:
                    return f"{called}()"
                fixed = len(arguments) > 1 and isinstance(arguments[1], ast.Constant)
                if called == "getattr" and first is not None and not fixed and _root(first) in {*reads, ""}:
                    return "getattr()"
            case ast.Name(id=name) if name in DYNAMIC_CALLS - {"setattr", "delattr", "vars"}:
                return name
            case ast.Attribute(attr=name) if name in DYNAMIC_NAMES and _root(inner) != "self":
                return name
            case ast.Attribute(attr="modules") if _root(inner) == "sys":
                return "sys.modules"
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) if name in DYNAMIC_NAMES:
                return name
            case ast.ClassDef(keywords=keywords) if any(keyword.arg == "metaclass" for keyword in keywords):
                return "metaclass"
            case ast.ImportFrom(module=str(name)) if name.partition(".")[0] in DYNAMIC_MODULES:
                return f"import {name}"
            case ast.Import(names=aliases):
                for alias in aliases:
                    if alias.name.partition(".")[0] in DYNAMIC_MODULES:
                        return f"import {alias.name}"
    if isinstance(nodes[0], ast.FunctionDef) and nodes[0].name == "__getattr__":
        return "__getattr__"
    return None


def _import_statements(node: ast.Import | ast.ImportFrom, package: str) -> Iterator[Statement]:
    """Yield a statement for each imported name, so that adding a name to the import does not change the other statements."""
    doubt = _doubt([node], frozenset())
    source = ("from", "." * node.level + (node.module or "")) if isinstance(node, ast.ImportFrom) else ()
    for alias, imported in zip(node.names, _imports(node, package), strict=True):
        bound = alias.asname or alias.name
        imports: tuple[Import, ...] = (imported,)
        if not source and not alias.asname and "." in alias.name:
            bound = alias.name.partition(".")[0]
            imports = (Import(alias.name, WHOLE), Import(bound, WHOLE))
        tokens = (*source, "import", alias.name, "as", bound)
        yield Statement(kind="import", tokens=tokens, binds=frozenset([bound]), imports=imports, doubt=doubt)


def _imports(node: ast.Import | ast.ImportFrom, package: str) -> list[Import]:
    if isinstance(node, ast.Import):
        return [Import(alias.name, None) for alias in node.names]
    parents = package.split(".")
    above = parents[: len(parents) - node.level + 1] if node.level else []
    module = ".".join([*above, *filter(None, [node.module])])
    return [Import(module, alias.name) for alias in node.names]


def _is_docstring(node: ast.AST) -> TypeGuard[ast.Expr]:
    """Whether a node is a statement that consists of a text, such as a docstring."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _is_script_part(node: ast.stmt) -> bool:
    """Whether a statement is `if __name__ == "__main__":`, whose test is never true when palinode runs the file."""
    return isinstance(node, ast.If) and not node.orelse and ast.unparse(node.test) == "__name__ == '__main__'"


# --- tokens -------------------------------------------------------------------------------------------------------

Place = tuple[int, int]  # line, from 1, and character, from 0


def _tokens(text: str, lines: list[str], left_out: Mapping[Place, Place]) -> Iterator[tuple[Place, str]]:
    """Yield the tokens that have a meaning. The first token of each logical line gives the depth of its indentation.

    Python 3.11 gives an f-string as one token, and later versions give several tokens. This function always yields the whole text
    of an f-string as one token.

    Args:
        left_out: start -> end of each docstring that is left out.
    """
    depth, begins, skip_to = 0, True, (0, 0)
    open_strings: list[Place] = []
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
                open_strings.append(place)
            elif token.type in STRING_ENDS:
                place = open_strings.pop()
                string = _slice(lines, place, token.end)
            skip_to = left_out.get(place, skip_to)
            if open_strings or place < skip_to:
                continue
            if begins:
                yield place, f"\n{depth}"
            begins = False
            yield place, string


def _span(node: ast.stmt, lines: list[str]) -> tuple[Place, Place]:
    """The places where a statement with its decorators begins and ends. Here ast counts bytes, and tokenize counts characters."""
    start, end = (node.lineno, node.col_offset), (node.end_lineno or 0, node.end_col_offset or 0)
    for decorator in getattr(node, "decorator_list", ()):
        start = min(start, (decorator.lineno, 0))
    first, last = ((line, len(lines[line - 1].encode()[:column].decode())) for line, column in (start, end))
    return first, last


def _slice(lines: list[str], start: Place, end: Place) -> str:
    rows = lines[start[0] - 1 : end[0]]
    rows[-1] = rows[-1][: end[1]]
    rows[0] = rows[0][start[1] :]
    return "".join(rows)


# --- the statements that count ---------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Module:
    """The statements of a user's file, in order.

    Attributes:
        by_name: name -> the indexes of the statements that define it.
        taken: the indexes of the statements that count for the hash.
        names: the names that count for the hash.
        doubts: the reason why the whole module counts; at most one text.
    """

    name: str
    file: Path
    statements: tuple[Statement, ...]
    by_name: dict[str, list[int]] = field(default_factory=dict)
    taken: set[int] = field(default_factory=set)
    names: set[str] = field(default_factory=set)
    doubts: list[str] = field(default_factory=list)

    def definitions(self, name: str) -> list[Statement]:
        """The statements that define this name."""
        return [self.statements[index] for index in self.by_name.get(name, ())]

    def kinds(self, name: str) -> set[str]:
        """The kinds of the statements that define this name."""
        return {statement.kind for statement in self.definitions(name)}

    def acts_outside(self, statement: Statement) -> bool:
        """Whether a statement changes an imported object, such as a setting of torch, or the meaning of the file's names."""
        if any(imported.module == "__future__" or imported.name == "*" for imported in statement.imports):
            return True
        return any(self.kinds(name) == {"import"} for name in statement.sets())

    def changed_by(self, statement: Statement, *, certainly: bool) -> set[str]:
        """The names whose objects a statement may change; with `certainly`, only those that the statement changes whenever it runs.

        A function or a class changes other objects only when it is called. A function of the user may change its arguments.
        """
        runs = statement.kind not in DEFINITIONS
        changed = statement.sets()
        for how, name in statement.changes:
            kinds = self.kinds(name)
            if not kinds & {"import", "literal"}:
                by_call = (runs or self.kinds(how) & DEFINITIONS) and (runs or not kinds & DEFINITIONS)
                if how == CHANGING_METHOD or (by_call and not certainly):
                    changed.add(name)
        return changed


class _Search:
    """Collects the statements that count for the hash, from module to module, until there are no more."""

    def __init__(self) -> None:
        self.modules: dict[str, Module | None] = {}
        self.waiting: list[tuple[Module, int]] = []

    def add(self, name: str, file: Path) -> Module:
        """Read a module, and the user's modules that the module imports.

        Statements in which these modules change objects outside themselves always count.
        """
        with tokenize.open(file) as opened:
            statements = _statements(opened.read(), name if file.name == "__init__.py" else name.rpartition(".")[0])
        module = self.modules[name] = Module(name, file, statements)
        for index, statement in enumerate(statements):
            for bound in statement.binds:
                module.by_name.setdefault(bound, []).append(index)
        for imported in (imported for statement in statements for imported in statement.imports):
            if self.module(imported.module) is not None and imported.name == "*":
                self.take_whole(module, f"it uses from {imported.module} import *")
        if doubt := next((one.doubt for one in statements if one.doubt not in (None, "getattr()")), None):
            self.take_whole(module, f"it uses {doubt}")
        return module

    def module(self, name: str) -> Module | None:
        """The module of this name, which is read when it is first needed; None for a module that the user did not write."""
        if name not in self.modules:
            self.modules[name] = None
            if (file := _user_file(name)) is not None:
                self.add(name, file)
        return self.modules[name]

    def want(self, module: Module, name: str) -> None:
        """Take every statement that defines this name. A name without such a statement is built into Python."""
        if name not in module.names:
            module.names.add(name)
            for index in module.by_name.get(name, ()):
                self._take(module, index)

    def take_whole(self, module: Module, why: str) -> None:
        """Take all statements of a module."""
        if not module.doubts:
            module.doubts.append(f"{module.file.name} counts whole: {why}")
            for index in range(len(module.statements)):
                self._take(module, index)

    def finish(self) -> None:
        """Take the statements that define the names that are read, then the statements that change these objects, until none is
        left.
        """
        while self.waiting:
            while self.waiting:
                self._follow(*self.waiting.pop())
            for module in list(self.modules.values()):
                if module is not None:
                    self._take_changes(module)

    def result(self, first: Module) -> UserCode:
        """The statements that were taken, in the order of the files."""
        whole = hashlib.sha256()
        of_names: dict[str, list[str]] = {}
        others = [module for _, module in sorted(self.modules.items()) if module not in (None, first)]
        modules = [first, *filter(None, others)]
        for module in modules:
            prefix = "" if module is first else f"{module.name}."
            for index in sorted(module.taken):
                statement = module.statements[index]
                text = json.dumps(statement.tokens)
                whole.update(text.encode())
                labels = sorted(statement.binds or statement.sets() & module.names) or ["a top-level statement"]
                of_names.setdefault(f"{prefix}{', '.join(labels)}", []).append(text)
        names = {label: hashlib.sha256("\n".join(texts).encode()).hexdigest() for label, texts in of_names.items()}
        doubts = [doubt for module in sorted(modules, key=lambda one: one.name) for doubt in module.doubts]
        return UserCode(whole.hexdigest(), names, tuple(doubts))

    def _take(self, module: Module, index: int) -> None:
        if index not in module.taken:
            module.taken.add(index)
            self.waiting.append((module, index))

    def _follow(self, module: Module, index: int) -> None:
        statement = module.statements[index]
        module.names.update(statement.binds)
        if statement.doubt is not None:
            self.take_whole(module, f"it uses {statement.doubt}")
        for name in statement.reads | statement.binds:
            self.want(module, name)
        for name in statement.reads:
            attributes = statement.attributes.get(name, {WHOLE})
            for definition in module.definitions(name):
                if definition.kind == "import" and definition.imports[0].name is None:
                    for attribute in [WHOLE] if WHOLE in attributes else sorted(attributes):
                        self._want_import(Import(definition.imports[0].module, attribute))
        for imported in statement.imports:
            if statement.kind != "import" or imported.name is not None:
                self._want_import(imported)

    def _want_import(self, imported: Import) -> None:
        target, name = self.module(imported.module), imported.name
        if name and target is not None and name in target.by_name:
            self.want(target, name)
        elif name and (inner := self.module(f"{imported.module}.{name}")) is not None:
            self.take_whole(inner, "it is imported whole")
        elif target is not None:
            self.take_whole(target, f"it does not define {name}" if name else "it is used as an object")

    def _take_changes(self, module: Module) -> None:
        """Take the statements that change an object that is already taken, and those that call a function which changes such an
        object.
        """
        for index, statement in enumerate(module.statements):
            if module.acts_outside(statement) or module.changed_by(statement, certainly=False) & module.names:
                self._take(module, index)
            is_definition = index in module.taken and statement.kind in DEFINITIONS
            if is_definition and module.changed_by(statement, certainly=True) & module.names:
                for user, other in enumerate(module.statements):
                    if other.reads & statement.binds and (statement.kind == "function" or other.kind != "value"):
                        self._take(module, user)


def _user_file(module_name: str) -> Path | None:
    """The file of a module that the user wrote; None for a module that is installed, built in, or missing."""
    if module_name.partition(".")[0] in {OWN_PACKAGE, *sys.builtin_module_names, ""}:
        return None
    origin = getattr(sys.modules.get(module_name), "__file__", None) or ""
    if not Path(origin).is_absolute():  # torch.ops and torch.classes name files that do not exist
        origin = _find(module_name) or ""
    if not origin.endswith(".py"):
        return None
    file = Path(origin)
    installed = INSTALLED_FOLDERS & set(file.parts) or any(file.is_relative_to(root) for root in STANDARD_LIBRARY)
    return None if installed else file


def _find(module_name: str) -> str | None:
    """The file that a module would be imported from. The module is not imported."""
    name, locations, origin = "", None, None
    for step in module_name.split("."):
        name = f"{name}.{step}" if name else step
        spec = importlib.machinery.PathFinder.find_spec(name, locations)
        if spec is None:
            return None
        locations, origin = spec.submodule_search_locations or [], spec.origin
    return origin
