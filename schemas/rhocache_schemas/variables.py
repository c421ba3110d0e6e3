"""The ``RHOCACHE_...`` variables that there are; warns of others, which change nothing."""

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches

PREFIX = "RHOCACHE_"
CLIENT = {
    "URL": "where the service answers; default: http://127.0.0.1:8321",
    "API_KEY": "what it lets this user in by",
}
# What rhocache_service.settings has, for those who run where the service is not installed.
SERVICE = (
    "HOST", "PORT", "METRICS_PORT", "DATA_DIR", "DATABASE_URL", "RAY_ADDRESS", "RAY_TOKEN",
    "ALLOW_ROOT", "CODE_ROOT", "ALLOW_HOST", "TRUSTED_PROXY", "ROOT_PATH",
    "WEBHOOK_HOST", "WEBHOOK_SECRET",
    "MAX_RUNNING_JOBS", "MAX_RUNNING_JOBS_OF_KEY", "MAX_WAITING_JOBS", "SUBMITS_PER_MINUTE",
    "MAX_BODY_BYTES", "CACHE_RETENTION_DAYS", "WEDGED_SECONDS",
)  # fmt: skip

# What Kubernetes tells every container of a Service called rhocache or rhocache-anything:
# RHOCACHE_SERVICE_HOST, RHOCACHE_PORT=tcp://10.0.0.1:8321, RHOCACHE_PORT_8321_TCP_ADDR, ...
_KUBERNETES = re.compile(
    r"(.+_)?(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
SERVICE_PORT = re.compile(r"(tcp|udp|sctp)://")


def tell_unknown(environment: Mapping[str, str]) -> Iterator[str]:
    """Yield a line for each variable that looks like rhocache's and is not, without its value.

    Cases don't matter: secret files have names in small letters.
    """
    known = sorted((*CLIENT, *SERVICE))
    for name, value in environment.items():
        rest = name.upper().removeprefix(PREFIX)
        if not name.upper().startswith(PREFIX) or rest in known:
            continue
        if _KUBERNETES.fullmatch(rest) or (rest.endswith("PORT") and SERVICE_PORT.match(value)):
            continue
        meant = "".join(f"; is {PREFIX}{near} meant?" for near in get_close_matches(rest, known, 1))
        yield f"{name} changes nothing: there is no such variable{meant}"
