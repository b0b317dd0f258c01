"""The page's own scripts, in Node."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import node_tests


@pytest.mark.skipif(node_tests.NODE is None, reason="node is not installed")
def test_the_scripts_do_what_their_tests_say() -> None:
    """pages/*.test.mjs has the sentences."""
    node_tests.run(*sorted(Path(__file__).parent.glob("pages/*.test.mjs")))
