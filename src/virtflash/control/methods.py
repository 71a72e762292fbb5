"""The methods of a protocol class, as they are called from outside: parameters checked by their types, and described.

Made from signatures, annotations and docstrings alone; a new method is one more in `operator`.
"""

import difflib
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import NODEFAULT, UNSET

from virtflash.config.json_schema import schema_of_quantity
from virtflash.config.quantities import ByteRate, Duration, RequestRate, Size
from virtflash.config.reading import bare_type, description, hint, is_section, problem_of, read_quantity
from virtflash.control.json_rpc import ErrorCode, RpcError
from virtflash.control.operator import Connected, MethodDescription, Operator, Parameter

PROBLEMS_MOST = 8  # of one call that are told
WORDS = {
    Size: "size",
    ByteRate: "rate",
    RequestRate: "requests",
    Duration: "time",
    str: "text",
    int: "number",
    float: "number",
    bool: "true|false",
}


@dataclass(frozen=True)
class Field:
    """A parameter on the wire. `argument`: of the method in Python; a struct takes several fields."""

    name: str
    type: Any
    argument: str
    default: object  # NODEFAULT: it must be given; UNSET: left out, nothing is said of it

    @property
    def required(self) -> bool:
        return self.default is NODEFAULT

    def described(self) -> Parameter:
        words = description(self.type)
        schema = msgspec.json.schema(self.type, schema_hook=schema_of_quantity)
        default = UNSET if self.required else self.default
        return Parameter(
            name=self.name,
            type=in_words(self.type),
            required=self.required,
            description=words,
            default=default,
            json_schema=schema,
        )


class Method:
    """One of them. `of`: the protocol class that has it, whose implementation it is called on."""

    def __init__(self, of: type, name: str) -> None:
        function = getattr(of, name)
        hints = get_type_hints(function, include_extras=True)
        self.of, self.name = of, name
        self.takes_long: bool = getattr(function, "takes_long", False)
        self.result = hints.pop("return")
        self.summary, _, details = (inspect.getdoc(function) or "").partition("\n")
        self.details = " ".join(details.split())
        self._structs = {argument: kind for argument, kind in hints.items() if is_section(kind)}
        self.fields = {field.name: field for field in fields_of(function, hints)}

    def read(self, given: Mapping[str, Any] | list[Any]) -> dict[str, Any]:
        """The arguments of the method, of parameters by name or by position. RpcError: what is wrong with them."""
        try:
            values, problems = self._values(self._named(given))
        except RecursionError:
            raise RpcError(ErrorCode.INVALID_PARAMS, f"{self.name}: parameters nested too deep") from None
        if problems:
            told = dict(islice(problems.items(), PROBLEMS_MOST))
            words = "; ".join(f"{name}: {problem}" for name, problem in told.items())
            raise RpcError(ErrorCode.INVALID_PARAMS, words, told)
        return self._arguments(values)

    def described(self) -> MethodDescription:
        return MethodDescription(
            name=self.name,
            summary=self.summary,
            details=self.details,
            parameters=[field.described() for field in self.fields.values()],
            result=in_words(self.result),
        )

    def _named(self, given: Mapping[str, Any] | list[Any]) -> Mapping[str, Any]:
        if not isinstance(given, list):
            return given
        if len(given) > len(self.fields):
            words = f"{len(given)} parameters; {self.name} has {len(self.fields)}: {', '.join(self.fields) or 'none'}"
            raise RpcError(ErrorCode.INVALID_PARAMS, words)
        return dict(zip(self.fields, given, strict=False))

    def _values(self, given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
        """Those that are right, and what is wrong with each of the others."""
        known = list(self.fields)
        problems = {name[:40]: self._unknown(name, known) for name in given if name not in self.fields}
        values = {}
        for name, field in self.fields.items():
            if name not in given:
                problems |= {name: f"this is missing: {description(field.type)}"} if field.required else {}
                continue
            try:
                values[name] = msgspec.convert(given[name], field.type, dec_hook=read_quantity)
            except msgspec.ValidationError as error:
                problems[name] = problem_of(str(error), bare_type(field.type), given[name])
        return values, problems

    def _unknown(self, name: str, known: list[str]) -> str:
        return f"{self.name} has no such parameter; {hint(name, known)}" if known else f"{self.name} has no parameters"

    def _arguments(self, values: dict[str, Any]) -> dict[str, Any]:
        arguments = {name: value for name, value in values.items() if self.fields[name].argument == name}
        for argument, kind in self._structs.items():
            inside = {name: value for name, value in values.items() if self.fields[name].argument == argument}
            arguments[argument] = kind(**inside)
        return arguments


class Methods:
    """All of them, by name."""

    def __init__(self) -> None:
        self._methods = {name: Method(of, name) for of in (Operator, Connected) for name in method_names(of)}

    def find(self, name: str) -> Method:
        """RpcError: there is none; close ones are named."""
        if name in self._methods:
            return self._methods[name]
        close = difflib.get_close_matches(name, self._methods, 3)
        words = f"did you mean {' or '.join(close)}?" if close else f"there are: {', '.join(self._methods)}"
        raise RpcError(ErrorCode.METHOD_NOT_FOUND, f"there is no method {name[:40]!r}; {words}", close)

    def described(self) -> list[MethodDescription]:
        return [method.described() for method in self._methods.values()]


def method_names(of: type) -> list[str]:
    """In the order in which they are written."""
    return [name for name, value in vars(of).items() if inspect.isfunction(value) and not name.startswith("_")]


def fields_of(function: Any, hints: Mapping[str, Any]) -> Iterator[Field]:
    defaults = inspect.signature(function).parameters
    for argument, kind in hints.items():
        if is_section(kind):
            for field in msgspec.structs.fields(kind):
                default = UNSET if field.default is NODEFAULT and not field.required else field.default
                yield Field(field.encode_name, field.type, argument, default)
        else:
            default = defaults[argument].default
            yield Field(argument, kind, argument, NODEFAULT if default is inspect.Parameter.empty else default)


def in_words(annotated: Any) -> str:
    """A type, as a user reads of it."""
    if annotated in (None, NoneType):
        return "nothing"
    kind = bare_type(annotated)
    inside = get_args(kind)
    match get_origin(kind):
        case None:
            return WORDS.get(kind) or str(kind.__name__)
        case origin if origin is Literal:
            return "|".join(map(str, inside))
        case origin if origin in (list, tuple):
            return f"list of {in_words(inside[0])}"
        case origin if origin is dict:
            return f"{in_words(inside[1])} by name"
    return in_words(inside[0])  # of what is annotated
