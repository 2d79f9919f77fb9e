"""The generated code is what the schema makes, and the messages have the fields of the record."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import msgspec

from functions.common.record import Incoming
from functions.ingest.proto import log_pb2

ROOT = Path(__file__).parents[2]
GENERATED = ROOT / "functions/ingest/proto"


def commands(directory: Path) -> list[list[str]]:
    """What `make proto` runs, with another folder to write to."""
    recipe = re.search(r"^proto:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe
    lines = recipe[1].replace("$(PY)", sys.executable).replace("$(PROTO)", str(directory)).splitlines()
    return [shlex.split(line.strip().removeprefix("@")) for line in lines]


def test_the_generated_code_is_what_the_schema_makes(tmp_path: Path) -> None:
    for command in commands(tmp_path):
        subprocess.run(command, cwd=ROOT, check=True)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    kept = {path.name: path.read_bytes() for path in GENERATED.glob("*_pb2*") if path.is_file()}
    assert made.keys() == kept.keys()
    changed = [name for name in made if made[name] != kept[name]]
    assert changed == [], "run `make proto`"


def test_every_schema_is_generated() -> None:
    schemas = {f"{path.stem}_pb2.py" for path in (ROOT / "schema").glob("*.proto")}
    assert schemas == {path.name for path in GENERATED.glob("*_pb2.py")}


def test_an_entry_has_the_fields_of_the_record_that_clients_send() -> None:
    fields = log_pb2.LogEntry.DESCRIPTOR.fields
    assert {field.name for field in fields} == {field.name for field in msgspec.structs.fields(Incoming)}
    assert {field.type for field in fields} == {field.TYPE_STRING for field in fields}


def test_the_client_code_stands_alone() -> None:
    """A client puts the folder on its path, and has neither Torpor nor its dependencies but grpcio and protobuf."""
    code = "import sys, log_pb2, log_pb2_grpc; print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(GENERATED)},
        cwd="/",
        check=True,
        capture_output=True,
        text=True,
    )
    assert not {name for name in run.stdout.split() if name.partition(".")[0] == "functions"}
