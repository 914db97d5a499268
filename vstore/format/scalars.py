"""One value of a field, checked and brought to the form that columns and filters hold it in.

A function here raises ValueError with the reason alone; callers add the field and the row.
"""

from __future__ import annotations

import math
import re
import reprlib
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
MICROS_MIN = (datetime.min.replace(tzinfo=UTC) - EPOCH) // _MICROSECOND
MICROS_MAX = (datetime.max.replace(tzinfo=UTC) - EPOCH) // _MICROSECOND
# fromisoformat drops what comes after the sixth decimal of a second without a word.
_BELOW_MICROSECONDS = re.compile(r"[.,]\d{6}\d*[1-9]")

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = 80


def short(value: Any) -> str:
    """Return `repr(value)`, cut to what fits a message."""
    return _repr.repr(value)


def kind_of(value: Any) -> str:
    """Return the value's type with its article, as "an int"."""
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def int_value(value: Any) -> int:
    """Return the value as an int of 64 bits; a bool or float is none."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise ValueError(f"{short(value)} is {kind_of(value)}, not an int")
    result = int(value)
    if not INT64_MIN <= result <= INT64_MAX:
        raise ValueError(f"{short(result)} does not fit 64 bits (-2**63 to 2**63 - 1)")
    return result


def float_value(value: Any) -> float:
    """Return the value as a float64; an int must be exact in it, NaN is refused."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise ValueError(f"{short(value)} is {kind_of(value)}, not a float")
    try:
        result = float(value)
    except OverflowError:
        raise ValueError(f"{short(value)} is beyond float64") from None
    if math.isnan(result):
        raise ValueError("it is NaN; use None for an absent value")
    if isinstance(value, (int, np.integer)) and result != int(value):
        raise ValueError(f"{short(value)} is not exact in float64; use an int field")
    return result


def bool_value(value: Any) -> bool:
    """Return the value as a bool; 0 and 1 are none."""
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{short(value)} is {kind_of(value)}, not a bool")
    return bool(value)


def str_value(value: Any) -> str:
    """Return the value as a plain str that UTF-8 can hold."""
    if not isinstance(value, str):
        raise ValueError(f"{short(value)} is {kind_of(value)}, not a str")
    text = str.__str__(value)
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{short(text)} holds a lone surrogate, which is not Unicode text") from None
    return text


def datetime_micros(value: Any) -> int:
    """Return microseconds since 1970 UTC of a datetime, date, ISO 8601 string or numpy.datetime64.

    A datetime without a time zone is UTC; a date is its midnight, UTC.

    Raises:
        ValueError: no such value, finer than a microsecond, or outside the years 1 to 9999.
    """
    if isinstance(value, str):
        value = _parse_iso(value)
    if isinstance(value, np.datetime64):
        return _numpy_micros(value)
    if getattr(value, "nanosecond", 0):
        raise ValueError(f"{short(value)} is finer than a microsecond; round it first")
    if isinstance(value, datetime):
        if value != value:
            raise ValueError(f"{short(value)} is no time; use None for an absent value")
        aware = value.replace(tzinfo=UTC) if value.tzinfo is None else value
        micros = (aware - EPOCH) // _MICROSECOND
    elif isinstance(value, date):
        micros = (datetime(value.year, value.month, value.day, tzinfo=UTC) - EPOCH) // _MICROSECOND
    else:
        raise ValueError(
            f"{short(value)} is {kind_of(value)}, not a datetime; "
            "give a datetime, a date or an ISO 8601 string"
        )
    if not MICROS_MIN <= micros <= MICROS_MAX:
        raise ValueError(f"{short(value)} is outside the years 1 to 9999 in UTC")
    return micros


def _parse_iso(text: str) -> datetime:
    if _BELOW_MICROSECONDS.search(text):
        raise ValueError(f"{short(text)} is finer than a microsecond; round it first")
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{short(text)} is not ISO 8601; write it as '2024-05-31T12:00:00Z'") from None


def _numpy_micros(value: np.datetime64) -> int:
    if np.isnat(value):
        raise ValueError("it is NaT; use None for an absent value")
    if np.datetime_data(value.dtype)[0] == "generic":
        raise ValueError(f"{value!r} has no unit; write it with one, as numpy.datetime64(x, 'us')")
    try:
        micros = value.astype("datetime64[us]")
        exact = micros.astype(value.dtype) == value
    except OverflowError:
        raise ValueError(f"{value} is outside the years 1 to 9999 in UTC") from None
    result = int(micros.astype(np.int64))
    if not MICROS_MIN <= result <= MICROS_MAX:
        raise ValueError(f"{value} is outside the years 1 to 9999 in UTC")
    if not exact:
        raise ValueError(f"{value} is finer than a microsecond; round it first")
    return result


def micros_datetime(micros: int) -> datetime:
    """Return the aware UTC datetime that lies `micros` microseconds after 1970."""
    return EPOCH + timedelta(microseconds=micros)
