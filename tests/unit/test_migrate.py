"""The migration applies each file once, in order, and refuses what was edited."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from functions.common import migrate as migration
from functions.common.clickhouse import ClickHouse
from functions.common.errors import ClickHouseUnavailable, TorporError
from functions.common.migrate import SCHEMA, EditedFileError, SchemaConfig, migrate, statements
from tests.support.memory import MemoryClickHouse


class Server:
    """A server whose databases share one log of statements and one ledger."""

    def __init__(self) -> None:
        self.commands: list[str] = []
        self.ledger: dict[str, str] = {}
        self.opened: list[str] = []
        self.closed = 0
        self.fails_at = ""

    def open(self, name: str) -> "Database":
        self.opened.append(name)
        return Database(self)


class Database(MemoryClickHouse):
    def __init__(self, server: Server) -> None:
        super().__init__()
        self._server = server

    async def command(self, sql: str, parameters: Mapping[str, Any] | None = None) -> None:
        if self._server.fails_at and self._server.fails_at in sql:
            raise TorporError("refused")
        self._server.commands.append(sql)

    async def select(self, sql: str, *more: object, **other: object) -> bytes:
        rows = [{"name": name, "checksum": checksum} for name, checksum in self._server.ledger.items()]
        return b"\n".join(map(msgspec.json.encode, rows))

    async def insert(self, table: str, rows: bytes, token: str = "") -> None:
        assert table == "schema_ledger"
        row = msgspec.json.decode(rows)
        self._server.ledger[row["name"]] = row["checksum"]

    async def close(self) -> None:
        self._server.closed += 1


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def schema(tmp_path: Path) -> Path:
    """A small schema: a ledger, two files, the settings."""
    for variant in ("single", "cluster"):
        (tmp_path / variant / "settings").mkdir(parents=True)
        for name, text in {
            "0000_ledger.sql": "CREATE TABLE ledger;\n",
            "0001_logs.sql": "CREATE TABLE logs;\n\n-- Why.\nCREATE TABLE more;\n",
            "0002_later.sql": "ALTER TABLE logs\n    ADD COLUMN x;\n",
            "settings/retention.sql": "ALTER TTL {retention_days} DAY;\n",
            "settings/text_index_on.sql": "ADD INDEX;\n",
            "settings/text_index_off.sql": "DROP INDEX;\n",
        }.items():
            (tmp_path / variant / name).write_text(text)
    return tmp_path


ALL = ["0001_logs.sql", "0002_later.sql", "retention", "text_index"]


async def test_a_new_database_gets_every_file_in_order(server: Server, schema: Path) -> None:
    assert await migrate(server.open, "torpor", SchemaConfig(), schema) == ALL
    assert server.commands == [
        "CREATE DATABASE IF NOT EXISTS torpor ENGINE = Atomic",
        "CREATE TABLE ledger",
        "CREATE TABLE logs",
        "-- Why.\nCREATE TABLE more",
        "ALTER TABLE logs\n    ADD COLUMN x",
        "ALTER TTL 30 DAY",
        "ADD INDEX",
    ]
    assert sorted(server.ledger) == ALL
    assert server.opened == ["default", "torpor"]
    assert server.closed == 2


async def test_a_second_time_there_is_nothing_to_apply(server: Server, schema: Path) -> None:
    await migrate(server.open, "torpor", SchemaConfig(), schema)
    assert await migrate(server.open, "torpor", SchemaConfig(), schema) == []


async def test_a_new_file_is_applied_alone(server: Server, schema: Path) -> None:
    await migrate(server.open, "torpor", SchemaConfig(), schema)
    (schema / "single" / "0003_new.sql").write_text("NEW;\n")
    server.commands.clear()
    assert await migrate(server.open, "torpor", SchemaConfig(), schema) == ["0003_new.sql"]
    assert server.commands[2:] == ["NEW"]


async def test_an_edited_file_is_refused_before_anything_is_changed(server: Server, schema: Path) -> None:
    await migrate(server.open, "torpor", SchemaConfig(), schema)
    (schema / "single" / "0002_later.sql").write_text("EDITED;\n")
    (schema / "single" / "0003_new.sql").write_text("NEW;\n")
    server.commands.clear()
    with pytest.raises(EditedFileError, match=r"0002_later\.sql"):
        await migrate(server.open, "torpor", SchemaConfig(retention_days=7), schema)
    assert server.commands == ["CREATE DATABASE IF NOT EXISTS torpor ENGINE = Atomic", "CREATE TABLE ledger"]
    assert server.closed == 4


async def test_what_settings_decide_is_applied_whenever_it_changed(server: Server, schema: Path) -> None:
    await migrate(server.open, "torpor", SchemaConfig(), schema)
    server.commands.clear()
    changed = SchemaConfig(retention_days=7, text_index=False)
    assert await migrate(server.open, "torpor", changed, schema) == ["retention", "text_index"]
    assert server.commands[2:] == ["ALTER TTL 7 DAY", "DROP INDEX"]
    assert await migrate(server.open, "torpor", SchemaConfig(), schema) == ["retention", "text_index"]


async def test_a_file_that_failed_is_applied_again(server: Server, schema: Path) -> None:
    server.fails_at = "CREATE TABLE more"
    with pytest.raises(TorporError):
        await migrate(server.open, "torpor", SchemaConfig(), schema)
    assert server.ledger == {}
    assert server.closed == 2
    server.fails_at = ""
    assert await migrate(server.open, "torpor", SchemaConfig(), schema) == ALL


async def test_a_cluster_gets_its_database_on_every_server(server: Server, schema: Path) -> None:
    await migrate(server.open, "torpor", SchemaConfig(schema_variant="cluster"), schema)
    assert server.commands[0] == "CREATE DATABASE IF NOT EXISTS torpor ON CLUSTER '{cluster}' ENGINE = Atomic"


def shipped(variant: str) -> list[str]:
    """What a new database gets: all files but the ledger's own, and what settings decide."""
    return [*sorted(path.name for path in (SCHEMA / variant).glob("*.sql"))[1:], "retention", "text_index"]


