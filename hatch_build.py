"""Compiles the binding to libtoxcore into a wheel, where it is asked for as mypyc is (pyproject.toml)."""

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class NativeBinding(BuildHookInterface):
    """The hook `custom` of pyproject.toml."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and add what it came to to the wheel."""
        sys.path.insert(0, self.root)
        try:
            from tunfwd.tox.binding.native import builder  # noqa: PLC0415  of the sources, wherever they are
        finally:
            sys.path.remove(self.root)
        made = Path(builder().compile(tmpdir=str(Path(self.directory, "native")))).resolve()
        build_data["force_include"][str(made)] = f"tunfwd/tox/binding/{made.name}"
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
