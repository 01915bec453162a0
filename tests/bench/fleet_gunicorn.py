"""Gunicorn's settings and its small application, for the fleet's part of the bench.

The control socket is off: its thread makes restarts slower and nothing else (with it Gunicorn would look worse).
"""

import os
import time

# A replacement's first instruction is its post_fork hook; the application is loaded before the fork.
preload_app = True
control_socket_disable = True
loglevel = "error"
graceful_timeout = 2


def post_fork(server, worker):
    began = time.monotonic_ns()
    with open(os.environ["BENCH_FIFO"], "wb", buffering=0) as fifo:
        fifo.write(b"%d %d\n" % (began, os.getpid()))


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"ok\n"]
