from __future__ import annotations

import copy
import pickle
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carillon.settings import CliSettings
from deploy.helm.settings import discovered
from runtime.provision import ProvisionSettings
from runtime.settings import (
    ProcessSettings,
    Secret,
    SettingsError,
    describe,
    load,
    misspelt,
    unknown,
    variable,
)

if TYPE_CHECKING:
    from collections.abc import Iterable


class Harbour(msgspec.Struct, frozen=True, kw_only=True):
    """A harbour's settings: one field of every kind that an environment can hold."""

    name: str
    key: Annotated[Secret, msgspec.Meta(min_length=8)]
    spare_key: Secret | None = None
    motto: str | None = None
    berths: Annotated[int, msgspec.Meta(ge=1, le=50)] = 3
    depth: Annotated[float | None, msgspec.Meta(gt=0)] = None
    lit: bool = False
    flag: Literal["red", "Green"] = "red"
    ships: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)] = ("ferry",)
    code: Annotated[str, msgspec.Meta(pattern="^[A-Z]{2}$", description="two capital letters")] = "NL"

    def faults(self) -> Iterable[str]:
        if self.lit and self.berths < 2:
            yield "CARILLON_LIT: needs two berths"


REQUIRED = {"CARILLON_NAME": "Delft", "CARILLON_KEY": "quay-side"}


def faults_of(**variables: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(Harbour, REQUIRED | {f"CARILLON_{name}": value for name, value in variables.items()})
    return caught.value.faults


def harbour(**variables: str) -> Harbour:
    return load(Harbour, REQUIRED | {f"CARILLON_{name}": value for name, value in variables.items()})


def test_every_kind_of_field_is_read() -> None:
    """Each supported type is read from its variable."""
    found = harbour(
        SPARE_KEY="under the mat",
        MOTTO="ahoy",
        BERTHS="50",
        DEPTH="4.5",
        LIT="on",
        FLAG="green",
        SHIPS="a, b,,",
    )
    assert (found.name, found.key.reveal()) == ("Delft", "quay-side")
    assert (found.spare_key, found.motto, found.berths) == (Secret("under the mat"), "ahoy", 50)
    assert (found.depth, found.lit, found.flag, found.ships) == (4.5, True, "Green", ("a", "b"))


@pytest.mark.parametrize("text", ["", "  "])
def test_an_empty_variable_is_unset(text: str) -> None:
    """A blank variable leaves the default, and is a fault where there is none."""
    assert harbour(BERTHS=text, SHIPS=text, LIT=text, SPARE_KEY=text) == harbour()
    assert faults_of(NAME=text) == ["CARILLON_NAME: is required"]


def test_all_faults_are_told_at_once() -> None:
    """One error lists every wrong variable, a line each."""
    with pytest.raises(SettingsError) as caught:
        load(Harbour, {"CARILLON_BERTHS": "0", "CARILLON_LIT": "maybe", "CARILLON_DEPTH": "nan"})
    lines = str(caught.value).splitlines()
    assert lines == caught.value.faults
    assert [line.split(":")[0] for line in lines] == [
        f"CARILLON_{name}" for name in ("NAME", "KEY", "BERTHS", "DEPTH", "LIT")
    ]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("BERTHS", "many", "expected a whole number"),
        ("BERTHS", "51", "expected `int` <= 50"),
        ("DEPTH", "inf", "expected a number"),
        ("DEPTH", "0", "expected `float` > 0.0"),
        ("LIT", "2", "expected one of 1, true, yes, on, 0, false, no, off"),
        ("FLAG", "blue", "expected one of red, Green"),
        ("SHIPS", " , ", "expected `array` of length >= 1"),
        ("CODE", "nl", "expected two capital letters"),
        ("KEY", "brief", "expected `str` of length >= 8"),
    ],
)
def test_a_fault_says_what_was_expected(name: str, text: str, expected: str) -> None:
    """The line of a fault names the variable and what would have been right."""
    assert faults_of(**{name: text}) == [f"CARILLON_{name}: {expected}"]


