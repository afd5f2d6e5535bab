"""For all tests: every warning is an error but for those that Ray Serve gives of itself when it is imported, and no
example of hypothesis has a deadline, since machines are shared.
"""

from __future__ import annotations

import pytest
from hypothesis import settings

settings.register_profile("corral", deadline=None)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("filterwarnings", "ignore:Using extra keyword arguments on `Field`:DeprecationWarning")
    settings.load_profile("corral")
