"""A Kubernetes without nodes: etcd, API server and controllers on loopback, and a stand-in for the kubelets.

Objects, admission, rollouts' ReplicaSets, Jobs and Helm's hooks are real; no container is ever started.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import ssl
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.support.launch import ROOT
from tests.support.nats_server import wait_for
from tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

TOKEN: Final = "admin-of-a-test"
NEEDED: Final = ("etcd", "kube-apiserver", "kube-controller-manager", "kubectl")
CONTROLLERS: Final = (
    "deployment-controller,replicaset-controller,statefulset-controller,job-controller,"
    "serviceaccount-controller,namespace-controller,garbage-collector-controller,ttl-after-finished-controller,"
    "disruption-controller,endpointslice-controller"
)
_BLIND: Final = ssl.create_default_context()
_BLIND.check_hostname = False
_BLIND.verify_mode = ssl.CERT_NONE


def found(name: str) -> str | None:
    """A program of the virtual environment, or on the PATH."""
    own = Path(sys.executable).with_name(name)
    return str(own) if own.exists() else shutil.which(name)


def needed() -> dict[str, str]:
    """Where the programs are. Skips the test if one is missing."""
    paths = {name: found(name) for name in NEEDED}
    if missing := [name for name, path in paths.items() if path is None]:
        names = ", ".join(missing)
        pytest.skip(
            f"KUBERNETES IS MISSING ({names}): no API server saw the chart; scripts/kubernetes builds one"
        )
    return {name: path for name, path in paths.items() if path is not None}


class ApiError(Exception):
    """The API refused: its status, and what it said."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(f"{status}: {said}")
        self.status = status