@given(st.text(alphabet="abcdefxyz", min_size=4, max_size=7))
def test_a_wrong_secret_is_not_repeated(value: str) -> None:
    """The text of an error never holds the value of a secret."""
    assert value not in "".join(faults_of(KEY=value))


def test_faults_between_fields_join_the_others() -> None:
    """A check across fields is reported beside a fault of a single field."""
    assert faults_of(LIT="yes", BERTHS="1", FLAG="blue") == [
        "CARILLON_FLAG: expected one of red, Green",
        "CARILLON_LIT: needs two berths",
    ]


def test_fields_are_not_compared_while_one_is_missing() -> None:
    """Without a required field there is nothing to check across fields."""
    assert faults_of(NAME="", LIT="yes", BERTHS="1") == ["CARILLON_NAME: is required"]


@given(st.integers(2, 50), st.booleans(), st.sampled_from(["red", "Green"]))
def test_what_is_printed_is_read_back(berths: int, lit: bool, flag: str) -> None:
    """Values survive the way through text, in any case of letters."""
    found = harbour(BERTHS=f" {berths} ", LIT=str(lit).upper(), FLAG=flag.swapcase())
    assert (found.berths, found.lit, found.flag) == (berths, lit, flag)


def test_an_unsupported_type_is_a_programming_error() -> None:
    """A field that no text can fill is refused by name of its type."""

    class Odd(msgspec.Struct, frozen=True, kw_only=True):
        size: int | str = 1

    with pytest.raises(TypeError, match="cannot hold"):
        load(Odd, {"CARILLON_SIZE": "1"})


def test_unknown_variables_are_listed_not_refused() -> None:
    """Variables of other services are named, and those of other programs ignored."""
    environ = REQUIRED | {"CARILLON_BERTH": "1", "CARILLON_ANCHOR": "", "PATH": "/bin"}
    assert unknown(Harbour, environ) == ["CARILLON_ANCHOR", "CARILLON_BERTH"]
    assert load(Harbour, environ) == harbour()


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("CARILLON_BERTH", "CARILLON_BERTHS"),
        ("CARILLON_SPAREKEY", "CARILLON_SPARE_KEY"),
        ("CARILLON_depth", "CARILLON_DEPTH"),
        ("CARILLON_DEPHT", "CARILLON_DEPTH"),
        ("CARRILLON_MOTTO", "CARILLON_MOTTO"),
        ("carillon_motto", "CARILLON_MOTTO"),
    ],
)
def test_a_misspelt_variable_is_told_with_the_one_that_was_meant(name: str, meant: str) -> None:
    """A letter too few, an underscore, small letters, the prefix."""
    assert misspelt(Harbour, REQUIRED | {name: "1"}) == {name: meant}


@pytest.mark.parametrize("name", ["CARILLON_ANCHOR", "CARILLON_", "CARILLON", "MOTTO", "CARGO_MOTTO"])
def test_what_resembles_nothing_is_not_taken_for_a_mistake(name: str) -> None:
    """It belongs to a sibling or to another program; and neither is what stands beside the right one."""
    assert misspelt(Harbour, REQUIRED | {name: "1"}) == {}
    assert misspelt(Harbour, REQUIRED | {"CARILLON_BERTH": "1", "CARILLON_BERTHS": "2"}) == {}


def test_no_setting_of_a_sibling_is_taken_for_a_mistake() -> None:
    """Services are often given the settings of all."""
    kinds: dict[str, type[msgspec.Struct]] = {
        **discovered(),
        "provision": ProvisionSettings,
        "carillon": CliSettings,
    }
    names = {variable(field.name) for kind in kinds.values() for field in msgspec.structs.fields(kind)}

    for name, kind in kinds.items():
        for other in names:
            assert misspelt(kind, {other: "1"}) == {}, (name, other)


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("http://127.0.0.1:4222", "expected nats:// or tls://, not http://"),
        ("nats://a:4222,ws://b:4222", "expected nats:// or tls://, not ws://"),
        ("nats://:4222", "expected nats://host:port"),
        ("nats://a:port", "expected nats://host:port"),
        ("nats://user:the-password@[::1", "expected nats://host:port"),
        ("nats://a:4222/js", "expected nats://host:port, and nothing behind it"),
    ],
)
def test_an_address_that_is_none_of_nats_is_refused(url: str, fault: str) -> None:
    """At once, and not by a name that cannot be resolved; what was found is not repeated."""
    with pytest.raises(SettingsError) as caught:
        load(ProcessSettings, {"CARILLON_NATS_URL": url})
    assert caught.value.faults == [f"CARILLON_NATS_URL: {fault}"]


