"""Who may import whom, and what importing costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FUNCTIONS = ("ingest", "index", "query", "export")


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("name", [*FUNCTIONS, "common"])
def test_a_function_imports_only_itself_and_common(name: str) -> None:
    allowed = {name, "common"}
    for path in (ROOT / "functions" / name).glob("*.py"):
        of_ours = {imported.split(".")[1] for imported in imports(path) if imported.startswith("functions.")}
        assert of_ours <= allowed, f"{path.name} imports {of_ours - allowed}"


def test_every_function_has_the_same_files() -> None:
    for name in FUNCTIONS:
        files = {path.name for path in (ROOT / "functions" / name).glob("*.py")}
        assert {"__init__.py", "__main__.py", "function.py"} <= files


# What a function must not load: it would pay for it at every cold start, and its image does not hold it.
FOREIGN = {
    "ingest": {"clickhouse_connect", "fastapi", "pyarrow", "pandas", "chdb"},
    "index": {"tqdm", "fastapi", "pyarrow", "pandas", "chdb"},
    "query": {"kafka", "functions_framework", "pyarrow", "pandas", "chdb", "xxhash"},
    "export": {"kafka", "functions_framework", "pyarrow", "pandas", "chdb", "xxhash"},
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_importing_a_function_needs_no_environment_and_loads_nothing_of_the_others(name: str) -> None:
    code = f"import sys, functions.{name}.function; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], env={}, cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert FOREIGN[name] & set(loaded) == set()
