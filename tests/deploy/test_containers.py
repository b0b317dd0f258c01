"""The image at work, everything in containers. Without an engine only the twin with processes runs, and it is
said that the rest was skipped.
"""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import httpx

from tests.support.container import docker
from tests.support.containers import BASE, ContainerFleet, engine, image
from tests.support.outage import outlived
from tests.support.stack import Stack
from tests.support.until import until_async
from tests.support.ws import WsClient, chatter, leave_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT: Final = Path(__file__).parents[2]
LARGEST_MIB: Final = 70


async def test_nothing_is_lost_when_a_gateway_process_is_killed() -> None:
    """The twin of the next test, for machines without an engine."""
    with Stack(gateways=2, chat=1) as stack:
        await outlived([gateway.url for gateway in stack.gateways], stack.gateways[0].kill)


async def test_nothing_is_lost_when_a_gateways_container_is_killed() -> None:
    """Two gateways, the services and NATS, a container each; a gateway is killed under its clients."""
    with ContainerFleet() as fleet:
        await until_ready(fleet)
        await outlived(fleet.urls, lambda: fleet.kill(fleet.gateways[0]))


async def test_a_container_that_is_stopped_says_goodbye_and_ends_well() -> None:
    """The signal reaches the process: everybody is sent elsewhere, nobody is cut, exit code 0."""
    with ContainerFleet() as fleet:
        await until_ready(fleet)
        clients = [await WsClient().hello(fleet.urls[0], chatter(f"u{n}")) for n in range(10)]
        container = fleet.gateways[0].get_wrapped_container()
        container.kill(signal="SIGTERM")
        codes = {await client.until_closed() for client in clients}
        ended = container.wait(timeout=30)["StatusCode"]
        await leave_all(clients)

    assert codes == {4200}
    assert ended == 0


async def test_the_process_in_a_container_is_alone_and_nobody() -> None:
    """PID 1 is Python itself, under a number that is not root, on a disk that it cannot write."""
    script = (
        "import json, os\n"
        "def writable():\n"
        "    try: open('/srv/carillon/x', 'w')\n"
        "    except OSError: return False\n"
        "    return True\n"
        "print(json.dumps([os.getuid(), open('/proc/1/cmdline').read().split(chr(0))[:3], writable()]))"
    )
    with ContainerFleet() as fleet:
        code, output = fleet.gateways[0].get_wrapped_container().exec_run(["python3", "-c", script])

    assert code == 0, output
    assert json.loads(output) == [65532, ["python3", "-m", "services.gateway"], False]


async def test_the_engine_can_tell_whether_a_container_is_ready() -> None:
    """By the image's own command."""
    with ContainerFleet() as fleet:
        await until_ready(fleet)
        code, _ = fleet.gateways[0].get_wrapped_container().exec_run(["python3", "-m", "deploy.ready"])
        assert fleet.run("deploy.smoke", "http://nobody:1") == 1

    assert code == 0


def test_opentelemetry_is_in_the_image_only_if_asked_for() -> None:
    """EXTRAS=otel; what needs it cannot be imported otherwise."""
    plain, traced = (
        docker("run", "--rm", "--network=none", image(extras=extras), "runtime.otel")
        for extras in (False, True)
    )

    assert plain.returncode == 1
    assert "No module named 'opentelemetry'" in plain.stderr
    assert traced.returncode == 0, traced.stderr


def test_the_image_adds_little_to_its_base(record_property: Callable[[str, object], None]) -> None:
    """At most 70 MiB, compressed; the figure goes into the report."""
    added = sum(len(gzip.compress(layer, 6)) for layer in layers_above_base()) / 2**20
    record_property("MiB above the base", round(added, 1))

    assert 0 < added <= LARGEST_MIB


def layers_above_base() -> Iterator[bytes]:
    """Each layer that the base does not have, as the engine exports it."""
    client = engine()
    built = client.images.get(image())
    own = len(built.attrs["RootFS"]["Layers"]) - len(client.images.get(BASE).attrs["RootFS"]["Layers"])
    with tarfile.open(fileobj=io.BytesIO(b"".join(built.save()))) as archive:
        manifest = json.loads(_read(archive, "manifest.json"))
        for path in manifest[0]["Layers"][-own:]:
            yield _read(archive, path)


def _read(archive: tarfile.TarFile, path: str) -> bytes:
    member = archive.extractfile(path)
    assert member is not None
    return member.read()


async def until_ready(fleet: ContainerFleet) -> None:
    """Returns once both gateways may get traffic."""
    async with httpx.AsyncClient(timeout=2) as http:
        for gateway in fleet.gateways:
            url = fleet.url(gateway, 9090)

            async def ready(url: str = url) -> bool:
                try:
                    return (await http.get(f"{url}/readyz")).status_code == 200
                except httpx.HTTPError:
                    return False

            await until_async(ready, 30, what=f"{url}/readyz")
