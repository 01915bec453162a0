"""Workers go on with the trace of whoever asked for them: in every mode, with the real SDK."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from python_kit import SDKS, App, run

pytestmark = pytest.mark.skipif(
    not (SDKS / "opentelemetry" / "sdk").exists(), reason=f"{SDKS} is missing: run tests/setup.sh"
)


@pytest.mark.parametrize("mode", ["fork", "zygote", "exec"])
def test_the_callers_trace(mode: str, tmp_path: Path) -> None:
    with App(tmp_path, "traced", mode, sdks=True) as app:
        app.until_ready()
        trace = app.output().partition("trace ")[2].split()[0]
        (note,) = app.notes("traced")
        assert (note["trace"], note["baggage"]) == (trace, "acme")
        assert app.stop() == 0


def test_the_trace_shows_where_workers_were_asked_for(tmp_path: Path) -> None:
    code = (
        "from opentelemetry import trace\n"
        "from opentelemetry.sdk.trace import TracerProvider\n"
        "from opentelemetry.sdk.trace.export import SimpleSpanProcessor\n"
        "from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter\n"
        "from libtelemetry.fleet import Fleet, _trace\n"
        "spans = InMemorySpanExporter()\n"
        "trace.set_tracer_provider(TracerProvider())\n"
        "trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(spans))\n"
        "assert _trace.capture('nobody') == {}\n"
        "with trace.get_tracer('test').start_as_current_span('outside') as outside:\n"
        "    Fleet(mode='exec').start_worker('consumer', 'json:loads')\n"
        "    texts = _trace.capture('second')\n"
        "first, second, last = spans.get_finished_spans()\n"
        "assert (first.name, second.name, last.name) == ('fleet.start', 'fleet.start', 'outside')\n"
        "assert first.attributes['telemetry.fleet.worker'] == 'consumer'\n"
        "assert first.parent.span_id == outside.get_span_context().span_id\n"
        "assert texts['traceparent'].split('-')[2] == f'{second.context.span_id:016x}'\n"
    )
    run(tmp_path, code, sdks=True)


def test_the_environments_trace_without_opentelemetry(tmp_path: Path) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with App(tmp_path, "lifecycle", "fork", TRACEPARENT=parent) as app:
        app.until_ready()
        assert {one.get("traceparent") for one in app.notes("begin", name="function")} == {parent}
        assert app.stop() == 0


@pytest.mark.skipif(
    not (SDKS / "opentelemetry" / "instrumentation").exists(),
    reason=f"{SDKS} has no opentelemetry-instrumentation: run tests/setup.sh",
)
@pytest.mark.parametrize("mode", ["zygote", "exec"])
def test_automatic_instrumentation(mode: str, tmp_path: Path) -> None:
    env = {
        "OTEL_TRACES_EXPORTER": "console",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
        "OTEL_SERVICE_NAME": "orders",
        "OTEL_RESOURCE_ATTRIBUTES": "team=blue",
    }
    with App(tmp_path, "instrumented", mode, sdks=True, **env) as app:
        app.until_ready()
        (note,) = app.notes("traced")
        assert note["provider"] == "opentelemetry.sdk.trace"
        assert app.stop() == 0
        # The batch that it held was exported at its end.
        output = app.output()
        assert '"name": "inside"' in output
        assert '"service.name": "orders"' in output and '"team": "blue"' in output
        assert '"telemetry.fleet.slot": "0"' in output


def test_automatic_instrumentation_that_is_not_there(tmp_path: Path) -> None:
    # A process of its own: this one may have the SDK's packages on its path by now.
    code = (
        "from libtelemetry import ConfigError\n"
        "from libtelemetry.fleet import Fleet\n"
        "try:\n"
        "    Fleet(auto_instrument=True)\n"
        "except ConfigError as error:\n"
        "    assert 'pip install opentelemetry-distro' in str(error), error\n"
        "else:\n"
        "    raise SystemExit('no error')\n"
    )
    run(tmp_path, code)


def test_asking_does_not_import_opentelemetry(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from libtelemetry.fleet import Fleet\n"
        "Fleet(mode='exec').start_worker('a', 'json:loads')\n"
        "assert 'opentelemetry' not in sys.modules\n"
    )
    run(tmp_path, code, sdks=True)


def test_a_managers_worker_has_the_managers_trace(tmp_path: Path) -> None:
    app = App.__new__(App)
    app.directory, app.log = tmp_path, tmp_path / "log"
    from fleets import WAIT_S, until
    from harness import BIN
    from python_kit import HERE, environment

    process = subprocess.Popen(
        [str(BIN / "python"), "-u", str(HERE / "python_program.py"), "traced", "manager"],
        env=environment(tmp_path, sdks=True),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        trace = process.stdout.readline().split()[1]
        until("the worker runs", lambda: app.notes("traced"))
        process.communicate("", timeout=WAIT_S)
    (note,) = app.notes("traced")
    assert (note["trace"], note["baggage"]) == (trace, "acme")
    assert process.returncode == 0
