"""An application for uwsgi.ini: it reports events through the client that uWSGI's plugin has opened."""

from libtelemetry.uwsgi import client


def application(environ, start_response):
    """The WSGI entry point."""
    client.enqueue({"event": "visit", "path": environ["PATH_INFO"]})
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello\n"]
