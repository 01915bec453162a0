"""A program with a pool of forked children that report by the SDKs of sdk_app. Prints JSON."""

from __future__ import annotations

import json
import multiprocessing

import sdk_app


def work(count: int) -> tuple[list[list[int]], list[str]]:
    """In a child: report, and count its threads."""
    return sdk_app.emit(count), sdk_app.threads()


def main() -> None:
    """Work in four children."""
    accepted = list(sdk_app.STARTUP)
    threads = list(sdk_app.MASTER_THREADS)
    with multiprocessing.get_context("fork").Pool(4, maxtasksperchild=5) as pool:
        for taken, others in pool.imap_unordered(work, [3] * 40):
            accepted += taken
            threads += others
        pool.close()
        pool.join()
    print(json.dumps({"accepted": accepted, "threads": threads}))


if __name__ == "__main__":
    main()
