"""services/gateway/works.py"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proto.websocket import Ping
from services.gateway.session import Work
from services.gateway.works import MAX_BYTES, Works

SIZES = st.integers(0, 4).map(lambda quarters: quarters * MAX_BYTES // 4) | st.integers(0, 2 * MAX_BYTES)


def work(size: int) -> Work:
    """Any of this size."""
    return Work(Ping(id=str(size)), size)


@given(st.integers(1, 8), st.lists(SIZES | st.none()))
def test_what_waits_is_bounded_and_nothing_is_lost(most: int, steps: list[int | None]) -> None:
    """Whatever is added (a size) and done (None): in order, with at most so many behind the first, of at most
    so many bytes, unless it is a single one.
    """
    works, model = Works(most), list[Work]()
    for step in steps:
        if step is None:
            if model:
                assert works.first is model.pop(0)
                works.done()
        else:
            added = work(step)
            waiting = [each.size for each in model[1:]]
            fits = len(waiting) < most and (not waiting or sum(waiting) + step <= MAX_BYTES)
            assert works.add(added) is (fits or not model)
            if fits or not model:
                model.append(added)
        assert list(works) == model
        assert len(works) == len(model)


def test_a_message_as_large_as_a_setting_allows_waits_alone() -> None:
    """It is larger than all together may be, and nothing but the first stands before it."""
    works = Works(100)

    assert works.add(work(10))
    assert works.add(work(10 * MAX_BYTES))
    assert not works.add(work(1))
