"""File formats and compressions of an export: pages of ClickHouse's rows in, bytes of a file out."""

from __future__ import annotations

import re
import zlib
from typing import Any, Protocol

import msgspec

from functions.common.search import ROW

# Cells that begin with one of these may be run by a spreadsheet (OWASP, CSV injection).
_FORMULA = r"^[=+\\-@\\t\\r\\n]"
_CSV_TEXTS = ("tenant", "service", "level", "message", "toJSONString(metadata)", "trace_id", "span_id")
_CSV_COLUMNS = "id,timestamp,tenant,service,level,message,metadata,trace_id,span_id"
# A quote inside a cell is doubled, so a line break, one quote and a log's id can only be the start of a row.
_CSV_ROW = re.compile(rb'"(\d+-[0-9a-f]{16})",')


class Format(Protocol):
    """One file: `columns` and `output` say how ClickHouse gives the pages; then `head`, each `page`, and `tail`.

    `last_id` is the public id of a page's last log. A file without its tail is recognisably broken where the format
    allows it.
    """

    extension: str
    media_type: str
    columns: str
    output: str

    def head(self) -> bytes:
        """What stands before the first log."""

    def page(self, rows: bytes) -> bytes:
        """A page of logs as it goes into the file."""

    def last_id(self, rows: bytes) -> str:
        """The id of the last log of a page."""

    def tail(self) -> bytes:
        """What stands after the last log."""


class JsonLines:
    """One JSON object a line."""

    extension = "ndjson"
    media_type = "application/x-ndjson"
    columns = ROW
    output = "JSONEachRow"

    def head(self) -> bytes:
        """Nothing."""
        return b""

    def page(self, rows: bytes) -> bytes:
        """The rows as they are."""
        return rows

    def last_id(self, rows: bytes) -> str:
        """The id in the last line."""
        line = rows[rows.rfind(b"\n", 0, -1) + 1 :]
        log_id: str = msgspec.json.decode(line)["id"]
        return log_id

    def tail(self) -> bytes:
        """Nothing."""
        return b""


class Json(JsonLines):
    """One JSON array. It is closed only if the export is complete."""

    extension = "json"
    media_type = "application/json"

    def __init__(self) -> None:
        self._between = b""

    def head(self) -> bytes:
        """The opening bracket."""
        return b"[\n"

    def page(self, rows: bytes) -> bytes:
        """The rows with commas between them."""
        page = self._between + rows[:-1].replace(b"\n", b",\n")  # a line break inside a text is escaped
        self._between = b",\n"
        return page

    def tail(self) -> bytes:
        """The closing bracket."""
        return b"\n]\n"


class Csv:
    """Comma-separated values (RFC 4180) with a header; metadata is JSON.

    With `safe`, a text that a spreadsheet would run as a formula is made harmless by an apostrophe before it.
    """

    extension = "csv"
    media_type = "text/csv; charset=utf-8"
    output = "CSV"

    def __init__(self, *, safe: bool = True) -> None:
        texts = [
            f"if(match({text}, '{_FORMULA}'), concat('''', {text}), {text})" if safe else text for text in _CSV_TEXTS
        ]
        id_and_time = ROW.split(", tenant")[0]
        self.columns = ", ".join([id_and_time, *texts])

    def head(self) -> bytes:
        """The names of the columns."""
        return _CSV_COLUMNS.encode() + b"\n"

    def page(self, rows: bytes) -> bytes:
        """The rows as they are."""
        return rows

    def last_id(self, rows: bytes) -> str:
        """The id at the start of the last row."""
        start = len(rows)
        while start > 0:
            start = rows.rfind(b'\n"', 0, start)
            if match := _CSV_ROW.match(rows, start + 1):
                return match[1].decode()
        raise ValueError("a page of CSV without a row")

    def tail(self) -> bytes:
        """Nothing."""
        return b""


class Parquet:
    """Apache Parquet, a row group a page; zstd inside. A file without its footer cannot be opened."""

    extension = "parquet"
    media_type = "application/vnd.apache.parquet"
    columns = ROW
    output = "ArrowStream"

    def __init__(self) -> None:
        self._sink = _Sink()
        self._writer: Any = None
        self._schema: Any = None

    def head(self) -> bytes:
        """Nothing: the schema comes with the first page."""
        return b""

    def page(self, rows: bytes) -> bytes:
        """A row group."""
        import pyarrow.parquet

        table = self._table(rows)
        if self._writer is None:
            self._writer = pyarrow.parquet.ParquetWriter(self._sink, table.schema, compression="zstd")
        self._writer.write_table(table)
        return self._sink.take()

    def last_id(self, rows: bytes) -> str:
        """The id in the last row."""
        log_id: str = self._table(rows).column("id")[-1].as_py()
        return log_id

    def tail(self) -> bytes:
        """The footer."""
        import pyarrow as pa
        import pyarrow.parquet

        if self._writer is None:
            text = pa.string()
            names = ("id", "timestamp", "tenant", "service", "level", "message", "metadata", "trace_id", "span_id")
            metadata = pa.map_(text, pa.field("value", text, nullable=False))
            types = {"timestamp": pa.timestamp("ns", "UTC"), "metadata": metadata}
            schema = pa.schema([pa.field(name, types.get(name, text), nullable=False) for name in names])
            self._writer = pyarrow.parquet.ParquetWriter(self._sink, schema, compression="zstd")
        self._writer.close()
        return self._sink.take()

    def _table(self, rows: bytes) -> Any:
        import pyarrow as pa

        with pa.ipc.open_stream(rows) as stream:
            return stream.read_all()


class _Sink:
    """Where the Parquet writer writes; what it wrote is taken away page by page."""

    closed = False

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._position = 0

    def write(self, data: Any) -> int:
        part = bytes(data)
        self._parts.append(part)
        self._position += len(part)
        return len(part)

    def tell(self) -> int:
        return self._position

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Nothing to close."""

    def take(self) -> bytes:
        parts, self._parts = self._parts, []
        return b"".join(parts)


class Compressor(Protocol):
    """A stream of compressed bytes."""

    def compress(self, data: bytes) -> bytes:
        """Compress; may keep some back."""

    def flush(self) -> bytes:
        """What was kept back, and the end of the stream."""


def gzip() -> Compressor:
    """gzip, by the fastest library: the level that costs a third of zlib's time at the same size."""
    from isal import isal_zlib

    stream: Compressor = isal_zlib.compressobj(1, isal_zlib.DEFLATED, zlib.MAX_WBITS | 16)
    return stream


def zstd() -> Compressor:
    """Zstandard."""
    from backports import zstd as library

    return library.ZstdCompressor(level=1)


class Plain:
    """No compression."""

    def compress(self, data: bytes) -> bytes:
        """The data as it is."""
        return data

    def flush(self) -> bytes:
        """Nothing."""
        return b""
