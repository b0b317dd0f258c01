"""What the peers are made from, kept outside the repository: compiled C, Node modules, Python, Go."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.websocket.peer import Unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

HERE: Final = Path(__file__).parent
INSTALL_SECONDS: Final = 300.0
CENTRIFUGO: Final = "github.com/centrifugal/centrifugo/v6@latest"


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/carillon-bench`, made if missing."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "carillon-bench"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def compiled(source: Path) -> Path:
    """The program made from one C file with `cc -O2`. Raises Unavailable."""
    program = cache_folder() / f"{source.stem}-{_digest(source)}"
    if not program.exists():
        compiler = _tool("gcc", "cc")
        partial = program.with_suffix(f".{os.getpid()}")
        _run([compiler, "-O2", "-Wall", "-o", str(partial), str(source)])
        partial.rename(program)
    return program


def node_folder() -> Path:
    """A folder with the Node peers' modules, at the versions of peers/package.json. Raises Unavailable."""
    manifest = HERE / "peers" / "package.json"
    folder = cache_folder() / f"node-{_digest(manifest)}"
    if not (folder / "complete").exists():
        folder.mkdir(exist_ok=True)
        shutil.copy(manifest, folder)
        npm = _tool("npm")
        _run([npm, "install", "--no-audit", "--no-fund", "--ignore-scripts"], folder=folder)
        (folder / "complete").touch()
    return folder


def node() -> str:
    """The interpreter. Raises Unavailable."""
    return _tool("node")


def python_environment() -> Path:
    """The interpreter of an environment with peers/requirements.txt. Raises Unavailable."""
    wanted = HERE / "peers" / "requirements.txt"
    folder = cache_folder() / f"python-{sys.version_info.major}.{sys.version_info.minor}-{_digest(wanted)}"
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        _run([sys.executable, "-m", "venv", "--clear", str(folder)])
        _run([str(python), "-m", "pip", "install", "--quiet", "--no-deps", "-r", str(wanted)])
        (folder / "complete").touch()
    return python


def centrifugo() -> Path:
    """Centrifugo, built by Go unless it is in the cache or on the path. Raises Unavailable."""
    found = shutil.which("centrifugo", path=f"{cache_folder() / 'go-bin'}:{os.environ.get('PATH', '')}")
    if found is not None:
        return Path(found)
    binaries = cache_folder() / "go-bin"
    _run([_tool("go"), "install", CENTRIFUGO], environment={"GOBIN": str(binaries)})
    return binaries / "centrifugo"


def _digest(source: Path) -> str:
    return hashlib.sha256(source.read_bytes()).hexdigest()[:12]


def _tool(*names: str) -> str:
    for name in names:
        found = shutil.which(name)
        if found is not None:
            return found
    raise Unavailable(f"{' or '.join(names)} is not installed")


def _run(
    command: Sequence[str], *, folder: Path | None = None, environment: Mapping[str, str] | None = None
) -> None:
    try:
        done = subprocess.run(
            command, cwd=folder, env={**os.environ, **(environment or {})}, timeout=INSTALL_SECONDS,
            check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{' '.join(command[:3])}: {type(error).__name__}") from None
    if done.returncode != 0:
        reason = " ".join((done.stderr or done.stdout).split())[-400:]
        raise Unavailable(f"{' '.join(command[:3])} failed: {reason}")
