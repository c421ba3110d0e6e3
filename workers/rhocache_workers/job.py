"""``python -m rhocache_workers.job``: the fixed entrypoint of the service's jobs.

What to do comes as data in a file of the working folder, ``job.json`` (a JobOrder), which names
the kind of the job, and so what is run. Neither a command line nor the environment carries it:
both have little room, and Ray replaces ``$NAME`` in variables.
"""

import signal
import sys

from rhocache_schemas.errors import InvalidInput, RhocacheError
from rhocache_schemas.job.kinds import JobOrder, installed
from rhocache_schemas.text import tell_crash

INTERRUPTED = 130


def main() -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # Ray stops a job with SIGTERM
    try:
        order = JobOrder.read(JobOrder.FILE)
        line = run(order)
    except RhocacheError as error:
        print(f"rhocache: error: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    except KeyboardInterrupt:
        print("rhocache: interrupted", file=sys.stderr)  # noqa: T201
        return INTERRUPTED
    except Exception as error:
        print(tell_crash(error), end="", file=sys.stderr)  # noqa: T201
        return 1
    print(f"rhocache: {line}")  # noqa: T201
    return 0


def run(order: JobOrder) -> str:
    """Do a job, and return the line that tells of it.

    Raises InvalidInput for a kind that is not installed here, and what the kind raises.
    """
    runs = installed("rhocache_workers.kinds", "run")
    if order.spec.kind not in runs:
        raise InvalidInput(
            f"no job kind {order.spec.kind!r} is installed where drivers run, only "
            + ", ".join(sorted(runs))
        )
    return runs[order.spec.kind].load()(order.spec, order)


if __name__ == "__main__":
    sys.exit(main())
