"""Making caches: a frozen reference CLIP, run over a dataset by Ray workers."""

import os

# Before anything imports ray: it reads these once.
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
