"""Holds the shape of the program: which way imports go, and what the cores may know of the world."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent
PACKAGE = PROJECT / "tunfwd"
CORES = ("wire", "netstack", "forwarding", "link")
MODULES = sorted(PACKAGE.rglob("*.py"))

# All that a core may use of the standard library: nothing here reads a clock, rolls a die or opens anything.
PURE = {
    "__future__",
    "abc",
    "array",
    "base64",
    "bisect",
    "builtins",
    "collections",
    "contextlib",
    "dataclasses",
    "enum",
    "fnmatch",
    "functools",
    "hashlib",
    "heapq",
    "ipaddress",
    "itertools",
    "math",
    "operator",
    "re",
    "string",
    "struct",
    "sys",
    "types",
    "typing",
    "unicodedata",
    "zlib",  # crc32
}

# What only one part of the program may use.
KEPT_FOR = {
    "cffi": "tox",
    "click": "cli",
    "pyprctl": "tun",
    "segno": "cli",
    "pyroute2": "tun",
    "pytox": "tox",
    "pytun": "tun",
    "starlette": "web",
    "uvicorn": "web",
}


def name_of(path: Path) -> str:
    return str(path.relative_to(PROJECT))


def part_of(path: Path) -> str:
    """The layer a module is in: `netstack`; for a module at the top, its own name."""
    return path.relative_to(PACKAGE).parts[0]


def imports_of(path: Path) -> Iterator[str]:
    """The top-level names of everything a module imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(), path)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}:{node.lineno}: a relative import"
            yield (node.module or "").partition(".")[0]


def test_modules_are_found() -> None:
    assert len(MODULES) > 10
    assert {part_of(module) for module in MODULES} >= set(CORES)


def test_import_contracts_hold() -> None:
    result = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=PROJECT,
        env=os.environ | {"NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert " 0 broken" in result.stdout
    assert set(re.findall(r"^(.+) KEPT$", result.stdout, re.MULTILINE)) >= {
        "Imports go one way",
        "Inside the daemon, too, imports go one way",
        "No circles",
        "The cores know nothing of I/O, clocks or chance",
    }


@pytest.mark.parametrize("module", [path for path in MODULES if part_of(path) in CORES], ids=name_of)
def test_core_is_pure(module: Path) -> None:
    assert set(imports_of(module)) <= PURE | {"tunfwd"}


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_outside_library_stays_in_its_part(module: Path) -> None:
    strays = {
        name: part
        for name in imports_of(module)
        if (part := KEPT_FOR.get(name, part_of(module))) != part_of(module)
    }
    assert not strays


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_module_says_why_it_exists(module: Path) -> None:
    assert ast.get_docstring(ast.parse(module.read_text()))


PURE_CALLS = {"len", "min", "max"}
PACKET_PATH = [module for module in MODULES if {*CORES, "datapath", "services"} & {*module.parts}]


@pytest.mark.parametrize("module", PACKET_PATH, ids=name_of)
def test_bounds_of_slices_have_no_effects(module: Path) -> None:
    """Compiled by mypyc, the bounds of a slice may be evaluated twice."""
    strays = [
        f"{name_of(module)}:{call.lineno}: {ast.unparse(call)}"
        for node in ast.walk(ast.parse(module.read_text()))
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Slice)
        for bound in (node.slice.lower, node.slice.upper)
        for call in (ast.walk(bound) if bound is not None else ())
        if isinstance(call, ast.Call) and not (isinstance(call.func, ast.Name) and call.func.id in PURE_CALLS)
    ]
    assert not strays


def test_every_folder_is_a_package() -> None:
    folders = {module.parent for module in MODULES}
    assert not {name_of(folder) for folder in folders if not (folder / "__init__.py").is_file()}
