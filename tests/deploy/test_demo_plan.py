"""The demo's plan: who gets which settings."""

from __future__ import annotations

from deploy.demo.plan import (
    Plan,
    Ports,
    Programs,
    Secrets,
    inherited,
    listed_origins,
    plan,
    table,
    tokens_secret,
)

SECRET = "a-secret-of-the-demo"
CONTROL = "opens-the-control-api"


def planned(*origins: str) -> Plan:
    """Two gateways on 8080 and 8081."""
    ports = Ports(4222, (8080, 8081), 8090, 8091, (9001, 9002, 9003, 9004, 9005))
    return plan(ports, Programs("python", "nats-server", "/store"), Secrets(SECRET, CONTROL), origins)


def test_only_gateways_and_shop_know_the_secret() -> None:
    """It is in no command line, and in no environment that does not need it."""
    everybody = [planned().nats, planned().provision, *planned().others]

    knowing = [role.name for role in everybody if SECRET in role.environment.values()]

    assert knowing == ["gateway gw-1", "gateway gw-2", "shop"]
    assert not any(SECRET in word for role in everybody for word in role.command)


def test_only_the_shop_knows_how_to_press_the_buttons() -> None:
    """A gateway, which anybody may reach, cannot end another one."""
    everybody = [planned().nats, planned().provision, *planned().others]

    knowing = [role.name for role in everybody if CONTROL in role.environment.values()]

    assert knowing == ["shop"]
    assert not any(CONTROL in word for role in everybody for word in role.command)


def test_no_two_processes_share_a_port() -> None:
    """Each Carillon process has an internal port of its own."""
    internal = [role.environment.get("CARILLON_INTERNAL_PORT") for role in planned().others]

    assert internal == ["9001", "9002", "9003", "9004", "9005", None]


def test_both_gateways_take_pages_of_either_by_either_name() -> None:
    """A page of one gateway resumes on the other, opened by address or as localhost."""
    gateways = [role for role in planned().others if role.name.startswith("gateway")]

    origins = {role.environment["CARILLON_ORIGINS"] for role in gateways}

    assert origins == {
        "http://127.0.0.1:8080,http://localhost:8080,http://127.0.0.1:8081,http://localhost:8081"
    }


def test_a_developers_own_secret_and_origins_are_taken() -> None:
    """Tokens of their back end are good at the demo's gateways, and their page may use them."""
    environ = {
        "CARILLON_AUTH_SECRET": "s" * 32,
        "CARILLON_ORIGINS": "http://localhost:3000, http://shop.test",
    }
    gateway = planned(*listed_origins(environ)).others[3]

    assert tokens_secret(environ, "fresh") == "s" * 32
    assert tokens_secret({"CARILLON_AUTH_SECRET": ""}, "fresh") == tokens_secret({}, "fresh") == "fresh"
    assert gateway.environment["CARILLON_ORIGINS"].endswith(",http://localhost:3000,http://shop.test")
    assert listed_origins({}) == ()


def test_the_shop_ends_first_and_nats_last() -> None:
    """Whoever uses others has a higher tier."""
    tiers = {role.name: role.tier for role in [planned().nats, *planned().others]}

    assert tiers["shop"] > tiers["gateway gw-1"] == tiers["gateway gw-2"] > tiers["orders"] > tiers["nats"]


def test_settings_of_another_carillon_stay_out() -> None:
    """A CARILLON_ variable of the terminal does not change the demo."""
    assert inherited({"HOME": "/home/x", "CARILLON_AUTH_ALGORITHM": "RS256"}) == {"HOME": "/home/x"}


def test_the_table_is_aligned_without_trailing_blanks() -> None:
    """Columns are as wide as their widest cell."""
    assert table([("nats", "-", "12"), ("orders", "http://x", "3")]) == (
        "role    url       pid\nnats    -         12\norders  http://x  3"
    )
