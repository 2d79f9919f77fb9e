"""Files of an export: pages as ClickHouse renders them go in, and a reader of the format finds every log."""

import csv
import gzip
import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from backports import zstd
from hypothesis import example, given, settings
from hypothesis import strategies as st

from functions.export import formats
from functions.export.formats import Compressor, Csv, Format, Json, JsonLines, Parquet, Plain

QUICK = settings(max_examples=40, deadline=None)
COLUMNS = ("id", "timestamp", "tenant", "service", "level", "message", "metadata", "trace_id", "span_id")
METADATA = pa.map_(pa.string(), pa.field("value", pa.string(), nullable=False))
TYPES = {"timestamp": pa.timestamp("ns", "UTC"), "metadata": METADATA}
SCHEMA = pa.schema([pa.field(name, TYPES.get(name, pa.string()), nullable=False) for name in COLUMNS])

Row = dict[str, Any]
# What a row of CSV is made of, so that cells come to look like rows.
PIECES = ["\n", '"', '\n"', '","', ",", "\r\n", "\\", "'", "=1+1", "\0", "7-0000000000000007", "é", "\u2028", "x"]
ids = st.integers(0, (1 << 127) - 1).map(lambda bits: f"{bits >> 64}-{bits & (1 << 64) - 1:016x}")
cells = st.lists(st.sampled_from(PIECES), max_size=6).map("".join) | st.text(max_size=3)
rows = st.builds(
    lambda id, tenant, message, metadata, span_id: {
        "id": id,
        "timestamp": "2026-01-31T12:00:00.500000000Z",
        "tenant": tenant,
        "service": "checkout",
        "level": "INFO",
        "message": message,
        "metadata": metadata,
        "trace_id": "",
        "span_id": span_id,
    },
    ids,
    cells,
    cells,
    st.dictionaries(cells, cells, max_size=2),
    cells,
)
pages = st.lists(st.lists(rows, min_size=1, max_size=3), max_size=3)


def log(number: int, **values: Any) -> Row:
    texts = dict.fromkeys(COLUMNS, "")
    identity = {"id": f"{number}-{number:016x}", "timestamp": "2026-01-31T12:00:00.500000000Z"}
    return {**texts, **identity, "metadata": {}, **values}


def as_json_lines(page: list[Row]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in page).encode()


def as_csv(page: list[Row]) -> bytes:
    """Rows as ClickHouse renders CSV: every text in quotes, those inside doubled, and no other escapes."""
    lines = [
        ",".join(
            '"{}"'.format((json.dumps(cell) if isinstance(cell, dict) else cell).replace('"', '""'))
            for cell in row.values()
        )
        for row in page
    ]
    return "".join(line + "\n" for line in lines).encode()


def as_arrow(page: list[Row]) -> bytes:
    sink = io.BytesIO()
    lines = [{**row, "timestamp": 1_769_860_800_500_000_000, "metadata": list(row["metadata"].items())} for row in page]
    with pa.ipc.new_stream(sink, SCHEMA) as stream:
        stream.write_table(pa.Table.from_pylist(lines, SCHEMA))
    return sink.getvalue()


def file_of(form: Format, parts: list[bytes]) -> bytes:
    return form.head() + b"".join([form.page(part) for part in parts]) + form.tail()


def read_csv(file: bytes) -> list[list[str]]:
    header, *lines = csv.reader(io.StringIO(file.decode(), newline=""), strict=True)
    assert header == list(COLUMNS)
    return lines


# JSON


@given(pages)
@QUICK
def test_pages_of_json_are_one_array(pages: list[list[Row]]) -> None:
    file = file_of(Json(), [as_json_lines(page) for page in pages])
    assert json.loads(file) == [row for page in pages for row in page]


@given(pages)
@QUICK
def test_pages_of_json_lines_are_one_log_a_line(pages: list[list[Row]]) -> None:
    file = file_of(JsonLines(), [as_json_lines(page) for page in pages])
    assert [json.loads(line) for line in file.split(b"\n")[:-1]] == [row for page in pages for row in page]


@given(st.lists(rows, min_size=1, max_size=4))
@QUICK
def test_the_last_id_of_json_lines_is_that_of_the_last_log(page: list[Row]) -> None:
    assert JsonLines().last_id(as_json_lines(page)) == Json().last_id(as_json_lines(page)) == page[-1]["id"]


def test_json_without_its_tail_is_no_json() -> None:
    form = Json()
    file = form.head() + form.page(as_json_lines([log(1), log(2)]))
    with pytest.raises(json.JSONDecodeError):
        json.loads(file)


# CSV


