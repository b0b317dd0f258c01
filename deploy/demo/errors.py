"""What can go wrong, by what asking again would do."""

from __future__ import annotations


class StartFailed(Exception):
    """The demo cannot run; the message says why."""


class Unreachable(Exception):
    """No useful answer; asking again may help."""


class Refused(Exception):
    """A clear no: asking again gets the same answer."""
