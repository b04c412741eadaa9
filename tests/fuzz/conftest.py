"""Profiles of hypothesis: `ci` draws the same each time, `fuzz` (by `make fuzz`) others, and five times as many."""

import os

from hypothesis import HealthCheck, settings


COMMON = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck), "print_blob": True}
settings.register_profile("ci", derandomize=True, **COMMON)
settings.register_profile("fuzz", **COMMON)
settings.load_profile(os.environ.get("FUZZ_PROFILE", "ci"))
