"""A bucket for tests: `gcp-storage-emulator` in a process of its own, behind a proxy that makes faults.

    with storage_server({"unavailable": 0.05}, seed=1) as server:
        server.upload(folder, "gs://bkt/images")
        done = server.run("maskbeam", "run", …)

Which request meets which fault depends on the seed, what is asked for, and how often it was asked for before; so not on the
order in which the threads of a job come along.
"""

from __future__ import annotations

import hashlib
import html
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import google.auth.credentials
from google.cloud.storage import Client
from reports import but_for_time

BUCKET = "bkt"
FAULTS = ("unavailable", "too_many", "stalled", "cut", "corrupt", "refused")
"""503; 429; no answer; an answer that ends in the middle; one with a flipped bit; a connection that ends before the request
has reached the server. Corrupt is only what has a checksum: the content of objects."""
OTHERS = ("forbidden",)
"""403, which does not pass."""
STALL_SECONDS = 3.0
"""What follows a stall is the end of the connection. The clients of the tests give up earlier: `IMPATIENT`."""
IMPATIENT: dict[str, object] = {
    "TIMEOUT": (2.0, 0.6),
    "PATIENCE": 60.0,
    "FIRST_PAUSE": 0.1,
    "CHECK_TIMEOUT": (2.0, 0.6),
    "CHECK_PATIENCE": 5.0,
}
_STATUS = {"unavailable": (503, "backendError"), "too_many": (429, "rateLimitExceeded"), "forbidden": (403, "forbidden")}
_DATA = re.compile(r"[?&]alt=media|^/download/")
_ERROR = "application/json", '{{"error": {{"code": {status}, "message": "{reason}, says the test"}}}}'
_UPLOAD_ID = re.compile(r"upload_id=([^&]+)")
_VARYING = re.compile(r"[0-9a-f]{32}|upload_id=[^&]+")  # temporary names, upload sessions


@dataclass
class Plan:
    """Which faults happen how often, as shares of all requests; and milliseconds that each request takes longer."""

    rates: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    latency_ms: float = 0.0
    spared: int = 0  # so many requests come first, and meet no fault

    def fault(self, line: str, times: int) -> str | None:
        """The fault that a request meets which was made `times` times before."""
        digest = hashlib.sha256(f"{self.seed} {times} {line}".encode()).digest()
        chance = int.from_bytes(digest[:8], "big") / 2**64
        for kind, rate in self.rates.items():
            if kind not in FAULTS + OTHERS:
                raise ValueError(f"expected one of {FAULTS + OTHERS}, found {kind!r}")
            chance -= rate
            if chance < 0:
                return kind
        return None


