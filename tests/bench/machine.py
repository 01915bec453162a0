"""What the driver needs of the machine: its facts, programs to run, collectors to run them against."""

import contextlib
import datetime
import json
import os
import platform
import re
import subprocess
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "tests" / "bench"
OUT = ROOT / "target" / "bench"


def facts():
    """This machine, in a few lines: a figure without them says nothing."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*:\s*(.*)", cpuinfo)
    family = re.search(r"cpu family\s*:\s*(.*)", cpuinfo)
    huge = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    memory = re.search(r"MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text())
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": (model[1] if model else platform.machine()) + (f" (family {family[1]})" if family else ""),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(int(memory[1]) / 2**20) if memory else None,
        "virtual": "hypervisor" in cpuinfo,
        "kernel": platform.release(),
        "libc": " ".join(platform.libc_ver()),
        "python": platform.python_version(),
        "huge_pages": huge.read_text().strip() if huge.exists() else "unknown",
        "load_average_before": os.getloadavg()[0],
    }


def build(include):
    """Compile the C programs; returns the directory they are in."""
    to = OUT / "bin"
    to.mkdir(parents=True, exist_ok=True)
    flags = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", f"-I{include}", f"-I{HERE}"]
    for source in sorted(HERE.glob("*.c")):
        compiler = os.environ.get("CC", "cc").split()
        command = [*compiler, *flags, str(source), "-o", str(to / source.stem), "-ldl", "-pthread"]
        subprocess.run(command, check=True)
    manifest = str(HERE / "crossbeam" / "Cargo.toml")
    target = str(OUT / "crossbeam")
    cargo = ["cargo", "build", "--quiet", "--release", "--locked"]
    subprocess.run([*cargo, "--manifest-path", manifest, "--target-dir", target], check=True)
    return to


def build_cpp(include, library, to):
    """Compile the C++ program, linked with `library`; returns its path."""
    soname = to / "libtelemetry.so.0"
    soname.unlink(missing_ok=True)
    soname.symlink_to(library)
    compiler = os.environ.get("CXX", "c++").split()
    flags = ["-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", f"-I{include}", f"-I{HERE}"]
    flags += [f"-I{ROOT / 'bindings' / 'cpp'}", "-Wl,-rpath,$ORIGIN", "-ldl", "-pthread"]
    program = to / "enqueue++"
    subprocess.run([*compiler, str(HERE / "enqueue.cpp"), str(soname), *flags, "-o", str(program)], check=True)
    return program


def run(*command, env=None, timeout=600):
    """Run a program to its end and read the JSON lines it printed. Its failure is ours.

    Its stderr is shown only then: that its queue became full is what the library says there.
    """
    words = [str(part) for part in command]
    done = subprocess.run(words, env={**os.environ, **(env or {})}, capture_output=True, text=True, timeout=timeout)
    if done.returncode:
        raise SystemExit(f"{words[0]} failed with status {done.returncode}: {done.stderr.strip()}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


class Collector:
    """A running collector."""

    def __init__(self, process, url):
        self.process, self.url = process, url
        self.port = int(url.rsplit(":", 1)[1])

    def get(self, path):
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return json.load(answer)

    def reset(self):
        request = urllib.request.Request(self.url + "/reset", data=b"", method="POST")
        urllib.request.urlopen(request, timeout=60).close()

    def cpu_seconds(self):
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def collector(*command):
    """Start a collector that prints its address, and end it afterwards."""
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        found = re.search(r"http://[0-9.]+:\d+", line)
        if not found:
            raise RuntimeError(f"{command[0]} did not say where it listens: {line!r}")
        yield Collector(process, found[0])
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
