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


def test_every_setting_is_described() -> None:
    assert all(field.description for field in Settings.model_fields.values())


def test_an_application_needs_a_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MILD_STORE_URL", raising=False)
    with pytest.raises(ConfigurationError, match="--embedded"):
        create_app(Settings())
