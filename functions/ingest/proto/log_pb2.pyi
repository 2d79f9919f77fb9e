from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LogEntry(_message.Message):
    __slots__ = ("timestamp", "service", "level", "message", "metadata", "id", "trace_id", "span_id")
    TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    TRACE_ID_FIELD_NUMBER: _ClassVar[int]
    SPAN_ID_FIELD_NUMBER: _ClassVar[int]
    timestamp: str
    service: str
    level: str
    message: str
    metadata: str
    id: str
    trace_id: str
    span_id: str
    def __init__(self, timestamp: _Optional[str] = ..., service: _Optional[str] = ..., level: _Optional[str] = ..., message: _Optional[str] = ..., metadata: _Optional[str] = ..., id: _Optional[str] = ..., trace_id: _Optional[str] = ..., span_id: _Optional[str] = ...) -> None: ...

class LogBatch(_message.Message):
    __slots__ = ("logs",)
    LOGS_FIELD_NUMBER: _ClassVar[int]
    logs: _containers.RepeatedCompositeFieldContainer[LogEntry]
    def __init__(self, logs: _Optional[_Iterable[_Union[LogEntry, _Mapping]]] = ...) -> None: ...

class IngestResponse(_message.Message):
    __slots__ = ("success", "message", "count", "rejected", "errors", "batch")
    SUCCESS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    success: bool
    message: str
    count: int
    rejected: int
    errors: _containers.RepeatedCompositeFieldContainer[RecordError]
    batch: str
    def __init__(self, success: _Optional[bool] = ..., message: _Optional[str] = ..., count: _Optional[int] = ..., rejected: _Optional[int] = ..., errors: _Optional[_Iterable[_Union[RecordError, _Mapping]]] = ..., batch: _Optional[str] = ...) -> None: ...

class RecordError(_message.Message):
    __slots__ = ("record", "field", "error")
    RECORD_FIELD_NUMBER: _ClassVar[int]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    record: int
    field: str
    error: str
    def __init__(self, record: _Optional[int] = ..., field: _Optional[str] = ..., error: _Optional[str] = ...) -> None: ...
