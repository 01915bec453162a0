"""Say which enqueue is in use, and what a call of it costs here.

python accelerator.py
LIBTELEMETRY_ACCELERATOR=0 python accelerator.py
"""

import time

import libtelemetry

CALLS, ROUNDS = 2000, 50

EVENT = {
    "event": "page_view",
    "user": "u-2187",
    "path": "/orders/2187",
    "status": 200,
    "ms": 12.375,
}
TEXT = '{"event":"page_view","user":"u-2187","path":"/orders/2187","status":200,"ms":12.375}'

print("accelerated:", libtelemetry.accelerated)

# Sent between the rounds only, so that the call is measured and not the delivery.
batch = {"max_events": 1_000_000, "max_age_ms": 60_000}
with libtelemetry.Client("file:/dev/null", batch=batch) as client:
    for event in TEXT.encode(), TEXT, EVENT:
        rounds = []
        for _ in range(ROUNDS):
            start = time.perf_counter()
            for _ in range(CALLS):
                client.enqueue(event)
            rounds.append((time.perf_counter() - start) / CALLS)
            client.flush()
        print(f"{type(event).__name__:5} {min(rounds) * 1e9:4.0f} ns a call")
    stats = client.stats()
print(stats.delivered, "of", 3 * ROUNDS * CALLS, "delivered")
