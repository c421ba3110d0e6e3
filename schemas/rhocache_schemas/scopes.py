"""What an API key may permit."""

from typing import Literal, get_args

Scope = Literal["jobs:read", "jobs:write", "caches:read", "metrics:read", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
