"""A headless browser for tests of pages."""

import os
import shutil

import pytest


def chromium():
    """The system's browser; without one tests are skipped, but fail where CI=true says that there must be one."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        message = "no chromium here, in which pages are looked at: apt-get install chromium"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    return found
