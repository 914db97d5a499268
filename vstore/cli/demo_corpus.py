"""The demo's text: docstrings of the installed standard library and of vstore's own dependencies.

Sources are parsed, never imported, so that nothing of them runs. A docstring that the C part of CPython
keeps (builtins, math, ...) is read from the modules that every interpreter has compiled in.
"""

from __future__ import annotations

import ast
import builtins
import gc
import importlib.metadata
import inspect
import itertools
import math
import re
import sys
import sysconfig
import types
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vstore.types import FieldType

FIELDS: dict[str, FieldType] = {
    "package": "str",
    "module": "str",
    "kind": "str",
    "public": "bool",
    "lines": "int",
    "names": "list[str]",
}
SKIPPED_FOLDERS = frozenset({"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"})
# math and itertools are shared objects in some builds; importing either runs nothing but its own C.
C_MODULES: tuple[types.ModuleType, ...] = (builtins, gc, itertools, math, sys)
MAX_SOURCE_BYTES = 4_000_000

Definition = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
Signature = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Docstring:
    """One documented definition: `key` is its qualified name, unique in a corpus."""

    key: str
    package: str
    module: str
    kind: str
    public: bool
    lines: int
    names: tuple[str, ...]
    signature: str
    text: str

    @property
    def document(self) -> str:
        """What is embedded, stored and re-ranked: qualified name, signature and docstring."""
        return f"{self.key}{self.signature}\n\n{self.text}"


def source_files() -> list[tuple[str, Path]]:
    """Return (module name, path) of every Python source of the corpus, sorted, without tests."""
    root = Path(sysconfig.get_path("stdlib"))
    found = {
        path: module_name(path.relative_to(root))
        for path in root.rglob("*.py")
        if not SKIPPED_FOLDERS.intersection(path.relative_to(root).parts)
    }
    for distribution in dependencies("vstore", extra="demo"):
        for file in distribution.files or ():
            relative = Path(str(file))
            if relative.suffix == ".py" and not SKIPPED_FOLDERS.intersection(relative.parts):
                found[Path(str(distribution.locate_file(file)))] = module_name(relative)
    return sorted((name, path) for path, name in found.items() if ".." not in path.parts)


def module_name(relative: Path) -> str:
    """Return the dotted name of a source file, given its path below an import root."""
    parts = relative.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def dependencies(name: str, extra: str) -> list[importlib.metadata.Distribution]:
    """Return the installed distributions that `name[extra]` needs, and what those need, sorted by name."""
    found: dict[str, importlib.metadata.Distribution] = {}
    waiting = [(name, extra)]
    while waiting:
        wanted, wanted_extra = waiting.pop()
        try:
            distribution = importlib.metadata.distribution(wanted)
        except importlib.metadata.PackageNotFoundError:
            continue
        key = re.sub(r"[-_.]+", "-", wanted).lower()
        if key in found:
            continue
        found[key] = distribution
        for requirement in distribution.requires or ():
            marker = re.search(r"extra\s*==\s*['\"]([^'\"]+)['\"]", requirement)
            matched = re.match(r"[A-Za-z0-9._-]+", requirement)
            if matched and (marker is None or marker.group(1) == wanted_extra):
                waiting.append((matched.group(0), ""))
    found.pop(name, None)
    return [found[key] for key in sorted(found)]


def collect(
    files: list[tuple[str, Path]],
    progress: Callable[[int, int], None] | None = None,
    limit: int | None = None,
) -> list[Docstring]:
    """Read every documented definition of the files and of the C modules.

    Args:
        files: (module name, path), as `source_files` returns them.
        progress: gets (files done, files in all).
        limit: stop after this many docstrings, from files in a fixed shuffled order.

    Returns:
        Docstrings in the files' order, each key once: where a name is defined twice, the first counts.
    """
    if limit is not None:
        files = [files[i] for i in np.random.default_rng(0).permutation(len(files)).tolist()]
    found: dict[str, Docstring] = {}
    for one in itertools.chain.from_iterable(map(from_c_module, C_MODULES)):
        found.setdefault(one.key, one)
    for done, (module, path) in enumerate(files, 1):
        for one in from_source(module, path):
            found.setdefault(one.key, one)
        if progress is not None:
            progress(done, len(files))
        if limit is not None and len(found) >= limit:
            break
    return list(found.values())[:limit]


def from_source(module: str, path: Path) -> Iterator[Docstring]:
    """Yield the docstrings of one file; a file that is missing or does not parse has none."""
    try:
        if path.stat().st_size > MAX_SOURCE_BYTES:
            return
        source = path.read_bytes()
        with warnings.catch_warnings():
            # Invalid escapes in other people's sources are not this program's to report.
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    except (OSError, SyntaxError, ValueError, RecursionError):
        return
    n_lines = source.count(b"\n") + 1
    for name, node, kind in definitions(tree, module):
        text = ast.get_docstring(node)
        if text and text.strip():
            signature = signature_of(node)
            yield Docstring(
                key=name,
                package=module.partition(".")[0],
                module=module,
                kind=kind,
                public=is_public(name),
                lines=n_lines if isinstance(node, ast.Module) else (node.end_lineno or 0) - node.lineno + 1,
                names=signature_words(node),
                signature=signature,
                text=text.strip(),
            )


