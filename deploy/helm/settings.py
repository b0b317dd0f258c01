"""What a service's `settings` may hold in the chart: the fields of its settings in the code. No I/O."""

from __future__ import annotations

import importlib
import pkgutil
import re
from typing import TYPE_CHECKING, Any, Final, get_type_hints

import msgspec

import services
from runtime.service import Service
from runtime.settings import ProcessSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

ELSEWHERE: Final = frozenset({
    *(field.name for field in msgspec.structs.fields(ProcessSettings)),
    "auth_algorithm", "auth_secret", "auth_jwks", "auth_issuer", "auth_audience",
    "demo_gateways", "demo_shop", "gateway_id", "port",
})  # fmt: skip
"""Fields that other values of the chart set, or the chart itself."""


def discovered() -> dict[str, type[msgspec.Struct]]:
    """The services there are, by name, with their settings."""
    names = sorted(module.name for module in pkgutil.iter_modules(services.__path__) if module.ispkg)
    return {name: found.settings for name in names if (found := _service(name)) is not None}


def _service(name: str) -> Service[Any] | None:
    for module in ("app", "handlers"):
        try:
            imported = importlib.import_module(f"services.{name}.{module}")
        except ModuleNotFoundError:
            continue
        for value in vars(imported).values():
            if isinstance(value, Service):
                return value
    return None


def properties(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """JSON Schema of each field that the chart passes on, by its name in camel case."""
    hints = get_type_hints(kind, include_extras=True)
    return {camel(name): _schema(hints[name]) for name in _passed_on(kind)}


def _passed_on(kind: type[msgspec.Struct]) -> Iterator[str]:
    yield from (field.name for field in msgspec.structs.fields(kind) if field.name not in ELSEWHERE)


def _schema(hint: object) -> dict[str, Any]:
    schema = msgspec.json.schema(hint)
    return {key: value for key, value in schema.items() if key not in ("default", "$defs")}


def camel(field: str) -> str:
    """max_connections -> maxConnections."""
    return re.sub(r"_([a-z0-9])", lambda match: match[1].upper(), field)