class FaultProxy(ThreadingHTTPServer):
    """Before a server on this machine. `data` finds paths of objects' content; `error` is a media type and a body for faults."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, upstream: int, data: re.Pattern[str] = _DATA, error: tuple[str, str] = _ERROR) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream, self.data, self.error = upstream, data, error
        self.lock = threading.Lock()
        self.plan = Plan()
        self.stopping = threading.Event()
        self.on_the_way: Callable[[bytes], bytes] = bytes
        self.remembered: dict[str, tuple[int, dict[str, str], bytes]] | None = None
        self.unchanging = data
        self.reset()

    def reset(self) -> None:
        with self.lock:
            self.requests: Counter[str] = Counter()
            self.faults: Counter[str] = Counter()
            self.asked: Counter[str] = Counter()
            self.connections = 0
            self.uploaded: dict[tuple[str, str], tuple[int, dict[str, str], bytes]] = {}

    def handle_error(self, *_: object) -> None:
        """Clients go away when they are tired of waiting."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # an answer in one piece; in two, each would wait for the other end's acknowledgement
    server: FaultProxy

    def log_message(self, *_: object) -> None:
        pass

    def setup(self) -> None:
        super().setup()
        with self.server.lock:
            self.server.connections += 1

    def _serve(self) -> None:
        proxy = self.server
        body = proxy.on_the_way(self.rfile.read(int(self.headers.get("Content-Length") or 0)))
        line = _VARYING.sub("*", f"{self.command} {self.path}")
        with proxy.lock:
            early = sum(proxy.requests.values()) < proxy.plan.spared
            times = proxy.asked[line]
            fault = None if early else proxy.plan.fault(line, times)
            data = bool(proxy.data.search(self.path))
            if fault == "corrupt" and not (self.command == "GET" and data):
                fault = None
            proxy.asked[line] += 1
            proxy.requests[f"{self.command} {'data' if data else self.path.split('/')[1]}"] += 1
        if proxy.plan.latency_ms:
            time.sleep(proxy.plan.latency_ms / 1000)
        if fault in _STATUS:
            self._count(fault)
            status, reason = _STATUS[fault]
            kind, text = proxy.error
            self._answer(status, {"Content-Type": kind}, text.format(status=status, reason=reason).encode())
        elif fault == "refused":
            self._count(fault)
            self._hang_up()
        elif fault == "stalled":
            self._count(fault)
            proxy.stopping.wait(STALL_SECONDS)
            self._hang_up()
        else:
            status, headers, answer = self._remembered() or self._forward(body)
            if not answer:
                fault = None
            self._count(fault)
            if fault == "corrupt":
                at = (len(answer) // 2 + times) % len(answer)
                answer = answer[:at] + bytes([answer[at] ^ 0x10]) + answer[at + 1 :]
            self._answer(status, headers, answer, len(answer) // 2 if fault == "cut" else None)

    def _count(self, fault: str | None) -> None:
        if fault:
            with self.server.lock:
                self.server.faults[fault] += 1

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = _serve  # noqa: N815

    def handle_expect_100(self) -> bool:
        carries_on = super().handle_expect_100()
        self.wfile.flush()
        return carries_on

    def _remembered(self) -> tuple[int, dict[str, str], bytes] | None:
        memory = self.server.remembered
        if memory is None or self.command != "GET" or not self.server.unchanging.search(self.path):
            return None
        asked = f"{self.path} {self.headers.get('Range')}"
        if asked not in memory:
            memory[asked] = self._forward(b"")
        return memory[asked]

    def _forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        upload = _UPLOAD_ID.search(self.path)
        piece = (upload[1], self.headers.get("Content-Range", "")) if upload else None
        with self.server.lock:  # the emulator serves one at a time anyway
            if piece in self.server.uploaded:
                # Google takes a piece of an upload that it has already, and says so again; the emulator answers 400 or 404.
                return self.server.uploaded[piece]
            upstream = http.client.HTTPConnection("127.0.0.1", self.server.upstream, timeout=60)
            headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
            upstream.request(self.command, self.path, body, headers)
            response = upstream.getresponse()
            dropped = (
                "connection",
                "server",
                "date",
                "transfer-encoding",
                *(["content-length"] if self.command != "HEAD" else []),
            )
            kept = {name: value for name, value in response.getheaders() if name.lower() not in dropped}
            answer = response.status, kept, response.read()
            upstream.close()
            if piece and self.command == "PUT" and response.status in (200, 308):
                self.server.uploaded[piece] = answer
        return answer

    def _answer(self, status: int, headers: Mapping[str, str], body: bytes, cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:cut])
        if cut is not None:
            self._hang_up()

    def _hang_up(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)


class FaultyServer:
    """A server behind a proxy: what is to go wrong, and what was asked."""

    def __init__(self, proxy: FaultProxy) -> None:
        self._proxy = proxy
        self.endpoint = f"http://127.0.0.1:{proxy.server_port}"

    def plan(self, rates: Mapping[str, float] | None = None, seed: int = 0, latency_ms: float = 0.0, spared: int = 0) -> None:
        """What is to happen from now on; all is counted anew."""
        self._proxy.plan = Plan(rates or {}, seed, latency_ms, spared)
        self._proxy.reset()

    def remember(self, folder: str) -> None:
        """What is read from a folder of the bucket is not asked of the emulator again, which takes milliseconds each time.

        For benchmarks, in which nothing there ever changes.
        """
        self._proxy.unchanging = re.compile(f"/o/{folder}%2F.*alt=media")
        self._proxy.remembered = {}

    @property
    def requests(self) -> Counter[str]:
        """How many requests there were, by method and kind."""
        with self._proxy.lock:
            return self._proxy.requests.copy()

    @property
    def lines(self) -> Counter[str]:
        """How often what was asked for; temporary names and upload sessions are *."""
        with self._proxy.lock:
            return self._proxy.asked.copy()

    @property
    def faults(self) -> Counter[str]:
        """How many faults there were, by kind."""
        with self._proxy.lock:
            return self._proxy.faults.copy()

    @property
    def connections(self) -> int:
        """How many connections were made."""
        return self._proxy.connections

    def change_bodies(self, change: Callable[[bytes], bytes] = bytes) -> None:
        """What is to become of the bodies of requests before the server has them."""
        self._proxy.on_the_way = change


class StorageServer(FaultyServer):
    """The emulator and the proxy before it."""

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a process that is to find its `gs://` here."""
        return {**os.environ, "STORAGE_EMULATOR_HOST": self.endpoint}

    def client(self) -> Client:
        """A client that goes to the emulator directly, past the faults."""
        return Client(
            project="test",
            credentials=google.auth.credentials.AnonymousCredentials(),
            client_options={"api_endpoint": f"http://127.0.0.1:{self._proxy.upstream}"},
        )

    def upload(self, folder: Path, target: str) -> None:
        """Puts a folder, or a file, where `target` says: gs://BUCKET/…"""
        bucket_name, _, prefix = target.removeprefix("gs://").partition("/")
        bucket = self.client().bucket(bucket_name)
        for path in sorted(folder.rglob("*")) if folder.is_dir() else [folder]:
            if path.is_file():
                name = f"{prefix}/{path.relative_to(folder).as_posix()}" if folder.is_dir() else prefix
                bucket.blob(name).upload_from_filename(path)

    def objects(self, folder: str) -> dict[str, bytes]:
        """What lies in a folder and below it, by name."""
        bucket_name, _, prefix = folder.removeprefix("gs://").partition("/")
        bucket, below = self.client().bucket(bucket_name), f"{prefix.rstrip('/')}/"
        names = [blob.name for blob in bucket.list_blobs(prefix=below)]  # their links lead through the proxy
        return {name.removeprefix(below): bucket.blob(name).download_as_bytes() for name in names}

    def run_maskbeam(self, *arguments: str, timeout: float = 180.0, **constants: object) -> subprocess.CompletedProcess[str]:
        """`maskbeam …` in a process of its own, with other constants in `transforms.gcs`.

        Without, its requests give up after less than a second instead of half a minute.
        """
        changed = "".join(f"gcs.{name} = {value}\n" for name, value in (IMPATIENT | constants).items())
        program = f"import sys\nfrom transforms import gcs\n{changed}from beam_pipeline.cli import main\nsys.exit(main())"
        command = [sys.executable, "-c", program, *arguments]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=timeout, check=False)


