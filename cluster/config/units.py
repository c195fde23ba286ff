"""Durations and sizes, written as nginx writes them; and moments.

Source: https://nginx.org/en/docs/syntax.html
"""

from __future__ import annotations

import datetime as dt
import re
from typing import TYPE_CHECKING, Any, Self

from pydantic_core import PydanticCustomError, core_schema

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import GetCoreSchemaHandler


class _Unit(int):
    """A whole number of the smallest unit, read from and written as nginx's text."""

    units: Mapping[str, int]
    example: str
    largest: str

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read nginx's text (or a bare number, in seconds or bytes); ValueError says what is allowed."""
        if isinstance(value, cls):
            return value
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return cls._bounded(value * cls.units[""])
        if isinstance(value, str):
            alternatives = "|".join(sorted(filter(None, cls.units), key=len, reverse=True))
            # More digits than 18 are over `largest` in any unit.
            if re.fullmatch(rf"([0-9]{{1,18}}({alternatives}))+|[0-9]{{1,18}}", value):
                parts = re.findall(rf"([0-9]+)({alternatives}|$)", value)
                return cls._bounded(sum(int(number) * cls.units[unit] for number, unit in parts))
        raise ValueError(f"must be written as nginx writes it, for example {cls.example}")

    @classmethod
    def _bounded(cls, amount: int) -> Self:
        number, unit = re.findall(r"([0-9]+)(\D*)", cls.largest)[0]
        if amount > int(number) * cls.units[unit]:
            raise ValueError(f"must be at most {cls.largest}")
        return cls(amount)

    def __str__(self) -> str:
        """Return the shortest text: one number, in the largest unit that divides it."""
        if self == 0:
            return "0"
        fitting = [(size, unit) for unit, size in self.units.items() if int(self) % size == 0]
        size, unit = max(fitting)
        return f"{int(self) // size}{unit}"

    __repr__ = __str__

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        def validate(value: object) -> _Unit:
            try:
                return cls.parse(value)
            except ValueError as error:
                raise PydanticCustomError("unit", "{message}", {"message": str(error)}) from error

        return core_schema.no_info_plain_validator_function(
            validate, serialization=core_schema.plain_serializer_function_ser_schema(str)
        )


class Duration(_Unit):
    """A time, kept in milliseconds: 500ms, 30s, 1m, 1h30m; a bare number is seconds."""

    units = {"": 1000, "ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}  # noqa: RUF012
    example = "30s, 1m or 500ms"
    largest = "36500d"  # what Python can wait for; nginx could wait longer

    @property
    def seconds(self) -> float:
        """The time in seconds."""
        return int(self) / 1000


class Size(_Unit):
    """A size, kept in bytes: 512k, 10m, 1g; a bare number is bytes."""

    units = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3}  # noqa: RUF012
    example = "512k, 10m or 1g"
    largest = "1048576g"

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read nginx's text; its units may be upper case."""
        return super().parse(value.lower() if isinstance(value, str) else value)


#: A moment as it is written: a date, or a time to the minute, in UTC.
MOMENT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9]{2}:[0-9]{2}Z)?")


def parse_moment(text: str) -> dt.datetime:
    """Read a date (its beginning) or a time, in UTC; ValueError says what is allowed."""
    try:
        return dt.datetime.fromisoformat(text if MOMENT.fullmatch(text) else "").replace(tzinfo=dt.UTC)
    except ValueError:
        raise ValueError('must be a date or a time in UTC, "2026-11-26" or "2026-11-26T10:05Z"') from None


def moment_text(moment: dt.datetime) -> str:
    """Return a moment as `parse_moment` reads it, to the minute."""
    return moment.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%MZ")
