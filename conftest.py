"""The suite's plugins. Options, models and measuring live in `fixtures`; evidence and reports in `reports`."""

import os

from hypothesis import settings

pytest_plugins = ["fixtures.plugin", "reports.plugin", "pytester"]

# The same examples on every machine in CI; new ones every time at a desk.
settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("desk", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "desk")
