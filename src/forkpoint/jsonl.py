"""JSON Lines, or a JSON array, that a user gave us, and the values of a row; errors name the file and the line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from forkpoint.types import UserError, nearest

Row = Mapping[str, Any]
BLANK = b" \t\r\n\xef\xbb\xbf"  # the last three are a byte order mark


def rows_of(lines: Iterable[bytes], name: str, bad: list[str] | None = None) -> Iterator[tuple[str, Row]]:
    """Each object of JSON Lines, or of one JSON array, with its place ("NAME line 7", "NAME item 7").

    UserError at the first line or item that is no JSON object in UTF-8; with `bad` what is wrong is appended there.
    """
    for kind, number, value in _values(lines, name):
        place = f"{name} {kind} {number}"
        try:
            row = _parsed(decoded(value, place), name, number) if isinstance(value, bytes) else value
            if not isinstance(row, dict):
                raise UserError(f"{place}: expected a JSON object, got {_kind(row)}")
        except UserError as error:
            if bad is None:
                raise
            bad.append(str(error))
        else:
            yield place, row


def _values(lines: Iterable[bytes], name: str) -> Iterator[tuple[str, int, Any]]:
    """The lines that are not blank, as bytes, with their numbers; or the items of the one array that they make up."""
    numbered = enumerate(lines, start=1)
    is_first = True
    for number, line in numbered:
        if is_first and line.lstrip(BLANK).startswith(b"["):
            whole = b"".join([line, *(rest for _, rest in numbered)])
            items = _parsed(decoded(whole, name), name, number)
            objects = any(isinstance(item, dict) for item in items)
            yield from (("item", i, item) for i, item in enumerate(items, 1)) if objects else [("line", number, items)]
        elif line.strip(BLANK):
            is_first = False
            yield "line", number, line


def decoded(line: bytes, place: str) -> str:
    """The line as text, without a byte order mark; a UserError where it is not UTF-8."""
    try:
        return line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{place}: not UTF-8 (byte {error.start + 1} of the line)") from None


def _parsed(text: str, name: str, number: int) -> Any:
    """The JSON that begins in the line of that number."""
    try:
        return json.loads(text.rstrip())
    except json.JSONDecodeError as error:
        where = f"{name} line {number + error.lineno - 1}"
        raise UserError(f"{where}: not valid JSON ({error.msg} at column {error.colno})") from None
    except (ValueError, RecursionError):
        raise UserError(f"{name} line {number}: not valid JSON (nested too deeply, or a number too long)") from None


def column(row: Row, name: str, place: str) -> Any:
    """The row's value in a column; a UserError that lists the columns where it is missing."""
    if name in row:
        return row[name]
    hint = nearest(name, row, "; {}")
    raise UserError(f"{place}: no column {name!r}, it has {', '.join(map(repr, row)) or 'none'}{hint}")


def text(row: Row, name: str, place: str) -> str:
    """A column that must hold a string which is not blank."""
    return checked_text(column(row, name, place), f"{place}: column {name!r}")


def scalar(row: Row, name: str, place: str) -> str:
    """A column that may also hold a JSON number or true/false, as text."""
    value = column(row, name, place)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value) if is_number(value) else checked_text(value, f"{place}: column {name!r}")


def checked_text(value: Any, what: str, *, blank: bool = False) -> str:
    """The value, if it is a string that can be written as UTF-8 and is not blank (or may be); a UserError otherwise."""
    if not isinstance(value, str):
        raise UserError(f"{what} should be a string, got {_kind(value)}")
    if not blank and not value.strip():
        raise UserError(f"{what} is empty")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UserError(f"{what} holds half a character (an unpaired surrogate)") from None
    return value


def texts(row: Row, name: str, place: str) -> Sequence[str]:
    """A column that must hold a list of strings."""
    values = column(row, name, place)
    if not isinstance(values, Sequence) or isinstance(values, str) or not values:
        raise UserError(f"{place}: column {name!r} should be a list of strings, got {_kind(values)}")
    return [checked_text(value, f"{place}: column {name!r}, item {i}") for i, value in enumerate(values, start=1)]


def list_of(row: Row, name: str, kind: type, place: str) -> list[Any]:
    """A column that must hold a list of whole numbers (int), strings (str) or objects (dict)."""
    values = column(row, name, place)
    wanted = f"{name} must be a list of { {int: 'whole numbers', str: 'strings', dict: 'objects'}[kind] }"
    if not isinstance(values, list):
        raise UserError(f"{place}: {wanted}, but is {shortened(values)}")
    if wrong := [value for value in values if not isinstance(value, kind) or isinstance(value, bool)]:
        raise UserError(f"{place}: {wanted}, but holds {shortened(wrong[0])}")
    return values


def tokens_of(row: Row, place: str, ids: str = "token_ids", texts: str = "tokens") -> tuple[list[int], list[str]]:
    """The token ids and their texts, which must be as many."""
    token_ids, tokens = list_of(row, ids, int, place), list_of(row, texts, str, place)
    if len(token_ids) != len(tokens):
        raise UserError(f"{place}: {ids} and {texts} differ in length")
    return token_ids, tokens


def shares(values: Any, count: int, what: str, place: str) -> tuple[float, ...]:
    """The values, if they are a list of numbers from 0 to 1, one for each of `count` tokens; a UserError otherwise."""
    if not isinstance(values, list) or not all(map(is_number, values)):
        raise UserError(f"{place}: {what} must be a list of numbers, but is {shortened(values)}")
    if len(values) != count:
        raise UserError(f"{place}: {what} must hold one number for each of the {count} tokens, but holds {len(values)}")
    if outside := [value for value in values if not 0 <= value <= 1]:
        raise UserError(f"{place}: {what} must be between 0 and 1, but holds {outside[0]}")
    return tuple(map(float, values))


def is_number(value: Any) -> bool:
    """Whether a JSON value is a number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def shortened(value: Any) -> str:
    """A value as it stands in an error."""
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return "a number" if is_number(value) else kinds.get(type(value), type(value).__name__)
