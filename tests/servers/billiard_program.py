"""Children of a `billiard.Pool` that report events and are replaced after some tasks: its argument.

The client is made before billiard is imported. Prints the events that were taken, as JSON.
"""

from __future__ import annotations

import json
import sys

from app import STARTUP, emit

if __name__ == "__main__":
    import billiard

    pool = billiard.Pool(2, maxtasksperchild=int(sys.argv[1]))
    accepted = [key for keys in pool.map(emit, [5] * 8, chunksize=1) for key in keys]
    pool.close()
    pool.join()
    print(json.dumps(STARTUP + accepted))
