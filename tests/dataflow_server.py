"""Google's side of Dataflow for tests: a server that takes jobs, records what was asked, and says of jobs what a test wants.

    with dataflow_server() as server:
        server.plan("JOB_STATE_RUNNING", "JOB_STATE_FAILED", error="the disk is full")
        …  # --dataflow_endpoint=server.endpoint --no_auth
        [job] = server.jobs

For other processes, `python tests/dataflow_server.py --port N [--states …] [--error TEXT]`: what was asked is then to be had
from `GET /requests`, and `POST /plan` with {"states": […], "error": …} says what becomes of the jobs that come after it.

Nothing is run, unless `plan(work=…)` does it: a job goes on by one state each time that somebody asks for it, and keeps the last.
"""

from __future__ import annotations

import argparse
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import urlsplit

STATES = ("JOB_STATE_PENDING", "JOB_STATE_RUNNING", "JOB_STATE_DONE")
FORBIDDEN = "FORBIDDEN"
"""In place of a state: whoever asks is refused."""
TIME = "2026-01-02T03:04:05.678901Z"
_IN_REGION = r"/v1b3/projects/(?P<project>[^/]+)/locations/(?P<region>[^/]+)"
_JOBS = re.compile(rf"{_IN_REGION}/jobs")
_JOB = re.compile(rf"{_IN_REGION}/jobs/(?P<id>[^/:]+)(?P<part>/messages|/metrics|)")
_LAUNCH = re.compile(rf"{_IN_REGION}/flexTemplates:launch")


class Request(NamedTuple):
    """What somebody has asked; `body` is the parsed JSON."""

    method: str
    path: str
    body: Any


class _Job:
    def __init__(self, description: dict[str, Any], states: tuple[str, ...], error: str | None) -> None:
        self.description, self.states, self.error = description, list(states), error

    def state(self) -> str:
        return self.states[0]

    def go_on(self) -> None:
        if len(self.states) > 1:
            del self.states[0]

    def messages(self) -> list[dict[str, str]]:
        if self.error is None:
            return []
        return [{"id": "m1", "time": TIME, "messageImportance": "JOB_MESSAGE_ERROR", "messageText": self.error}]


class DataflowServer(ThreadingHTTPServer):
    """The server; `endpoint` is for --dataflow_endpoint, which takes REST for the name localhost, and gRPC for 127.0.0.1."""

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.endpoint = f"http://localhost:{self.server_port}"
        self.lock = threading.Lock()
        self.requests: list[Request] = []
        self.by_id: dict[str, _Job] = {}
        self.plan()

    def plan(
        self,
        *states: str,
        error: str | None = None,
        refuse: str | None = None,
        work: Callable[[dict[str, Any]], str | None] | None = None,
        no_metrics: bool = False,
    ) -> None:
        """What becomes of the jobs that come from now on: their states; the error message of one that fails.

        `refuse` is why the service does not take them at all. `work` does what a job describes before it is answered; the job
        then fails with the message that it gives, if it gives one. With `no_metrics` whoever asks for those is refused.
        """
        self.states, self.error, self.refuse, self.work = states or STATES, error, refuse, work
        self.no_metrics = no_metrics

    @property
    def jobs(self) -> list[dict[str, Any]]:
        """The jobs that were made, as the service answers them."""
        with self.lock:
            return [job.description for job in self.by_id.values()]

    def bodies(self, method: str, path: str) -> list[Any]:
        """The bodies of the requests with this method, whose path ends with `path`."""
        with self.lock:
            return [one.body for one in self.requests if one.method == method and one.path.endswith(path)]

    def create(self, description: dict[str, Any], project: str, region: str) -> dict[str, Any]:
        """A new job, made of what was sent."""
        states, error = self.states, self.error
        if self.work and (failed := self.work(description)):
            states, error = ("JOB_STATE_FAILED",), failed
        with self.lock:
            name = f"2026-01-02_03_04_05-{len(self.by_id) + 1:019d}"
            made = {**description, "id": name, "projectId": project, "location": region, "createTime": TIME}
            self.by_id[name] = _Job(made, states, error)
        return made

    def handle_error(self, *_: object) -> None:
        """Clients are killed."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: DataflowServer

    def log_message(self, *_: object) -> None:
        pass

    def _serve(self) -> None:
        sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path, body = urlsplit(self.path).path, json.loads(sent or b"null")
        if path not in ("/plan", "/requests"):
            with self.server.lock:
                self.server.requests.append(Request(self.command, path, body))
        status, answer = self._answer_to(path, body)
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=UTF-8")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = _serve  # noqa: N815

    def _answer_to(self, path: str, body: Any) -> tuple[int, Any]:
        server = self.server
        if path == "/plan":
            server.plan(*body.get("states", ()), error=body.get("error"), refuse=body.get("refuse"))
            return 200, {}
        if path == "/requests":
            with server.lock:
                return 200, [request._asdict() for request in server.requests]
        new = _JOBS.fullmatch(path) or _LAUNCH.fullmatch(path)
        if new and self.command == "POST":
            if server.refuse:
                return 400, {"error": {"code": 400, "message": server.refuse, "status": "INVALID_ARGUMENT"}}
            if path.endswith("/jobs"):
                return 200, server.create(body, new["project"], new["region"])
            launched = {"name": body["launchParameter"]["jobName"], "type": "JOB_TYPE_BATCH"}
            return 200, {"job": server.create(launched, new["project"], new["region"])}
        if new:
            with server.lock:
                return 200, {"jobs": [{**job.description, "currentState": job.state()} for job in server.by_id.values()]}
        one = _JOB.fullmatch(path)
        job = server.by_id.get(one["id"]) if one else None
        if one is None or job is None:
            return 404, {"error": {"code": 404, "message": f"{path}: not found", "status": "NOT_FOUND"}}
        with server.lock:
            if one["part"] == "/messages":
                return 200, {"jobMessages": job.messages()}
            if one["part"] == "/metrics" and server.no_metrics:
                return 403, {"error": {"code": 403, "message": "no dataflow.metrics.get", "status": "PERMISSION_DENIED"}}
            if one["part"] == "/metrics":
                return 200, {"metricTime": TIME, "metrics": []}
            if self.command == "PUT":
                job.states = [body["requestedState"]]
            if job.state() == FORBIDDEN:
                return 403, {"error": {"code": 403, "message": "no dataflow.jobs.get", "status": "PERMISSION_DENIED"}}
            answer = {**job.description, "currentState": job.state(), "currentStateTime": TIME}
            job.go_on()
            return 200, answer


@contextmanager
def dataflow_server() -> Iterator[DataflowServer]:
    """Starts a server on a free port; it ends with the block."""
    server = DataflowServer()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def main() -> None:
    """Serves until it is ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0, help="default: a free one")
    parser.add_argument("--states", nargs="+", default=STATES, metavar="JOB_STATE_…")
    parser.add_argument("--error", help="the message of a job that fails")
    parsed = parser.parse_args()
    server = DataflowServer(parsed.port)
    server.plan(*parsed.states, error=parsed.error)
    print(server.endpoint, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