class ApiServer:
    """Use as a context manager: it is entered once the API is ready."""

    def __init__(self) -> None:
        self._paths = needed()
        self.folder = Path(tempfile.mkdtemp(prefix="carillon-kubernetes-"))
        self.port = free_port()
        self._running: list[subprocess.Popen[bytes]] = []

    @property
    def kubeconfig(self) -> Path:
        """For kubectl and helm."""
        return self.folder / "kubeconfig"

    def __enter__(self) -> ApiServer:
        try:
            self._write_files()
            etcd = self._start_etcd()
            self._start_server(etcd)
            wait_for(self._ready, 90, what="an API server that is ready")
            self._start_controllers()
        except BaseException:
            self.destroy()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.destroy()

    def destroy(self) -> None:
        """End everything, the last first."""
        for process in reversed(self._running):
            process.kill()
            process.wait(timeout=10)
        shutil.rmtree(self.folder, ignore_errors=True)

    def ask(self, method: str, path: str, body: object = None, kind: str = "application/json") -> Any:
        """What the API answers; raises ApiError."""
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=20, context=_BLIND)
        with contextlib.closing(connection):
            text = None if body is None else json.dumps(body)
            headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": kind}
            connection.request(method, path, text, headers)
            answer = connection.getresponse()
            said = answer.read().decode()
        if answer.status >= 400:
            raise ApiError(answer.status, said)
        return json.loads(said)

    def kubectl(self, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
        """`kubectl ARGUMENTS`, with `given` as its input."""
        return self.run(self._paths["kubectl"], *arguments, given=given)

    def run(
        self, *command: str, given: str = "", seconds: float = 120, path: str = "/usr/bin:/bin"
    ) -> subprocess.CompletedProcess[str]:
        """A command that finds this cluster."""
        return subprocess.run(
            command,
            input=given,
            cwd=ROOT,
            env={"KUBECONFIG": str(self.kubeconfig), "HOME": str(self.folder), "PATH": path},
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    @contextlib.contextmanager
    def namespace(self, name: str) -> Iterator[str]:
        """One in which the restricted standard is enforced."""
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        self.ask(
            "POST",
            "/api/v1/namespaces",
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}},
        )
        wait_for(lambda: self.exists(f"/api/v1/namespaces/{name}/serviceaccounts/default"), 30)
        yield name

    def exists(self, path: str) -> bool:
        """Whether there is an object."""
        try:
            self.ask("GET", path)
        except ApiError as error:
            if error.status == 404:
                return False
            raise
        return True

    def pods(self, namespace: str) -> list[dict[str, Any]]:
        """All pods of a namespace."""
        pods: list[dict[str, Any]] = self.ask("GET", f"/api/v1/namespaces/{namespace}/pods")["items"]
        return pods

    def _ready(self) -> bool:
        if (code := self._running[-1].poll()) is not None:
            raise RuntimeError(f"the API server ended with {code}: {self._log('kube-apiserver')}")
        try:
            self.ask("GET", "/api/v1/namespaces/default")
        except (OSError, ApiError):
            return False
        return True

    def _log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()[-2000:]

    def _start(self, name: str, *arguments: str) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [self._paths[name], *arguments], stdout=log, stderr=log, cwd=self.folder
            )
        self._running.append(process)

    def _start_etcd(self) -> str:
        client, peer = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
        self._start(
            "etcd", f"--data-dir={self.folder / 'etcd'}", "--unsafe-no-fsync=true",
            f"--listen-client-urls={client}", f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
        )  # fmt: skip
        return client

    def _start_server(self, etcd: str) -> None:
        self._start(
            "kube-apiserver", f"--etcd-servers={etcd}", "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1", "--endpoint-reconciler-type=none",
            f"--secure-port={self.port}", f"--cert-dir={self.folder / 'certs'}",
            f"--token-auth-file={self.folder / 'tokens'}", "--authorization-mode=RBAC",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self.folder / 'sa.pub'}",
            f"--service-account-signing-key-file={self.folder / 'sa.key'}",
            "--service-cluster-ip-range=10.96.0.0/24",
        )  # fmt: skip

    def _start_controllers(self) -> None:
        self._start(
            "kube-controller-manager", f"--kubeconfig={self.kubeconfig}", "--leader-elect=false",
            "--secure-port=0", f"--controllers={CONTROLLERS}",
            f"--service-account-private-key-file={self.folder / 'sa.key'}",
        )  # fmt: skip

    def _write_files(self) -> None:
        (self.folder / "tokens").write_text(f"{TOKEN},admin,admin,system:masters\n")
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        (self.folder / "sa.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        (self.folder / "sa.pub").write_bytes(
            key.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )
        server = {"server": f"https://127.0.0.1:{self.port}", "insecure-skip-tls-verify": True}
        cluster = {"name": "c", "cluster": server}
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": "c", "clusters": [cluster],
            "users": [{"name": "u", "user": {"token": TOKEN}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        }  # fmt: skip
        self.kubeconfig.write_text(json.dumps(config))


class Kubelet:
    """Says of every pod that it runs and is ready, of those that end by themselves how they ended."""

    def __init__(self, server: ApiServer, namespace: str, *, ends: str = "Succeeded") -> None:
        self._server = server
        self._pods = f"/api/v1/namespaces/{namespace}/pods"
        self._ends = ends
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> Kubelet:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join(timeout=30)

    def _work(self) -> None:
        while not self._over.wait(0.05):
            for pod in self._server.ask("GET", self._pods)["items"]:
                with contextlib.suppress(ApiError):  # it went meanwhile
                    self._look_at(pod)

    def _look_at(self, pod: dict[str, Any]) -> None:
        path = f"{self._pods}/{pod['metadata']['name']}"
        if "deletionTimestamp" in pod["metadata"]:
            self._server.ask("DELETE", path, {"gracePeriodSeconds": 0})
        elif pod["status"]["phase"] == "Pending":
            lasting = pod["spec"]["restartPolicy"] == "Always"
            phase = "Running" if lasting else self._ends
            since = "2020-01-01T00:00:00Z"  # ready for long enough
            ready = [{"type": "Ready", "status": str(lasting), "lastTransitionTime": since}]
            status = {"phase": phase, "conditions": ready}
            self._server.ask(
                "PATCH", f"{path}/status", {"status": status}, "application/strategic-merge-patch+json"
            )
