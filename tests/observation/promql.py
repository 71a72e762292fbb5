"""As much of PromQL as it takes to see which metrics, and which of their labels, an expression asks for."""

import re
from dataclasses import dataclass, field

TOKEN = re.compile(
    r"""\s*(?:(?P<string>"(?:[^"\\]|\\.)*")|(?P<range>\[[^\]]*\])|(?P<number>\d+(?:\.\d+)?)
    |(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)|(?P<sign>=~|!~|!=|==|<=|>=|[-+*/%^<>={}(),]))""",
    re.VERBOSE,
)
GROUPING = {"by", "without", "on", "ignoring", "group_left", "group_right"}
OPERATORS = {"and", "or", "unless", "bool", "offset"}


@dataclass
class Asked:
    """Selectors, each with the labels in its braces; labels that results are grouped by."""

    selectors: list[tuple[str, list[str]]] = field(default_factory=list)
    grouped: list[str] = field(default_factory=list)


def tokens(expression: str) -> list[tuple[str, str]]:
    """ValueError: a character that PromQL has not."""
    found, position = [], 0
    while expression[position:].strip():
        matched = TOKEN.match(expression, position)
        if matched is None:
            raise ValueError(f"{expression!r}: not understood from {expression[position:]!r}")
        found.append((str(matched.lastgroup), matched[str(matched.lastgroup)]))
        position = matched.end()
    return found


def asked(expression: str) -> Asked:
    result, words = Asked(), [*tokens(expression), ("sign", "")]
    position = 0
    while position < len(words) - 1:
        (kind, word), (_, following) = words[position], words[position + 1]
        if kind == "name" and word in GROUPING:
            end = position + [text for _, text in words[position:]].index(")")
            result.grouped += [text for what, text in words[position:end] if what == "name" and text != word]
            position = end
        elif kind == "name" and following == "{":
            end = position + [text for _, text in words[position:]].index("}")
            labels = [text for what, text in words[position + 1 : end] if what == "name"]
            result.selectors.append((word, labels))
            position = end
        elif kind == "name" and following not in {"(", "by", "without"} and word not in OPERATORS:
            result.selectors.append((word, []))
        position += 1
    return result