@pytest.mark.parametrize(
    "url", ["nats://a:4222", "tls://u:p@a", "a:4222", "a", "nats://[::1]:4222/", "u:p@a:1"]
)
def test_an_address_of_nats_is_taken(url: str) -> None:
    """With or without scheme, port, user and password."""
    assert load(ProcessSettings, {"CARILLON_NATS_URL": url}).nats_url == (url,)


def test_a_secret_never_prints() -> None:
    """A secret shows stars in every way of printing, and is neither encoded nor pickled."""
    secret = Secret("quay-side")
    assert {repr(secret), str(secret), f"{secret}", f"{secret:>40}", "%s" % secret} == {"***"}  # noqa: UP031
    assert repr(harbour()).count("***") == 1
    with pytest.raises(TypeError):
        msgspec.json.encode(secret)
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    with pytest.raises(TypeError):
        copy.copy(secret)


def test_secrets_compare_by_value() -> None:
    """Two secrets are equal, and hash alike, when their values are."""
    assert Secret("a") == Secret("a") != Secret("b")
    assert len({Secret("a"), Secret("a"), Secret("b")}) == 2
    assert Secret("a") != "a"


def test_describe_masks_secrets_and_logins() -> None:
    """The line at start shows every field, without secrets and without the login in a URL."""

    class Wired(ProcessSettings, frozen=True, kw_only=True):
        key: Secret = Secret("hush")
        spare: Secret | None = None
        jwks: str = "https://me:pass/w@rd@keys.example/jwks"

    found = describe(load(Wired, {"CARILLON_NATS_URL": "nats://u:hidden@a:4222, tls://b:4222, t0ken@c"}))
    assert found["nats_url"] == ("nats://***@a:4222", "tls://b:4222", "***@c")
    assert (found["key"], found["spare"], found["jwks"]) == ("***", None, "https://***@keys.example/jwks")
    assert (found["internal_port"], found["drain_seconds"], found["log_level"]) == (9090, 30.0, "info")


def test_a_process_starts_without_any_variable() -> None:
    """All settings that every process shares have a default."""
    found = load(ProcessSettings, {})
    assert found.nats_url == ("nats://127.0.0.1:4222",)
    assert (found.host, found.stream_replicas, found.log_format) == ("127.0.0.1", None, "json")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("NATS_URL", ","),
        ("NATS_INBOX_PREFIX", "in.*"),
        ("INTERNAL_PORT", "65536"),
        ("STREAM_REPLICAS", "6"),
        ("DRAIN_SECONDS", "-1"),
        ("LOG_LEVEL", "loud"),
    ],
)
def test_process_settings_are_bounded(name: str, text: str) -> None:
    """A value out of its bounds is refused at start."""
    with pytest.raises(SettingsError, match=f"^CARILLON_{name}: expected"):
        load(ProcessSettings, {f"CARILLON_{name}": text})


def test_one_way_to_log_in_to_nats() -> None:
    """A seed file and a credentials file together are a fault, in a subclass as well."""

    class Service(ProcessSettings, frozen=True, kw_only=True):
        def faults(self) -> Iterable[str]:
            yield from super().faults()
            yield "CARILLON_HOST: own check"

    with pytest.raises(SettingsError) as caught:
        load(Service, {"CARILLON_NATS_CREDS_FILE": "/c", "CARILLON_NATS_NKEY_SEED_FILE": "/s"})
    assert caught.value.faults == [
        "CARILLON_NATS_NKEY_SEED_FILE: excludes CARILLON_NATS_CREDS_FILE",
        "CARILLON_HOST: own check",
    ]
