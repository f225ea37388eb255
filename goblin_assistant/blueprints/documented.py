"""A request body in the OpenAPI document, for routes that read their bytes themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from apiflask.scaffold import _annotate
from apiflask.schema_adapters import registry
from pydantic import BaseModel

F = TypeVar("F", bound=Callable[..., object])


def takes_body(model: type[BaseModel]) -> Callable[[F], F]:
    """Document `model` as the JSON body. APIFlask's `@input` would parse and validate it a second time, whatever its
    `validation` flag says: the flag is for marshmallow only."""

    def decorate(view: F) -> F:
        _annotate(view, body=registry.create_adapter(model).schema, content_type="application/json")
        return view

    return decorate
