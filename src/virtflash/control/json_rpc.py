"""JSON-RPC 2.0, apart from any socket: what a line of bytes asks for, and the lines that answer it.

The specification is at jsonrpc.org; the numbers of its errors are its own, those from -32000 down to -32099 are ours.
"""

import json
from collections.abc import Sequence
from enum import IntEnum
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

VERSION = "2.0"
BATCH_MOST = 64  # calls in one line
ID_LONGEST = 256  # characters: it is kept until its call is answered

Id = str | int | float | None


class ErrorCode(IntEnum):
    """Of an answer that is an error."""

    PARSE_ERROR = -32700
    INVALID_REQUEST = -32600
    METHOD_NOT_FOUND = -32601
    INVALID_PARAMS = -32602
    INTERNAL_ERROR = -32603
    REFUSED = -32000  # what was asked for cannot be done; the message says why
    NOT_ADMITTED = -32001  # this user may not control the server
    TOO_MANY = -32002  # connections, watchers, or bytes in one answer
    STOPPING = -32003  # the server ends


class RpcError(Exception):
    """An answer that is an error. The message is one line; `data` is what a program may want to know of it."""

    def __init__(self, code: ErrorCode, message: str, data: object = UNSET) -> None:
        super().__init__(" ".join(message.split()))
        self.code = code
        self.data = data


class Call(Struct, frozen=True):
    """A method that shall be called. `id` UNSET: a notification, which is not answered."""

    method: str
    params: dict[str, Any] | list[Any]
    id: Id | UnsetType = UNSET

    @property
    def is_notification(self) -> bool:
        return self.id is UNSET


class Misfit(Struct, frozen=True):
    """What is there instead of a call, and how it is answered."""

    id: Id
    error: RpcError


class Line(Struct, frozen=True):
    """What one line asks for. `batch`: the answers are given together, in an array."""

    entries: list[Call | Misfit]
    batch: bool = False


def read_line(line: bytes) -> Line:
    """Whatever it holds: what is no call becomes a `Misfit`."""
    try:
        written = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Line([misfit(ErrorCode.PARSE_ERROR, f"this is no JSON: {error}")])
    if not isinstance(written, list):
        return Line([read_call(written)])
    if not written:
        return Line([misfit(ErrorCode.INVALID_REQUEST, "an empty batch asks for nothing")])
    if len(written) > BATCH_MOST:
        words = f"a batch of {len(written)} calls; at most {BATCH_MOST} come in one"
        return Line([misfit(ErrorCode.INVALID_REQUEST, words)])
    return Line([read_call(entry) for entry in written], batch=True)


def read_call(written: object) -> Call | Misfit:
    """Of one entry of a batch, or of the only one."""
    if not isinstance(written, dict):
        return misfit(
            ErrorCode.INVALID_REQUEST, 'a call is an object, such as {"jsonrpc":"2.0","id":1,"method":"status"}'
        )
    number = written.get("id", UNSET)
    if number is not UNSET and not is_id(number):
        return misfit(
            ErrorCode.INVALID_REQUEST, f"id: a text of up to {ID_LONGEST} characters, a number or null is expected"
        )
    problem = problem_of(written)
    if problem is not None:
        return misfit(ErrorCode.INVALID_REQUEST, problem, None if number is UNSET else number)
    return Call(written["method"], written.get("params", {}), number)


def problem_of(written: dict[str, Any]) -> str | None:
    """What is wrong with a call, apart from its id."""
    if written.get("jsonrpc") != VERSION:
        return f'jsonrpc: "{VERSION}" is expected'
    if not isinstance(written.get("method"), str):
        return "method: the name of one is expected"
    if not isinstance(written.get("params", {}), dict | list):
        return "params: an object or an array is expected"
    return None


def is_id(value: object) -> bool:
    if isinstance(value, bool):
        return False
    if isinstance(value, int):
        return -(1 << 63) <= value < 1 << 64
    return value is None or isinstance(value, float) or (isinstance(value, str) and len(value) <= ID_LONGEST)


def misfit(code: ErrorCode, message: str, number: Id = None) -> Misfit:
    return Misfit(number, RpcError(code, message))


def result_line(number: Id | UnsetType, result: object) -> bytes:
    """TypeError, ValueError: JSON has no words for that result."""
    return _encode({"jsonrpc": VERSION, "id": number, "result": result})


def error_line(number: Id | UnsetType, error: RpcError) -> bytes:
    told = {"code": int(error.code), "message": str(error)}
    if error.data is not UNSET:
        told["data"] = error.data
    return _encode({"jsonrpc": VERSION, "id": number, "error": told})


def batch_line(answers: Sequence[bytes]) -> bytes:
    """Of the lines that would answer each call by itself."""
    return b"[" + b",".join(answers) + b"]"


def call_line(method: str, params: object, number: Id | UnsetType = UNSET) -> bytes:
    """A call or, without a number, a notification."""
    named = {} if number is UNSET else {"id": number}
    return _encode({"jsonrpc": VERSION, **named, "method": method, "params": params})


def _encode(message: dict[str, Any]) -> bytes:
    try:
        return msgspec.json.encode(message, enc_hook=_plain)
    except UnicodeEncodeError:  # a file's name need not be text
        plain = msgspec.to_builtins(message, enc_hook=_plain, str_keys=True)
        return json.dumps(plain, ensure_ascii=False).encode(errors="replace")


def _plain(value: object) -> object:
    """What msgspec does not know: quantities are integers of a class of their own."""
    if isinstance(value, int):
        return int(value)
    raise TypeError(f"a {type(value).__name__} in an answer")
