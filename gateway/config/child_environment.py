"""The environment of child processes, from which they load the same configuration.

It holds resolved stores and secrets: the URL of a database, not the word `embedded`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from gateway.config.model import Config
from gateway.config.secrets import ADMIN_TOKEN, JWT_SECRET, KEY_PEPPER

# By the first password's 19 MiB (argon2id) glibc would learn to keep that much in each thread (mallopt(3),
# "M_MMAP_THRESHOLD"). A threshold that is set stays as it is, and memory that is not needed goes back.
MMAP_THRESHOLD = {"MALLOC_MMAP_THRESHOLD_": str(1024 * 1024)}

METRICS_DIR = "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client reads it on import


def environment(
    config: Config,
    *,
    database_url: str,
    redis_url: str,
    metrics_dir: str,
    settings: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """The environment of this process with the resolved values; `settings` are more variables by full name."""
    secrets = config.secrets
    return {
        **MMAP_THRESHOLD,
        **os.environ,
        "GATEWAY_DATABASE__URL": database_url,
        "GATEWAY_REDIS__URL": redis_url,
        "GATEWAY_DATA_DIR": str(config.data_dir),
        ADMIN_TOKEN: secrets.admin_token,
        KEY_PEPPER: ",".join(f"{version}:{pepper}" for version, pepper in secrets.key_peppers.items()),
        JWT_SECRET: secrets.jwt_secret,
        METRICS_DIR: metrics_dir,
        **(settings or {}),
    }
