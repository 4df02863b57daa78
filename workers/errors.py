"""Why a worker is not launched."""

from __future__ import annotations

from proxy.errors import SettingsError


class ConfigurationError(SettingsError):
    """A worker cannot be launched as it is set; the message names the setting and says what to do."""
