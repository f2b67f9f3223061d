"""What a compiled loop takes, as its annotations say, and in what words it refuses anything else."""

import inspect
from typing import Annotated, Any, NamedTuple, get_args, get_origin

import numpy as np

from processor.core.compiled import READ, TABLE, Compiled, Word


class Argument(NamedTuple):
    """`kind` is what a number is to NumPy, or an array's elements; `dimensions` are 0 for a number. `is_read`: an array that is
    not written."""

    name: str
    kind: np.dtype[Any]
    dimensions: int = 0
    is_read: bool = False

    def __str__(self) -> str:
        if not self.dimensions:
            return f"{self.name} must be a whole number"
        return (
            f"{self.name} must be an array of {self.kind} with {self.dimensions} dimension(s), in C order, aligned"
            f"{'' if self.is_read else ' and writeable'}"
        )


NUMBERS = {int: np.dtype(np.int64), bool: np.dtype(np.bool_), Word: np.dtype(np.uint64)}
"""Annotations of numbers."""


def list_arguments(loop: Compiled) -> list[Argument]:
    parameters = inspect.signature(loop.function).parameters.values()
    return [_read_annotation(parameter.name, parameter.annotation) for parameter in parameters]


def _read_annotation(name: str, annotation: Any) -> Argument:
    if annotation in NUMBERS:
        return Argument(name, NUMBERS[annotation])
    if get_origin(annotation) is not Annotated:
        raise TypeError(f"{name}: a loop takes numbers and arrays, no {annotation}")
    _, kind, *marks = get_args(annotation)
    return Argument(name, np.dtype(kind), 2 if TABLE in marks else 1, READ in marks)


ERROR, NDARRAY, NOTHING, COUNT_IS_WRONG, ARGUMENTS_FROM = range(5)
"""What a loop's way in has at hand, as the `self` of a C function of Python's: a tuple of TypeError, the type of arrays, None, and
in what words it refuses another number of arguments, and each of them."""


def list_held(loop: Compiled) -> tuple[Any, ...]:
    arguments = list_arguments(loop)
    name = loop.function.__name__
    count = f"{name} takes {len(arguments)} arguments"
    return (TypeError, np.ndarray, None, count, *(f"{name}: {argument}" for argument in arguments))