def files_below(folder: Path) -> dict[str, bytes]:
    """What lies in a folder on this machine and below it, by name."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def published(files: Mapping[str, bytes], annotations: str, images: str) -> dict[str, bytes]:
    """The files of a data set, but for what it says of where annotations and images lay, and of how long it took."""
    manifest = json.loads(files["manifest.json"])
    for name, path in {"annotations": annotations, "images": images}.items():
        if manifest["options"].pop(name) != path:
            raise AssertionError(f"the manifest does not have --{name} {path}")
    found = {**but_for_time(files), "manifest.json": json.dumps(manifest).encode()}
    found["report.html"] = found["report.html"].replace(html.escape(annotations).encode(), b"")
    return found


@contextmanager
def serving(proxy: FaultProxy) -> Iterator[FaultProxy]:
    """A proxy at work, in a thread."""
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.stopping.set()
        proxy.shutdown()
        proxy.server_close()
        thread.join()


@contextmanager
def storage_server() -> Iterator[StorageServer]:
    """Starts both; they end with the block, and what they keep with them."""
    port = free_port()
    command = [sys.executable, "-m", "gcp_storage_emulator", "start", "--quiet", "--host=127.0.0.1", f"--port={port}"]
    command += ["--in-memory", f"--default-bucket={BUCKET}"]
    emulator = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(port, emulator)
        with serving(FaultProxy(port)) as proxy:
            yield StorageServer(proxy)
    finally:
        emulator.terminate()
        emulator.wait(10)


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    """Returns when somebody listens at a port; raises `RuntimeError` if the process ends, or takes over a minute."""
    for _ in range(600):
        try:
            socket.create_connection(("127.0.0.1", port), 5).close()
            return
        except OSError:
            if process.poll() is not None:
                break
            time.sleep(0.1)
    raise RuntimeError(f"{process.args} did not start")
