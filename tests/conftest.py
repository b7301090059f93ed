"""What holds for every test: hypothesis draws the same examples in every run, however slow the machine.

A change must not fail for an example that another change would have met. To search for new ones:

    python -m pytest --hypothesis-profile=search tests/unit tests/wire
"""

from hypothesis import HealthCheck, settings

_SLOW = (HealthCheck.too_slow, HealthCheck.differing_executors)

settings.register_profile("same", derandomize=True, deadline=None, suppress_health_check=_SLOW)
settings.register_profile("search", deadline=None, max_examples=1000, suppress_health_check=_SLOW)
settings.load_profile("same")