def definitions(tree: ast.Module, module: str) -> Iterator[tuple[str, Definition, str]]:
    """Yield (qualified name, node, kind) of the module and of every class, function and method in it."""
    yield module, tree, "module"
    waiting: list[tuple[str, ast.AST, bool]] = [(module, tree, False)]
    while waiting:
        prefix, parent, in_class = waiting.pop()
        for node in ast.iter_child_nodes(parent):
            if isinstance(node, ast.ClassDef):
                yield f"{prefix}.{node.name}", node, "class"
                waiting.append((f"{prefix}.{node.name}", node, True))
            elif isinstance(node, Signature):
                yield f"{prefix}.{node.name}", node, "method" if in_class else "function"
            elif isinstance(node, ast.If | ast.Try):
                # Definitions behind a version or platform check belong to the same scope.
                waiting.append((prefix, node, in_class))


def initializer(node: Definition) -> Signature | None:
    """Return the function whose parameters are the node's: itself, or a class's `__init__`."""
    if isinstance(node, Signature):
        return node
    if isinstance(node, ast.ClassDef):
        return next((n for n in node.body if isinstance(n, Signature) and n.name == "__init__"), None)
    return None


def signature_of(node: Definition) -> str:
    """Return "(a, b: int = 0) -> str", or "" where there is no signature."""
    function = initializer(node)
    if function is None:
        return ""
    returns = f" -> {ast.unparse(function.returns)}" if function.returns and node is function else ""
    return f"({ast.unparse(function.args)}){returns}"


def signature_words(node: Definition) -> tuple[str, ...]:
    """Return the parameter names and annotation words of a signature, each once, in first-seen order."""
    function = initializer(node)
    if function is None:
        return ()
    arguments = function.args
    parameters = [
        *arguments.posonlyargs,
        *arguments.args,
        arguments.vararg,
        *arguments.kwonlyargs,
        arguments.kwarg,
    ]
    words: dict[str, None] = {}
    for parameter in parameters:
        if parameter is not None and parameter.arg not in ("self", "cls"):
            words[parameter.arg] = None
            words.update(dict.fromkeys(annotation_words(parameter.annotation)))
    if function is node:
        words.update(dict.fromkeys(annotation_words(function.returns)))
    return tuple(words)


def annotation_words(annotation: ast.expr | None) -> list[str]:
    """Return the identifiers of an annotation, in the order of the source."""
    return re.findall(r"[A-Za-z_]\w*", ast.unparse(annotation)) if annotation is not None else []


def is_public(name: str) -> bool:
    """Return whether no part of a name begins with an underscore; `__init__` and its like do not count."""
    return not any(
        part.startswith("_") and not (part.startswith("__") and part.endswith("__"))
        for part in name.split(".")
    )


def from_c_module(module: types.ModuleType) -> Iterator[Docstring]:
    """Yield what a C module says of itself, its classes, their methods and its functions."""
    owner = module.__name__
    yield from c_docstring(owner, owner, module, "module")
    for name, value in sorted(vars(module).items()):
        if isinstance(value, type) and value.__module__ == owner:
            yield from c_docstring(f"{owner}.{name}", owner, value, "class")
            for attribute, member in sorted(vars(value).items()):
                if isinstance(member, types.MethodDescriptorType | types.ClassMethodDescriptorType):
                    yield from c_docstring(f"{owner}.{name}.{attribute}", owner, member, "method")
        elif isinstance(value, types.BuiltinFunctionType):
            yield from c_docstring(f"{owner}.{name}", owner, value, "function")


def c_docstring(key: str, owner: str, value: object, kind: str) -> Iterator[Docstring]:
    """Yield a C definition's docstring, if it has one; `lines` are the docstring's, for want of source."""
    text = inspect.getdoc(value) if kind == "module" else getattr(value, "__doc__", None)
    if not isinstance(text, str) or not text.strip():
        return
    raw = getattr(value, "__text_signature__", None)
    # CPython writes the bound first parameter as "$self", and "/" after it.
    signature = re.sub(r"\$\w+(, /)?(, )?", "", raw) if isinstance(raw, str) else ""
    yield Docstring(
        key=key,
        package=owner,
        module=owner,
        kind=kind,
        public=is_public(key),
        lines=text.count("\n") + 1,
        names=tuple(dict.fromkeys(re.findall(r"(?<![=\w'\"])[A-Za-z_]\w*", signature))),
        signature=signature,
        text=text.strip(),
    )
