"""A configuration of Gunicorn with an event for each request, and workers that know their number.

    export TELEMETRY_ENDPOINT=http://127.0.0.1:4318
    export TELEMETRY_CONTEXT='{"server_worker": "$worker"}'
    gunicorn -c gunicorn_conf.py app:application

Gunicorn loads such a file by itself where it is called gunicorn.conf.py. TELEMETRY_ACCESS=0 leaves
out the events of requests.
"""

from libtelemetry.gunicorn import *  # noqa: F403  # that is the interface

preload_app = True
workers = 4
