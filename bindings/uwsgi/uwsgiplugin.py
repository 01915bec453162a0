"""For uWSGI's own builder: `uwsgi --build-plugin bindings/uwsgi`.

The library is the one that TELEMETRY_CFLAGS and TELEMETRY_LIBS name, in a compiler's words; else
the one that pkg-config knows as `telemetry`.
"""

import os
import subprocess
import sys

NAME = "telemetry"
GCC_LIST = ["plugin", "options", "request", "json"]
LDFLAGS = []


def _pkg_config(*args):
    output = subprocess.check_output(["pkg-config", *args, "telemetry"], stderr=subprocess.STDOUT)
    return output.decode().strip()


def _rpath(directory):
    """Tells the plugin where its library is, if the system's loader would not look there."""
    try:
        known = subprocess.check_output(["/sbin/ldconfig", "-p"], stderr=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError):
        known = b""
    return [] if directory.encode() + b"/libtelemetry.so" in known else ["-Wl,-rpath," + directory]


def _flags():
    """What the compiler is told, and what the linker."""
    cflags, libs = os.environ.get("TELEMETRY_CFLAGS"), os.environ.get("TELEMETRY_LIBS")
    if cflags is not None or libs is not None:
        return [cflags or ""], [libs or "-ltelemetry"]
    try:
        libdir = _pkg_config("--variable=libdir")
        return [_pkg_config("--cflags")], [_pkg_config("--libs"), *_rpath(libdir)]
    except FileNotFoundError:
        reason = "pkg-config is not installed"
    except subprocess.CalledProcessError as error:
        reason = error.output.decode("utf-8", "replace").strip()
    sys.exit(
        reason + "\nlibtelemetry was not found. Install it (PKG_CONFIG_PATH says where, if need be), or set"
        '\nTELEMETRY_CFLAGS="-I/DIR/include" and TELEMETRY_LIBS="-L/DIR/lib -ltelemetry".'
    )


CFLAGS, LIBS = _flags()
