"""Settings that every test shares."""

import os

# pytest-xdist already keeps the cores busy; threads of torch inside each worker would only fight over them. Set here,
# before torch is imported, and inherited by the workers and by every subprocess that a test starts.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from hypothesis import settings  # noqa: E402

# No deadline: a simulator's first call is slow. The same examples every time in CI, fresh ones elsewhere.
settings.register_profile("metarl", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("metarl")
