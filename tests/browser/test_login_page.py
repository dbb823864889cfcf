"""Logging in and out in a browser, by keyboard alone."""

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect
from pydantic import SecretStr

from mild_service.config import Settings

KEY = "a-key-that-nobody-will-guess"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """A service that asks for a key."""
    return settings.model_copy(update={"api_keys": SecretStr(f"tester:read::{KEY}")})


def test_a_page_asks_for_a_key_and_comes_back(page: Page, check_access: Callable[[], None]) -> None:
    page.goto("/ui/?q=x")
    expect(page).to_have_url(re.compile(r"/ui/login\?next="))
    expect(page.get_by_label("API key")).to_be_focused()
    check_access()
    page.keyboard.type(KEY)
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(r"/ui/\?q=x$"))
    account = page.locator("summary", has_text="T")
    account.press("Enter")
    expect(page.get_by_role("button", name="Log out")).to_be_visible()
    check_access()
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Log out")).to_be_hidden()
    expect(account).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Log in")).to_be_visible()
    page.goto("/ui/")
    expect(page).to_have_url(re.compile(r"/ui/login"))
