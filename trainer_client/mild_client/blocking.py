"""The methods of the blocking client, made of the coroutines of the asynchronous one.

Every call of the service is a coroutine, written once. Over `BlockingConnections` no coroutine ever waits, so a call
runs to its end in one step.
"""

import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")


def run_blocking(call: Coroutine[Any, Any, T]) -> T:
    """Run a call to its end, and return its result."""
    try:
        call.send(None)
    except StopIteration as stop:
        return cast("T", stop.value)
    raise AssertionError("a call over blocking connections never waits")


def iterate_blocking(items: AsyncGenerator[T, None]) -> Iterator[T]:
    """Iterate over the items of an asynchronous generator, and close it at the end."""
    try:
        while True:
            yield run_blocking(anext(items))
    except StopAsyncIteration:
        return
    finally:
        run_blocking(items.aclose())


def convert_method(
    method: Callable[Concatenate[Any, P], R], convert: Callable[[R], T], result_type: Any
) -> Callable[Concatenate[Any, P], T]:
    """Make a method with the parameters and docstring of `method`, a method of `_calls`, that converts its result.

    `result_type` is the type of the converted result, for ``help()``.
    """

    @functools.wraps(method)
    def blocking_method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return convert(method(self._calls, *args, **kwargs))

    signature = inspect.signature(method)
    blocking_method.__signature__ = signature.replace(return_annotation=result_type)  # type: ignore[attr-defined]  # of any callable
    return blocking_method


def make_blocking(method: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]) -> Callable[Concatenate[Any, P], T]:
    """Make a method with the parameters and docstring of `method`, a call of `_calls`, that returns its result."""
    return convert_method(method, run_blocking, inspect.signature(method).return_annotation)
