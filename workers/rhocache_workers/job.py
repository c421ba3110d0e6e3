"""``python -m rhocache_workers.job``: the fixed entrypoint of the service's jobs.

What to do comes as data in the environment, never on a command line:
RHOCACHE_JOB_SPEC (a JobSpec as JSON), RHOCACHE_JOB_ID, and RHOCACHE_ALLOWED_ROOTS (a JSON list of
the places that the job may name).
"""

import json
import os
import signal
import sys
from traceback import format_exception

from rhocache_schemas.errors import RhocacheError
from rhocache_schemas.job import JobSpec
from rhocache_schemas.printable import printable_lines
from rhocache_workers.driver import score

INTERRUPTED = 130


def main() -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # Ray stops a job with SIGTERM
    try:
        spec = JobSpec.parse(os.environ["RHOCACHE_JOB_SPEC"].encode(), "RHOCACHE_JOB_SPEC")
        roots = json.loads(os.environ.get("RHOCACHE_ALLOWED_ROOTS") or "null")
        summary = score(spec, ray_address="auto", job=os.environ["RHOCACHE_JOB_ID"], roots=roots)
    except RhocacheError as error:
        print(f"rhocache: error: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    except KeyboardInterrupt:
        print("rhocache: interrupted", file=sys.stderr)  # noqa: T201
        return INTERRUPTED
    except Exception as error:  # a fault of ours, whose traceback may quote a dataset
        print(printable_lines("".join(format_exception(error))), end="", file=sys.stderr)  # noqa: T201
        return 1
    print(f"rhocache: {summary.ok} of {summary.rows} pairs scored")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
