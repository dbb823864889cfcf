"""What all pages share: assets, problems as pages, and what is written in them."""

import re

import httpx
import pytest

from mild_service.dashboard import rendering
from mild_service.dashboard.rendering import link, script_data

PAGE = {"Accept": "text/html,*/*;q=0.8"}


def test_assets_are_kept_for_good_under_the_name_of_their_content(service: httpx.Client) -> None:
    page = service.get("/ui/login").text
    found = re.findall(r'(?:href|src)="(/ui/static/[^"]+)"', page)
    assert len(found) > 4
    for address in found:
        answer = service.get(address)
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    other = service.get(f"{rendering.STATIC_PATH}/0123456789ab/css/base.css")
    assert (other.status_code, other.headers["cache-control"]) == (200, "no-cache")
    assert service.get(f"{rendering.STATIC_PATH}/{rendering.compute_assets_version()}/css/none.css").status_code == 404
    assert (
        service.get(f"{rendering.STATIC_PATH}/{rendering.compute_assets_version()}/..%2f..%2f__init__.py").status_code
        == 404
    )


def test_a_problem_is_a_page_for_whoever_reads_pages(service: httpx.Client) -> None:
    answer = service.get("/ui/runs/none", headers=PAGE)
    assert (answer.status_code, answer.headers["content-type"]) == (404, "text/html; charset=utf-8")
    assert "<h1>" in answer.text
    assert "&#39;none&#39;" in answer.text
    assert service.get("/ui/runs/none").json()["type"] == "/problems/run-not-found"
    assert service.get("/runs/none", headers=PAGE).json()["type"] == "/problems/run-not-found"
    assert service.get("/ui/nowhere", headers=PAGE).status_code == 404
    assert service.get("/ui/?status=lost", headers=PAGE).status_code == 422


def test_the_root_leads_to_the_dashboard(service: httpx.Client) -> None:
    assert service.get("/").headers["location"] == "/ui/"
    assert service.get("/ui").headers["location"] == "/ui/"


def test_data_for_scripts_cannot_end_their_element() -> None:
    assert script_data({"a": "</script><!-- &"}) == '{"a":"\\u003c/script\\u003e\\u003c!-- \\u0026"}'


def test_a_link_leaves_out_what_is_not_said() -> None:
    assert link("/ui/", q="a b&c", tag="", status=None) == "/ui/?q=a+b%26c"
    assert link("/ui/", q=None) == "/ui/"


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (rendering.format_number(1281167), "1,281,167"),
        (rendering.format_number(None), "–"),
        (rendering.format_percent(0.4039), "40.4%"),
        (rendering.format_interval({"value": 0.4, "low": 0.384, "high": 0.45}), "38–45%"),
        (rendering.format_interval(None), "–"),
        (rendering.format_age(3), "just now"),
        (rendering.format_age(60), "1 minute ago"),
        (rendering.format_age(7201), "2 hours ago"),
        (rendering.format_age(200_000), "2 days ago"),
        (rendering.format_time(0), "1970-01-01 00:00 UTC"),
        (rendering.format_iso_time(0), "1970-01-01T00:00:00+00:00"),
        (rendering.format_count(1, "round"), "1 round"),
        (rendering.format_count(2000, "round"), "2,000 rounds"),
    ],
)
def test_numbers_are_written_as_people_read_them(shown: str, text: str) -> None:
    assert shown == text
