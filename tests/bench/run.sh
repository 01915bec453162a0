#!/bin/sh
# Measures libtelemetry and prints the table of budgets: tests/bench/run.sh [--seconds N] [--skip-peers] ...
# Needs a built library and tool (make build). The other SDKs go into target/bench/venv, at the versions of
# requirements.txt, and are installed once.
set -eu
cd "$(dirname "$0")/../.."
venv=target/bench/venv
wanted=tests/bench/requirements.txt
if ! cmp -s "$wanted" "$venv/requirements.txt"; then
    mkdir -p target/bench
    "${PYTHON:-python3}" -m venv --clear "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$wanted"
    cp "$wanted" "$venv/requirements.txt"
fi
exec "$venv/bin/python" tests/bench/run.py "$@"
