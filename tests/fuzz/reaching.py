"""Which functions read bytes from outside, and which of them the fuzz targets reach with their seeds.

A reader is a function whose name begins as readers' names do and that takes text, bytes, a file or a parsed
value, or one that calls a decoder of a library: JSON, base64, struct, numpy, certificates.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Final

import emberfleet.agent
import emberfleet.converters.wire
import emberfleet.core
import emberfleet.server
from tests.fuzz.fuzzing import Family

PACKAGES: Final = (emberfleet.core, emberfleet.agent, emberfleet.server, emberfleet.converters.wire)
_NAMES: Final = re.compile(r"_?(decode|open|parse|read|unpack|from|load|verify|check)(_|$)")
_TAKEN: Final = re.compile(r"\b(bytes|str|memoryview|Source|object|Fields|Any|Path)\b")
_DECODERS: Final = frozenset(
    {
        "loads", "frombuffer", "unpack_from", "unpack", "b64decode", "a2b_base64", "fromhex", "from_bytes",
        "load_pem_private_key", "load_der_x509_certificate", "load_pem_x509_certificate",
    }
)  # fmt: skip

Place = tuple[str, int]
"""A file and the line on which a function's code begins, decorators included."""


def readers() -> dict[Place, str]:
    """Every reader of the packages: its module and name, by place."""
    found: dict[Place, str] = {}
    for package in PACKAGES:
        [folder] = package.__path__
        for path in sorted(Path(folder).rglob("*.py")):
            module = package.__name__ + "." + ".".join(path.relative_to(folder).with_suffix("").parts)
            for name, node in _functions(ast.parse(path.read_text("utf-8")), module):
                if _is_reader(node):
                    line = min([node.lineno, *(one.lineno for one in node.decorator_list)])
                    found[str(path), line] = name
    return found


def reached(families: tuple[Family, ...]) -> set[Place]:
    """Where the functions begin that the seeds of these families run through."""
    seen: set[CodeType] = set()

    def note(frame: FrameType, event: str, _argument: object) -> None:
        if event == "call":
            seen.add(frame.f_code)

    before = sys.getprofile()
    for family in families:
        targets = family.targets()
        sys.setprofile(note)
        try:
            for target in targets:
                for seed in target.seeds:
                    target.try_one(seed)
        finally:
            sys.setprofile(before)
    return {(str(Path(code.co_filename)), code.co_firstlineno) for code in seen}


Function = ast.FunctionDef | ast.AsyncFunctionDef


def _functions(tree: ast.AST, prefix: str) -> Iterator[tuple[str, Function]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, Function | ast.ClassDef):
            name = f"{prefix}.{node.name}"
            if not isinstance(node, ast.ClassDef):
                yield name, node
            yield from _functions(node, name)
        else:
            yield from _functions(node, prefix)


def _is_reader(node: Function) -> bool:
    arguments = [*node.args.args, *node.args.kwonlyargs]
    taken = " ".join(ast.unparse(each.annotation) for each in arguments if each.annotation is not None)
    if _NAMES.match(node.name) and _TAKEN.search(taken):
        return True
    return any(
        isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in _DECODERS
        for call in ast.walk(node)
    )
