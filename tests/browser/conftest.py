"""The browser of all tests in this folder."""

from __future__ import annotations

import pytest

from support.chrome import Chrome, find_browser


@pytest.fixture(scope="session")
def chrome():
    path = find_browser()
    if path is None:
        pytest.skip("no Chromium: apt-get install chromium, or name one in MLTRAIN_TEST_BROWSER")
    browser = Chrome(path)
    yield browser
    browser.close()
