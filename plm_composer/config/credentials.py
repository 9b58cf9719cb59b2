"""Keeps credentials out of a run's config, which is stored in the run folder, checkpoints and the model card."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from plm_composer.errors import UserError

_SECRET_WORDS = {
    "apikey", "auth", "credential", "credentials", "key", "keys", "passphrase", "passwd", "password", "pat", "pwd",
    "secret", "secrets", "token",
}  # fmt: skip
_SECRET_KEYS = _SECRET_WORDS - {"auth", "key", "keys", "pat"} | {"api_key", "access_key", "private_key", "secret_key"}
_FROM_ENVIRONMENT = re.compile(r"oc\.env\s*:\s*['\"]?(\w+)")
_USER_AND_PASSWORD = re.compile(r"://[^/\s@:]*:[^/\s@]+@")
_SHORTEST = 8
"""Minimum characters of a secret that is searched for inside longer texts: a value such as `1` occurs in many."""


def refuse_credentials(config: Mapping[str, Any], environment: Mapping[str, str], source: str) -> None:
    """Refuses a config that holds a secret.

    Secrets are the value of an environment variable whose name contains a word such as KEY, TOKEN or PASSWORD, a URL
    with a user and a password, and a text under a key such as ``api_key``. The libraries that need secrets read them
    from the environment themselves.

    Args:
        config: Nested keys and values; interpolations may be resolved or not.
        environment: Environment variable to value.
        source: The config's file, for the message.

    Raises:
        UserError: The config holds a secret. The message names the first secret's key, but not the secret.
    """
    secrets = {name: value for name, value in environment.items() if is_secret_name(name) and value.strip()}
    for key, text in texts(config):
        reason = _find(key, text, secrets)
        if reason is not None:
            raise UserError(
                f"{source}: {key} {reason}, and a config is kept in the run folder, in checkpoints and on model cards; "
                "leave it out: wandb, boto3 and others read their credentials from the environment themselves"
            )


def is_secret_name(name: str) -> bool:
    """Whether an environment variable's name says that its value is secret."""
    return name != "PWD" and not _SECRET_WORDS.isdisjoint(name.lower().split("_"))


def _find(key: str, text: str, secrets: Mapping[str, str]) -> str | None:
    for name in _FROM_ENVIRONMENT.findall(text):
        if is_secret_name(name):
            return f"takes the secret of the environment variable {name}"
    for name, value in secrets.items():
        if value == text or (len(value) >= _SHORTEST and value in text):
            return f"holds the value of the environment variable {name}"
    if _USER_AND_PASSWORD.search(text):
        return "holds a URL with a password"
    last = key.rsplit(".", 1)[-1].lower()
    if text and any(last == secret or last.endswith(f"_{secret}") for secret in _SECRET_KEYS):
        return "is a secret by its name"
    return None


def texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yields the dotted key and the text of all texts in nested mappings and lists; names of keys are texts too."""
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield key or str(name), str(name)
            yield from texts(part, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for index, part in enumerate(value):
            yield from texts(part, f"{key}[{index}]")
    elif isinstance(value, str):
        yield key, value