@pytest.mark.parametrize("variant", ["single", "cluster"])
async def test_the_schema_that_ships_is_applied_whole(server: Server, variant: str) -> None:
    applied = await migrate(server.open, "torpor", SchemaConfig(schema_variant=variant, retention_days=3))
    assert applied == shipped(variant)
    assert any("INTERVAL 3 DAY" in command for command in server.commands)
    assert not any("{retention_days}" in command or command.endswith(";") for command in server.commands)


def test_both_variants_have_the_same_files() -> None:
    single, cluster = (
        {str(path.relative_to(SCHEMA / variant)) for path in (SCHEMA / variant).rglob("*")}
        for variant in ("single", "cluster")
    )
    assert single == cluster


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("\n \n", []),
        ("A;", ["A"]),
        ("A;\nB", ["A", "B"]),
        ("A\n'x;y';\n\n;\nB;\n\n", ["A\n'x;y'", "B"]),
    ],
)
def test_a_statement_ends_with_a_semicolon_at_the_end_of_a_line(text: str, expected: list[str]) -> None:
    assert list(statements(text)) == expected


@pytest.mark.parametrize(
    ("settings", "variable"),
    [({"schema_variant": "both"}, "SCHEMA_VARIANT"), ({"retention_days": 0}, "RETENTION_DAYS")],
)
def test_a_wrong_setting_is_named(settings: dict[str, object], variable: str) -> None:
    with pytest.raises(ValueError, match=variable):
        SchemaConfig(**settings)  # type: ignore[arg-type]


def run_main(monkeypatch: pytest.MonkeyPatch, env: dict[str, str], server: Server) -> None:
    monkeypatch.setattr(migration, "environment", lambda: env)
    monkeypatch.setattr(ClickHouse, "server", lambda config: server.open(config.clickhouse_database))
    migration.main()


def test_the_command_says_what_it_applied(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], server: Server
) -> None:
    env = {"CLICKHOUSE_DATABASE": "mine"}
    run_main(monkeypatch, env, server)
    assert capsys.readouterr().out == f"applied {', '.join(shipped('single'))}\n"
    run_main(monkeypatch, env, server)
    assert capsys.readouterr().out == "nothing to apply: the schema is up to date\n"
    assert server.opened == ["default", "mine"] * 2


def test_the_command_ends_with_the_reason_when_it_cannot_do_it(monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    with pytest.raises(SystemExit, match="migrate: RETENTION_DAYS is 'x'"):
        run_main(monkeypatch, {"RETENTION_DAYS": "x"}, server)

    def nobody(name: str) -> Database:
        raise ClickHouseUnavailable("ClickHouse does not answer")

    monkeypatch.setattr(server, "open", nobody)
    with pytest.raises(SystemExit, match="migrate: ClickHouse does not answer"):
        run_main(monkeypatch, {}, server)
