"""A page of the README in Node: its script as it stands, in a process that is spoken to in JSON lines.

Node has the browser's WebSocket and EventSource. Time passes ten times as fast for the page's timers.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Any, Final

from tests.support.stack import ROOT
from tests.support.until import until

if TYPE_CHECKING:
    from pathlib import Path

FLAGS: Final = ("--experimental-websocket", "--experimental-eventsource", "--no-warnings")
DRIVER: Final = """
const slow = globalThis.setTimeout;
globalThis.setTimeout = (act, pause = 0, ...rest) => slow(act, pause / 10, ...rest);
const stored = new Map();
globalThis.sessionStorage = {
  getItem: (key) => stored.get(key) ?? null,
  setItem: (key, value) => stored.set(key, value),
};
const tell = (kind) => (value) => console.log(JSON.stringify({ kind, value: value ?? null }));
const given = JSON.parse(process.argv[2]);
const getToken = async () => given.tokens.length > 1 ? given.tokens.shift() : given.tokens[0];
const page = (%s)({ ...given, getToken, show: tell("show"), hide: tell("hide"), askWhy: tell("askWhy") });
process.stdin.on("data", (data) => {
  for (const line of data.toString().split("\\n").filter(Boolean)) {
    const [method, ...parameters] = JSON.parse(line);
    page[method](...parameters);
  }
});
process.stdin.on("end", () => process.exit(0));
"""


def missing() -> str:
    """Why no page can run here; empty when one can."""
    node = shutil.which("node")
    if node is None:
        return "node is not installed"
    look = "process.exit(typeof WebSocket === 'function' && typeof EventSource === 'function' ? 0 : 1)"
    done = subprocess.run([node, *FLAGS, "-e", look], capture_output=True, check=False)
    return "" if done.returncode == 0 else "this node has no WebSocket and EventSource"


def script(title: str) -> str:
    """The JavaScript of a section of the README."""
    section = (ROOT / "README.md").read_text().partition(f"## {title}\n")[2]
    found = re.search(r"```js\n(.*?)```", section, re.DOTALL)
    assert found is not None, title
    return found[1]


class NodePage:
    """Runs the function `name` of a section; `told` has what it called, in order."""

    def __init__(self, folder: Path, title: str, name: str, **given: Any) -> None:
        self._file = folder / f"{name}-{id(self):x}.mjs"
        self._file.write_text(script(title) + DRIVER % name)
        self._given = given
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self.told: list[tuple[str, Any]] = []
        self.trouble = b""

    async def __aenter__(self) -> NodePage:
        self._process = await asyncio.create_subprocess_exec(
            "node", *FLAGS, str(self._file), json.dumps(self._given),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process is not None
        assert self._reading is not None
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(5):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        await self._reading

    def call(self, method: str, *parameters: Any) -> None:
        """A method of what the function returned."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([method, *parameters]).encode() + b"\n")

    def of(self, kind: str) -> list[Any]:
        """What `show`, `hide` or `askWhy` were called with."""
        return [value for name, value in self.told if name == kind]

    async def until(self, condition: Any, seconds: float = 20.0, *, what: str = "") -> None:
        """Returns once `condition` holds."""
        try:
            await until(condition, seconds, what=what)
        except TimeoutError:
            raise AssertionError(f"not {what}: {self.told[-5:]} {self.trouble.decode()}") from None

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        async for line in self._process.stdout:
            told = json.loads(line)
            self.told.append((told["kind"], told["value"]))
        self.trouble = await self._process.stderr.read()
