"""The REST API of export: its addresses, parameters and file types. What they do is in function.py."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING, Annotated, Literal

from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from pydantic import Field
from starlette.types import Receive, Scope, Send

from functions.common.api import PROBLEMS, new_api, url_parameters
from functions.common.errors import BadRequest
from functions.common.parameters import SearchParameters, gather
from functions.export.formats import Compressor, Csv, Format, Json, JsonLines, Parquet, Plain, gzip, zstd

if TYPE_CHECKING:
    from functions.export import function

# Format: how to make it, and its compression where none is asked for.
_FORMATS: dict[str, tuple[Callable[[], Format], str]] = {
    "json": (Json, "gzip"),
    "ndjson": (JsonLines, "none"),
    "csv": (Csv, "gzip"),
    "parquet": (Parquet, "none"),
}
# Compression: how to make it, what it adds to the file's name, its media type.
_COMPRESSIONS: dict[str, tuple[Callable[[], Compressor], str, str]] = {
    "none": (Plain, "", ""),
    "gzip": (gzip, ".gz", "application/gzip"),
    "zstd": (zstd, ".zst", "application/zstd"),
}


class ExportQuery(SearchParameters):
    """A search, and the file to make of its results."""

    format: Annotated[Literal["json", "ndjson", "csv", "parquet"], Field(description="Format of the file")] = "json"
    compression: Annotated[
        Literal["none", "gzip", "zstd"] | None,
        Field(description="Compression of the file; gzip by default for json and csv"),
    ] = None
    formulas: Annotated[
        Literal["escape", "keep"],
        Field(description="In CSV, put an apostrophe before texts that a spreadsheet would run, or leave them"),
    ] = "escape"

    def new_format(self) -> Format:
        """The format asked for."""
        if self.format == "parquet" and self.compression not in (None, "none"):
            raise BadRequest("bad parameter", {"compression": "a Parquet file is compressed inside; leave it away"})
        return Csv(safe=self.formulas == "escape") if self.format == "csv" else _FORMATS[self.format][0]()

    def new_compressor(self) -> Compressor:
        """The compression asked for."""
        return self._compression[0]()

    def suffix(self) -> str:
        """What the compression adds to the file's name."""
        return self._compression[1]

    def media_type(self) -> str:
        """The media type of the file."""
        return self._compression[2] or self.new_format().media_type

    @property
    def _compression(self) -> tuple[Callable[[], Compressor], str, str]:
        return _COMPRESSIONS[self.compression or _FORMATS[self.format][1]]


def routes(export: function.Export) -> FastAPI:
    """The application whose routes ask `export`."""
    api = new_api("Torpor export", "Search results as a file. Every log once, however often it was sent.")

    @api.get("/", summary="What is here")
    async def root() -> dict[str, object]:
        return {"function": "export", "routes": {"/api/v1/logs/export": ["GET"]}, "documentation": "/docs"}

    @api.get(
        "/api/v1/logs/export",
        response_class=StreamingResponse,
        responses={200: {"description": "The file", "content": _content()}, **PROBLEMS},
        openapi_extra=url_parameters(ExportQuery),
    )
    async def export_logs(request: Request) -> StreamingResponse:
        """Logs as a file, oldest first. An export that fails midway breaks the connection."""
        query = ExportQuery.model_validate(gather(request.query_params.multi_items()))
        name, file = await export.export(query)
        headers = {"content-disposition": f'attachment; filename="{name}"', "x-content-type-options": "nosniff"}
        return _File(file, headers=headers, media_type=query.media_type())

    return api


class _File(StreamingResponse):
    """Closes the file once the client has it or went away."""

    body_iterator: AsyncGenerator[bytes, None]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self.body_iterator.aclose()


def _content() -> dict[str, object]:
    types = {make().media_type for make, _ in _FORMATS.values()} | {kind for *_, kind in _COMPRESSIONS.values() if kind}
    return {kind: {"schema": {"type": "string", "format": "binary"}} for kind in sorted(types)}
