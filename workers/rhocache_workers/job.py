"""``python -m rhocache_workers.job``: the fixed entrypoint of the service's jobs.

What to do comes as data in a file of the working folder, ``job.json`` (a JobOrder). Neither a
command line nor the environment carries it: both have little room, and Ray replaces ``$NAME`` in
variables.
"""

import signal
import sys

from rhocache_schemas.errors import RhocacheError
from rhocache_schemas.job.spec import JobOrder
from rhocache_schemas.text import tell_crash
from rhocache_workers.run.driver import score

INTERRUPTED = 130


def main() -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # Ray stops a job with SIGTERM
    try:
        order = JobOrder.read(JobOrder.FILE)
        summary = score(order.spec, ray_address="auto", job=order.job, roots=order.roots)
    except RhocacheError as error:
        print(f"rhocache: error: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    except KeyboardInterrupt:
        print("rhocache: interrupted", file=sys.stderr)  # noqa: T201
        return INTERRUPTED
    except Exception as error:
        print(tell_crash(error), end="", file=sys.stderr)  # noqa: T201
        return 1
    print(f"rhocache: {summary.ok} of {summary.rows} pairs scored")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
