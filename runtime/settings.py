"""Environment variables -> one frozen Struct, with every fault told at once and no secret in any text.

The variable of the field `nats_url` is CARILLON_NATS_URL. An empty or blank variable counts as unset.
"""

from __future__ import annotations

import math
import re
import types
from typing import TYPE_CHECKING, Annotated, Final, Literal, TypeVar, Union, get_args, get_origin
from urllib.parse import urlsplit

import msgspec

from proto.validation import explain
from runtime.masking import MASK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

PREFIX: Final = "CARILLON_"

_ON: Final = ("1", "true", "yes", "on")
_OFF: Final = ("0", "false", "no", "off")
_MAX_SLIPS: Final = 2
"""Letters that may be wrong, missing, too many or swapped in a name that is taken for a misspelt one, and at
most a quarter of its letters.
"""
_SCHEMES: Final = ("nats", "tls")
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_USERINFO: Final = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*://)?.*@", re.DOTALL)

S = TypeVar("S", bound=msgspec.Struct)
Plain = str | int | float | bool | tuple[str, ...] | None
"""What `describe` shows of a field."""


class Secret:
    """A string that prints as ***. Two are equal when their values are; msgspec refuses to encode it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The string itself: for the one call that needs it, never for a log or a message."""
        return self._value

    def __repr__(self) -> str:
        return MASK

    def __format__(self, _spec: str) -> str:
        return MASK

    def __eq__(self, other: object) -> bool:
        return self._value == other._value if isinstance(other, Secret) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._value)

    def __reduce__(self) -> str:
        raise TypeError("a Secret is not pickled")


class SettingsError(ValueError):
    """The environment does not make valid settings.

    `faults` has a line for each, naming the variable and what is expected, never a value that may be secret.
    """

    def __init__(self, faults: list[str]) -> None:
        self.faults = faults
        super().__init__("\n".join(faults))


class ProcessSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What every process is told. Services subclass it and add their own fields.

    nats_url              servers of one cluster, comma-separated; at least one: nats://host:port, or tls://
    nats_nkey_seed_file   path of a file with an nkey seed; unset = no nkey. Excludes nats_creds_file
    nats_creds_file       path of a NATS credentials file; unset = none
    nats_ca_file          path of a PEM file with the certificate authority of NATS; unset = the system's
    nats_inbox_prefix     first tokens of reply subjects: a subject without wildcards
    host                  address to listen on. The default is reached from this machine only;
                          containers set 0.0.0.0 (or ::)
    internal_port         TCP port of /livez, /readyz and /metrics; 0 = any free port
    log_level             debug, info, warning or error, in any case
    log_format            json = one object per line; console = for human eyes
    stream_replicas       copies of each stream, 1 to 5; unset = 3 on a cluster, 1 on a single server
    drain_seconds         how long the goodbye to clients is spread; 0 = everybody at once
    trace_share           share of requests that are traced, 0 to 1; 0 = none, and OpenTelemetry is not needed
    """

    nats_url: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)] = ("nats://127.0.0.1:4222",)
    nats_nkey_seed_file: str | None = None
    nats_creds_file: str | None = None
    nats_ca_file: str | None = None
    nats_inbox_prefix: Annotated[
        str,
        msgspec.Meta(
            pattern=r"^[^\s.*>]+(\.[^\s.*>]+)*$",
            description="tokens of a subject with dots between, without spaces and wildcards",
        ),
    ] = "_INBOX"
    host: str = "127.0.0.1"
    internal_port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 9090
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"
    stream_replicas: Annotated[int | None, msgspec.Meta(ge=1, le=5)] = None
    drain_seconds: Annotated[float, msgspec.Meta(ge=0)] = 30.0
    trace_share: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0

    def faults(self) -> Iterable[str]:
        """What is wrong between fields, a line each. A subclass yields from super().faults() first."""
        if self.nats_nkey_seed_file and self.nats_creds_file:
            yield f"{variable('nats_nkey_seed_file')}: excludes {variable('nats_creds_file')}"
        for url in self.nats_url:
            yield from (f"{variable('nats_url')}: {fault}" for fault in _no_server(url))


def variable(field: str) -> str:
    """The environment variable of a field: nats_url -> CARILLON_NATS_URL."""
    return PREFIX + field.upper()


def load(kind: type[S], environ: Mapping[str, str]) -> S:
    """Settings of `kind`, a frozen keyword-only Struct, from `environ`.

    Fields may be str, int, float (finite), bool (1/0, true/false, yes/no, on/off), Secret, a Literal of
    strings (any case), tuple[str, ...] (comma-separated, trimmed, empties dropped), one of these or None, and
    Annotated with Meta bounds. Every value but a Secret is trimmed. If `kind` has a method faults(), its
    lines count too; it sees the default where a variable was wrong, and is not asked while one is required.

    Raises SettingsError with all faults; TypeError when a field's type is none of the above.
    """
    values: dict[str, object] = {}
    faults: list[str] = []
    required_missing = False
    for field in msgspec.structs.fields(kind):
        text = environ.get(variable(field.name), "")
        try:
            if text.strip():
                values[field.name] = _read(field.type, text)
            elif field.required:
                raise _Unfit("is required")
        except _Unfit as unfit:
            faults.append(f"{variable(field.name)}: {unfit}")
            required_missing |= field.required
    settings = None if required_missing else kind(**values)
    faults.extend(getattr(settings, "faults", tuple)())
    if settings is None or faults:
        raise SettingsError(faults)
    return settings


def unknown(kind: type[msgspec.Struct], environ: Mapping[str, str]) -> list[str]:
    """Variables with our prefix that `kind` does not read, sorted. No fault: services share the lot."""
    known = {variable(field.name) for field in msgspec.structs.fields(kind)}
    return sorted(name for name in environ if name.startswith(PREFIX) and name not in known)


def misspelt(kind: type[msgspec.Struct], environ: Mapping[str, str]) -> dict[str, str]:
    """Variables that `kind` does not read, each with the one that it does and that was most likely meant:
    one or two letters wrong in the prefix or behind it, or small letters.
    """
    fields = {field.name.upper() for field in msgspec.structs.fields(kind)}
    found = {}
    for name in sorted(environ):
        prefix, _, rest = name.upper().partition("_")
        if not _alike(prefix + "_", PREFIX) or name in (PREFIX + field for field in fields):
            continue
        near = [field for field in fields if _alike(rest, field) and PREFIX + field not in environ]
        if near:
            found[name] = PREFIX + min(near, key=lambda field: (_slips(rest, field), field))
    return found


def _alike(found: str, meant: str) -> bool:
    return _slips(found, meant) <= min(_MAX_SLIPS, len(meant) // 4)


def _slips(found: str, meant: str) -> int:
    """How many letters were missed, added, swapped or exchanged (optimal string alignment)."""
    before, above = list[int](), list(range(len(meant) + 1))
    for row, letter in enumerate(found, 1):
        line = [row]
        for column, other in enumerate(meant, 1):
            line.append(min(above[column] + 1, line[-1] + 1, above[column - 1] + (letter != other)))
            if row > 1 and column > 1 and found[row - 2 : row] == meant[column - 2 : column][::-1]:
                line[column] = min(line[column], before[column - 2] + 1)
        before, above = above, line
    return above[-1]


def describe(settings: msgspec.Struct) -> dict[str, Plain]:
    """Field -> value for the log line at start. Secrets are ***, and so is all before the @ of a URL."""
    return {name: _shown(getattr(settings, name)) for name in settings.__struct_fields__}


def _shown(value: object) -> Plain:
    if isinstance(value, tuple):
        return tuple(mask_userinfo(str(item)) for item in value)
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return mask_userinfo(str(value))


def mask_userinfo(url: str) -> str:
    """`url` with user, password or token before the (last) @ masked; the scheme stays."""
    return _USERINFO.sub(lambda match: f"{match[1] or ''}{MASK}@", url)


def _no_server(url: str) -> Iterable[str]:
    """What is wrong with the address of a NATS server; it is not repeated, because it may hold a password."""
    scheme = _SCHEME.match(url)
    if scheme is not None and scheme[1] not in _SCHEMES:
        yield f"expected nats:// or tls://, not {scheme[1]}://"
        return
    try:
        parts = urlsplit(url if scheme is not None else f"nats://{url}")
        named = bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none, half an IPv6 address
        named = False
    if not named:
        yield "expected nats://host:port"
    elif parts.path.strip("/") or parts.query or parts.fragment:
        yield "expected nats://host:port, and nothing behind it"


class _Unfit(Exception):
    """A value does not fit its field. The text says what is expected, never what was found."""


def _read(kind: object, text: str) -> object:
    kind, bounds = _unwrap(kind, ())
    if get_origin(kind) is Literal:
        return _choice(get_args(kind), text.strip())
    if kind is Secret:
        return Secret(str(_bounded(text, str, bounds)))
    parse = _items if get_origin(kind) is tuple else _PARSERS.get(kind)
    if parse is None:
        raise TypeError(f"settings cannot hold a {kind!r}")
    return _bounded(parse(text.strip()), kind, bounds)


def _unwrap(kind: object, bounds: tuple[object, ...]) -> tuple[object, tuple[object, ...]]:
    """Annotated[X | None, bounds] in either nesting -> X and all its bounds."""
    if get_origin(kind) is Annotated:
        inner, *outer = get_args(kind)
        return _unwrap(inner, (*outer, *bounds))
    if get_origin(kind) in (Union, types.UnionType):
        options = [option for option in get_args(kind) if option is not types.NoneType]
        if len(options) == 1:
            return _unwrap(options[0], bounds)
    return kind, bounds


def _bounded(value: object, kind: object, bounds: tuple[object, ...]) -> object:
    bounded = Annotated[(kind, *bounds)] if bounds else kind
    try:
        return msgspec.convert(value, bounded)
    except msgspec.ValidationError as exc:
        raise _Unfit(explain(exc, bounded).replace("Expected", "expected", 1).removesuffix(".")) from None


def _choice(choices: tuple[str, ...], text: str) -> str:
    for choice in choices:
        if choice.lower() == text.lower():
            return choice
    raise _Unfit("expected one of " + ", ".join(choices))


def _items(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _switch(text: str) -> bool:
    return _choice((*_ON, *_OFF), text) in _ON


def _int(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise _Unfit("expected a whole number") from None


def _float(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise _Unfit("expected a number")
    return number


_PARSERS: Final[dict[object, Callable[[str], object]]] = {str: str, int: _int, float: _float, bool: _switch}
