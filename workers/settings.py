"""Settings of `pd-worker`: flags, then PD_WORKER_* variables, then a TOML file, then defaults."""

from __future__ import annotations

import argparse
import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    CliApp,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from proxy import errors
from proxy.discovery.etcd import EtcdRules
from workers.engine.config import EngineConfig

_PROGRAM = "pd-worker"


class WorkerSettings(BaseSettings, EngineConfig):
    """Runs one worker: an SGLang engine, and its place in the registry.

    `--engine simulated` behaves as an SGLang server without a GPU: same routes, same errors, a real bootstrap
    handshake between prefill and decode, faults on demand at /simulate/faults.
    """

    model_config = SettingsConfigDict(
        env_prefix="PD_WORKER_",
        cli_prog_name=_PROGRAM,
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_avoid_json=True,
        extra="forbid",
        frozen=True,
    )

    engine: Literal["simulated", "sglang"] = Field(default="simulated", description="what serves")
    config: Path | None = Field(
        default=None, description="TOML file with these settings, names with underscores"
    )
    incremental_streaming_output: bool = Field(
        default=False,
        validation_alias=AliasChoices("incremental_streaming_output", "stream_output"),
        description="stream disjoint deltas on /generate (0.5.2 calls it --stream-output)",
    )
    bootstrap_port: int = Field(
        default=0,
        ge=0,
        le=65535,
        validation_alias=AliasChoices("bootstrap_port", "disaggregation_bootstrap_port"),
        description="prefill: port of the bootstrap server; 0 takes any free one",
    )
    worker_id: str | None = Field(default=None, description="name in the registry; by default role-host-port")
    etcd_endpoints: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="etcd URLs, separated by commas; none: the worker is not registered"
    )
    etcd_user: str | None = Field(default=None, description="user of etcd")
    etcd_password: str | None = Field(default=None, description="password of etcd")
    etcd_cafile: str | None = Field(default=None, description="PEM of etcd's authority")
    etcd_certfile: str | None = Field(default=None, description="PEM of the client's certificate for etcd")
    etcd_keyfile: str | None = Field(default=None, description="PEM of its key")
    registry_root: str = Field(default="pd", description="root of the keys in etcd")
    registry_ttl_s: int = Field(default=15, ge=2, description="seconds that the key outlives the worker")

    @field_validator("etcd_endpoints", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags come before all of these; `init_settings` is the file."""
        return env_settings, init_settings

    def engine_config(self) -> EngineConfig:
        """What of it is the engine's."""
        return EngineConfig(**{name: getattr(self, name) for name in EngineConfig.model_fields})

    def etcd_rules(self) -> EtcdRules | None:
        """None: the worker is not registered.

        Raises:
            ValueError: an endpoint is no URL, or half a pair of settings is missing.
        """
        if not self.etcd_endpoints:
            return None
        return EtcdRules(
            endpoints=self.etcd_endpoints,
            user=self.etcd_user,
            password=self.etcd_password,
            cafile=self.etcd_cafile,
            certfile=self.etcd_certfile,
            keyfile=self.etcd_keyfile,
        )


def _file(arguments: list[str]) -> dict[str, Any]:
    """What the file says that `--config` or PD_WORKER_CONFIG names; nothing without one."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config", default=os.environ.get("PD_WORKER_CONFIG"))
    named = finder.parse_known_args(arguments)[0].config
    if named is None:
        return {}
    try:
        return tomllib.loads(Path(named).read_text())
    except OSError as error:
        raise errors.SettingsError(f"config: cannot read {named}: {error.strerror}") from None
    except tomllib.TOMLDecodeError as error:
        raise errors.SettingsError(f"config: {named} is not TOML: {error}") from None


def read_settings(arguments: list[str]) -> WorkerSettings:
    """The settings of this run.

    Raises:
        errors.SettingsError: one is wrong; the message names it, one line each.
        SystemExit: `--help`, or a flag that does not exist.
    """
    try:
        return CliApp.run(WorkerSettings, cli_args=arguments, **_file(arguments))
    except ValidationError as error:
        lines = [
            f"{'.'.join(map(str, one['loc'])) or 'settings'}: {one['msg']} (got {one['input']!r})"
            for one in error.errors()
        ]
        raise errors.SettingsError("\n".join(lines)) from None
    except (SettingsError, ValueError) as error:
        raise errors.SettingsError(str(error)) from None
