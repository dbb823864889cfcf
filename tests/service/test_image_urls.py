import pytest

from mild_core.errors import ParameterError
from mild_service.image_urls import check_image_url, fill_image_url, find_image_origin


@pytest.mark.parametrize(
    ("template", "origin"),
    [
        ("https://images.example/{id}.png", "https://images.example"),
        ("https://images.example:8443/a/{index}.jpg?size=64", "https://images.example:8443"),
        ("http://localhost:9000/{index}.png", "http://localhost:9000"),
        ("http://127.0.0.1/{id}", "http://127.0.0.1"),
        ("http://[::1]:80/{id}", "http://[::1]:80"),
        ("/pictures/{index}.png", None),
    ],
)
def test_an_address_is_taken_with_its_origin(template: str, origin: str | None) -> None:
    assert check_image_url(template) == template
    assert find_image_origin(template) == origin


@pytest.mark.parametrize(
    "template",
    [
        "http://images.example/{id}.png",
        "http://10.0.0.1/{id}.png",
        "//images.example/{id}.png",
        "javascript:alert({index})",
        "data:image/png;base64,{id}",
        "https://images.example/all.png",
        "https://images.example/{name}.png",
        "https://{id}.example/a.png",
        "https://user:secret@images.example/{id}.png",
        "https://images.example; script-src *;/{id}.png",
        "https://images.example/{id} 'unsafe-inline'",
        "https://*.example/{id}.png",
        "https://[::1/{id}.png",
        "https:///{id}.png",
        "https://images.example/{id}\n.png",
        "https://images.example/{id}" + "a" * 500,
    ],
)
def test_what_could_widen_the_policy_or_leads_nowhere_is_refused(template: str) -> None:
    with pytest.raises(ParameterError, match="picture_url"):
        check_image_url(template)


def test_ids_cannot_leave_their_place() -> None:
    template = "https://images.example/{id}.png?i={index}"
    assert fill_image_url(template, 7, "cat/1 ?#&") == "https://images.example/cat/1%20%3F%23%26.png?i=7"
    assert fill_image_url(template, 7, None) is None
    assert fill_image_url(None, 7, "a") is None
    assert fill_image_url("/p/{index}.png", 7, None) == "/p/7.png"
