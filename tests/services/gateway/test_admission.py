"""services/gateway/admission.py"""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from services.gateway.admission import Admission, AdmissionLimits

NONE = AdmissionLimits(rate=0, burst=0, connections=0, per_user=0, per_address=0)
CAPS = AdmissionLimits(rate=0, burst=0, connections=6, per_user=2, per_address=3)
WHO = st.sampled_from(["a", "b", "c"])


def test_without_limits_everybody_is_admitted() -> None:
    """0 means none."""
    admission = Admission(NONE, 0.0)

    assert {admission.admit_address("a", 0.0) for _ in range(1000)} == {None}
    assert {admission.admit_user("a") for _ in range(1000)} == {None}
    assert len(admission) == 1000


def test_each_cap_refuses_by_name() -> None:
    """An address at its cap blocks no other address, a user no other user."""
    admission = Admission(CAPS, 0.0)

    assert [admission.admit_address("a", 0.0) for _ in range(4)] == [None, None, None, "per_address"]
    assert [admission.admit_address("b", 0.0) for _ in range(3)] == [None, None, None]
    assert admission.admit_address("c", 0.0) == "connections"
    assert [admission.admit_user("u") for _ in range(3)] == [None, None, "per_user"]
    assert admission.admit_user("v") is None


def test_who_leaves_makes_room_for_one() -> None:
    """Exactly one."""
    admission = Admission(CAPS, 0.0)
    for _ in range(3):
        admission.admit_address("a", 0.0)
    for _ in range(2):
        admission.admit_user("u")
    admission.leave_address("a")
    admission.leave_user("u")

    assert [admission.admit_address("a", 0.0) for _ in range(2)] == [None, "per_address"]
    assert [admission.admit_user("u") for _ in range(2)] == [None, "per_user"]


def test_handshakes_have_a_rate() -> None:
    """A burst at once, then as many as time earns; a refusal takes no place."""
    admission = Admission(NONE._replace(rate=2, burst=3), 0.0)

    assert [admission.admit_address("a", 0.0) for _ in range(4)] == [None, None, None, "handshake_rate"]
    assert [admission.admit_address("b", 0.5) for _ in range(2)] == [None, "handshake_rate"]
    assert [admission.admit_address("b", 100.0) for _ in range(4)] == [None, None, None, "handshake_rate"]
    assert len(admission) == 7


def test_a_refusal_by_a_cap_costs_no_token_of_the_rate() -> None:
    """One address at its cap that keeps knocking does not shut the door for others."""
    admission = Admission(NONE._replace(rate=1, burst=2, per_address=1), 0.0)
    admission.admit_address("a", 0.0)

    assert {admission.admit_address("a", 0.0) for _ in range(100)} == {"per_address"}
    assert admission.admit_address("b", 0.0) is None


@given(
    rate=st.floats(0.5, 100),
    burst=st.floats(1, 200),
    pauses=st.lists(st.floats(0, 3), min_size=1, max_size=120),
)
def test_the_rate_holds_over_every_window(rate: float, burst: float, pauses: list[float]) -> None:
    """Between any two moments no more handshakes pass than the burst and what the time earns."""
    admission = Admission(NONE._replace(rate=rate, burst=burst), 0.0)
    now, passed = 0.0, list[float]()
    for pause in pauses:
        now += pause
        if admission.admit_address("a", now) is None:
            passed.append(now)

    for first in range(len(passed)):
        for last in range(first, len(passed)):
            assert last - first + 1 <= burst + (passed[last] - passed[first]) * rate + 1e-6


class Comings(RuleBasedStateMachine):
    """People come and go in any order; a plain count is the model."""

    addresses = Bundle("addresses")
    users = Bundle("users")

    def __init__(self) -> None:
        super().__init__()
        self.admission = Admission(CAPS, 0.0)
        self.by_address: Counter[str] = Counter()
        self.by_user: Counter[str] = Counter()

    @rule(target=addresses, address=WHO)
    def connect(self, address: str) -> str:
        """Refused exactly when a cap is reached."""
        answer = self.admission.admit_address(address, 0.0)
        total = sum(self.by_address.values())
        if total >= CAPS.connections:
            assert answer == "connections"
        elif self.by_address[address] >= CAPS.per_address:
            assert answer == "per_address"
        else:
            assert answer is None
            self.by_address[address] += 1
            return address
        return ""

    @rule(address=consumes(addresses))
    def disconnect(self, address: str) -> None:
        """One that was admitted leaves."""
        if address:
            self.admission.leave_address(address)
            self.by_address[address] -= 1

    @rule(target=users, user=WHO)
    def prove(self, user: str) -> str:
        """As `connect`."""
        answer = self.admission.admit_user(user)
        if self.by_user[user] >= CAPS.per_user:
            assert answer == "per_user"
            return ""
        assert answer is None
        self.by_user[user] += 1
        return user

    @rule(user=consumes(users))
    def forget(self, user: str) -> None:
        """One that was admitted leaves."""
        if user:
            self.admission.leave_user(user)
            self.by_user[user] -= 1

    @invariant()
    def counts_are_exact(self) -> None:
        """Never negative, and the open connections are those of all addresses."""
        assert len(self.admission) == sum(self.by_address.values()) >= 0
        # The maps must not grow with everybody who ever came.
        assert dict(self.admission._addresses) == dict(+self.by_address)
        assert dict(self.admission._users) == dict(+self.by_user)


TestComings = Comings.TestCase
