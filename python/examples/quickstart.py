"""Report events from a process and from its fork. Run `telemetry collect` first, then

python quickstart.py http://127.0.0.1:4318
"""

import os
import sys

from libtelemetry import Client

client = Client(sys.argv[1] if len(sys.argv) > 1 else None)  # None: telemetry-events.ndjson here
client.enqueue({"event": "hello", "from": "parent", "pid": os.getpid()})

pid = os.fork()
client.enqueue({"event": "hello", "from": "child" if pid == 0 else "parent", "pid": os.getpid()})
delivered = client.flush(timeout=5)
if pid == 0:
    os._exit(0 if delivered else 1)

_, status = os.waitpid(pid, 0)
print("parent:", client.stats())
sys.exit(0 if delivered and status == 0 else 1)
