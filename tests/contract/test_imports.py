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
GENERATED = ROOT / "functions/ingest/proto"


def modules(name: str) -> list[Path]:
    """The files of a function, and of its packages, that are written by hand."""
    found = [path for path in (ROOT / "functions" / name).rglob("*.py") if GENERATED not in path.parents]
    assert found
    return sorted(found)


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("name", [*FUNCTIONS, "common", "edge"])
def test_a_function_imports_only_itself_and_common(name: str) -> None:
    allowed = {name, "common"}
    for path in modules(name):
        of_ours = {imported.split(".")[1] for imported in imports(path) if imported.startswith("functions.")}
        assert of_ours <= allowed, f"{path.relative_to(ROOT)} imports {of_ours - allowed}"


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
    assert FOREIGN[name] & loaded(f"functions.{name}.function") == set()


def test_ingest_loads_a_protocol_with_its_first_request_and_none_of_them_loads_anything_of_the_others() -> None:
    folder = "functions.ingest.dialects"
    protocols = {f"{folder}.{path.stem}" for path in (ROOT / "functions/ingest/dialects").glob("[!_]*.py")}
    assert f"{folder}.own" in protocols
    assert loaded("functions.ingest.function") & protocols == {f"{folder}.dialect"}
    assert FOREIGN["ingest"] & loaded("functions.ingest.function", *protocols) == set()


def loaded(*names: str) -> set[str]:
    """The modules that a fresh interpreter without an environment has after it imported these."""
    code = f"import sys, {', '.join(names)}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], env={}, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())
