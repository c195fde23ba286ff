"""What is wrong with several keys together, each problem at the key that is to be changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

if TYPE_CHECKING:
    from collections.abc import Iterable

#: pydantic's last step where not a value but the key itself is wrong.
KEY = "[key]"

#: Stands for any key of a mapping where the form of its values is said.
VALUE = "[value]"


class Refusal(NamedTuple):
    """One problem: the way to the key from the model that is validated, what is wrong, and what stands there."""

    at: tuple[int | str, ...]
    message: str
    given: object


def refuse(refusals: Iterable[Refusal]) -> None:
    """Raise pydantic's error with all problems, where there is one: a validator may raise it, and the ways add up."""
    lines = [
        InitErrorDetails(type=PydanticCustomError("site", "{message}", {"message": message}), loc=at, input=given)
        for at, message, given in refusals
    ]
    if lines:
        raise ValidationError.from_exception_data("site", lines)
