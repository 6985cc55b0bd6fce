"""Worker processes for a job on this machine, forked from one that has imported everything.

Beam starts a worker by a command, and tells it what it has to know in the environment. By itself that is a new Python, which
imports for 1.7 s, and again needs the memory for it. Here the command hands its environment on to a process that was forked
while there was no thread besides the main one, and nothing of gRPC but its code, since neither survives a fork; that forks the
worker. A worker ends at once, too, where Python would take most of a second to clear up.
"""

from __future__ import annotations

import gc
import importlib
import json
import logging
import os
import select
import shlex
import shutil
import signal
import socket
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from apache_beam.runners.worker import statesampler

from beam_pipeline.interrupts import TO_DELETE

LOOK_EVERY_MS = 20
_HAND_ON = """\
import json, os, socket, sys
os.chdir(sys.argv[1])
worker = socket.socket(socket.AF_UNIX)
worker.connect("workers")
worker.sendall(json.dumps(dict(os.environ)).encode())
worker.shutdown(socket.SHUT_WR)
sys.exit(worker.recv(1) != b"0")
"""
"""The command's program: it ends when the worker does; a worker that is killed says nothing."""


@contextmanager
def bundles_end_at_once() -> Iterator[None]:
    """Within the block, and in what is forked there: Beam looks fifty times a second at which step is at work.

    By itself it looks five times a second, and whoever ends a bundle waits until it has looked once more: 0.1 s on the average at
    each of four long stages.
    """
    init = statesampler.StateSampler.__init__
    usual = init.__defaults__
    if usual == (statesampler.DEFAULT_SAMPLING_PERIOD_MS,):
        init.__defaults__ = (LOOK_EVERY_MS,)
    try:
        yield
    finally:
        init.__defaults__ = usual


@contextmanager
def forked_workers() -> Iterator[str | None]:
    """The command that starts a worker within the block; None where a fork would not be safe."""
    if sys.platform != "linux" or threading.active_count() > 1:
        yield None
        return
    folder = tempfile.mkdtemp(prefix="maskbeam-")  # nobody else may look into it
    TO_DELETE.add(folder)
    job_ends, job_lives = os.pipe()
    with socket.socket(socket.AF_UNIX) as listener:
        inside = os.open(folder, os.O_RDONLY)
        listener.bind(f"/proc/self/fd/{inside}/workers")  # a socket's path has a hundred letters at most
        os.close(inside)
        listener.listen()
        sys.stdout.flush()
        sys.stderr.flush()
        process = os.fork()
        if not process:
            os.close(job_lives)
            _fork_workers(listener, job_ends)
    os.close(job_ends)
    try:
        yield shlex.join([sys.executable, "-I", "-S", "-c", _HAND_ON, folder])
    finally:
        os.close(job_lives)
        os.waitpid(process, 0)
        shutil.rmtree(folder, ignore_errors=True)
        TO_DELETE.discard(folder)


def _fork_workers(listener: socket.socket, job_ends: int) -> None:
    """Forks a worker for each connection, until nobody holds the other end of `job_ends`; then ends what is left of them."""
    workers: list[int] = []
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # which is for the job to handle
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        importlib.import_module("apache_beam.runners.worker.sdk_worker_main")
        importlib.import_module("beam_pipeline.report")  # what a worker will need in the end; the job is still being built
        gc.freeze()  # or each worker would copy the memory of all objects, to note that it has looked at them
        while job_ends not in select.select([listener.fileno(), job_ends], [], [])[0]:
            connection = listener.accept()[0]
            workers.append(os.fork())
            if not workers[-1]:
                listener.close()
                os.close(job_ends)
                _work(connection)
            connection.close()
        for worker in workers:
            os.kill(worker, signal.SIGKILL)  # which has ended long ago, unless the job was cut short
            os.waitpid(worker, 0)  # so that what it took is counted
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


def _work(connection: socket.socket) -> None:
    """Is a worker, and ends the process."""
    from apache_beam.runners.worker import sdk_worker_main

    failed = True
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with connection.makefile("rb") as told:
            os.environ.clear()
            os.environ.update(json.load(told))
        logging.getLogger().handlers.clear()  # a worker tells the job, which says it
        sdk_worker_main.main([])
        failed = False
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        with suppress(OSError):
            connection.sendall(b"1" if failed else b"0")
        os._exit(failed)