@given(st.lists(rows, min_size=1, max_size=4))
@example([log(1, message='\n"2-0000000000000002",'), log(3, span_id="\n")])
@example([log(1, span_id='\n"'), log(2, message='"\n"9-0000000000000009","x"\n')])
@example([log(1, message='\n"9-0000000000000009","')])
@QUICK
def test_the_last_id_of_csv_is_that_of_the_last_row_whatever_its_cells_look_like(page: list[Row]) -> None:
    assert Csv().last_id(as_csv(page)) == page[-1]["id"]


@given(pages)
@QUICK
def test_pages_of_csv_are_read_back_cell_by_cell(pages: list[list[Row]]) -> None:
    file = file_of(Csv(), [as_csv(page) for page in pages])
    logs = [row for page in pages for row in page]
    assert read_csv(file) == [
        [json.dumps(cell) if isinstance(cell, dict) else cell for cell in row.values()] for row in logs
    ]


@pytest.mark.parametrize("page", [b"", b"\n", b'"', b'"x","y"\n', b'x\n"1-",', b"1-0000000000000000,\n"])
def test_a_page_of_csv_without_a_row_has_no_last_id(page: bytes) -> None:
    with pytest.raises(ValueError, match="without a row"):
        Csv().last_id(page)


def test_the_texts_of_a_csv_are_checked_for_formulas_and_its_id_and_time_are_not() -> None:
    checked = Csv().columns.split(", if(match(")
    assert [part.split(",")[0] for part in checked[1:]] == [
        "tenant",
        "service",
        "level",
        "message",
        "toJSONString(metadata)",
        "trace_id",
        "span_id",
    ]
    assert checked[0] == Csv(safe=False).columns.split(", tenant")[0]
    assert "match" not in Csv(safe=False).columns


# Parquet


@given(pages)
@settings(QUICK, max_examples=15)
def test_pages_of_parquet_are_row_groups_of_one_table(pages: list[list[Row]]) -> None:
    file = pyarrow.parquet.ParquetFile(io.BytesIO(file_of(Parquet(), [as_arrow(page) for page in pages])))
    assert file.num_row_groups == len(pages)
    logs = file.read().to_pylist()
    assert [{**row, "metadata": sorted(row["metadata"])} for row in logs] == [
        {**row, "timestamp": logs[0]["timestamp"], "metadata": sorted(row["metadata"].items())}
        for page in pages
        for row in page
    ]


def test_the_last_id_of_a_page_of_parquet_is_that_of_the_last_row() -> None:
    assert Parquet().last_id(as_arrow([log(1), log(2)])) == log(2)["id"]


def test_parquet_keeps_nanoseconds() -> None:
    file = file_of(Parquet(), [as_arrow([log(1)])])
    assert pyarrow.parquet.read_schema(io.BytesIO(file)).field("timestamp").type == pa.timestamp("ns", "UTC")


def test_parquet_without_its_tail_cannot_be_opened() -> None:
    form = Parquet()
    with pytest.raises(pa.ArrowInvalid):
        pyarrow.parquet.ParquetFile(io.BytesIO(form.head() + form.page(as_arrow([log(1)]))))


# Any format


def test_a_file_without_logs_is_valid_in_every_format() -> None:
    assert json.loads(file_of(Json(), [])) == []
    assert file_of(JsonLines(), []) == b""
    assert read_csv(file_of(Csv(), [])) == []
    table = pyarrow.parquet.read_table(io.BytesIO(file_of(Parquet(), [])))
    assert table.num_rows == 0
    assert table.schema == pyarrow.parquet.read_table(io.BytesIO(file_of(Parquet(), [as_arrow([])]))).schema


@pytest.mark.parametrize("form", [Json(), JsonLines(), Csv(), Parquet()], ids=lambda form: type(form).__name__)
def test_every_format_asks_for_all_columns_in_their_order(form: Format) -> None:
    places = [form.columns.find(name) for name in COLUMNS[1:]]
    assert -1 not in places
    assert places == sorted(places)
    assert form.columns.split(" AS id, ")[0].startswith("concat(")


@pytest.mark.parametrize(
    ("new", "read"),
    [(Plain, bytes), (formats.gzip, gzip.decompress), (formats.zstd, zstd.decompress)],
    ids=["none", "gzip", "zstd"],
)
@pytest.mark.parametrize("parts", [[], [b""], [b"a", b"", b"b" * 100_000, b"c"]])
def test_what_was_compressed_in_parts_is_read_back(new: Any, read: Any, parts: list[bytes]) -> None:
    compressor: Compressor = new()
    packed = b"".join([compressor.compress(part) for part in parts]) + compressor.flush()
    assert read(packed) == b"".join(parts)
