import pytest
from pydantic import ValidationError

from mild_service.app import create_app
from mild_service.config import Settings
from mild_service.errors import ConfigurationError


def test_settings_come_from_the_environment_and_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILD_MAX_SAMPLES", "77")
    settings = Settings()
    assert settings.max_samples == 77
    with pytest.raises(ValidationError):
        settings.max_samples = 78  # type: ignore[misc]  # it is frozen


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.setenv(f"MILD_{name.upper()}", "")
    assert Settings(store_url="redis://localhost") == Settings.model_construct(
        **{name: field.get_default(call_default_factory=True) for name, field in Settings.model_fields.items()}
    ).model_copy(update={"store_url": "redis://localhost"})


def test_every_setting_is_described() -> None:
    assert all(field.description for field in Settings.model_fields.values())


def test_an_application_needs_a_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MILD_STORE_URL", raising=False)
    with pytest.raises(ConfigurationError, match="--embedded"):
        create_app(Settings())


def test_links_of_kubernetes_and_docker_are_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "MILD_PORT": "tcp://10.96.0.7:80",
        "MILD_SERVICE_HOST": "10.96.0.7",
        "MILD_SERVICE_PORT": "80",
        "MILD_SERVICE_PORT_HTTP": "80",
        "MILD_PORT_80_TCP": "tcp://10.96.0.7:80",
        "MILD_PORT_80_TCP_PROTO": "tcp",
        "MILD_PORT_80_TCP_PORT": "80",
        "MILD_PORT_80_TCP_ADDR": "10.96.0.7",
        "MILD_STORE_PORT": "tcp://10.96.0.8:6379",
        "MILD_STORE_SERVICE_HOST": "10.96.0.8",
    }.items():
        monkeypatch.setenv(name, value)
    assert Settings() == Settings(port=8000)
    assert Settings(port=81).port == 81
    monkeypatch.setenv("MILD_PORT", "http://10.96.0.7")
    with pytest.raises(ValidationError, match="port"):
        Settings()
