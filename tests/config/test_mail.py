"""A folder of mail templates is read when the configuration is, so that no mail meets a mistake first."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from gateway.config import load
from gateway.config.errors import ConfigError
from tests.cli.test_installation import ROUTES, SECRETS


def test_template_that_cannot_be_read_is_named_with_its_line(tmp_path: Path) -> None:
    mails = tmp_path / "mails"
    mails.mkdir()
    (tmp_path / "gateway.yaml").write_text(f"{ROUTES}\nmail: {{templates: {mails}}}\n")
    (mails / "payment.failed.txt").write_text("Failed\n\n{{ amount }}\n")
    assert load(tmp_path / "gateway.yaml", SECRETS).mail.templates == mails
    (mails / "payment.failed.txt").write_text("Failed\n\n{{ amount \n")
    with pytest.raises(ConfigError, match=r"payment\.failed\.txt, line 3"):
        load(tmp_path / "gateway.yaml", SECRETS)


def test_templates_that_are_nowhere_are_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "gateway.yaml").write_text(f"{ROUTES}\nmail: {{templates: {tmp_path}/gone}}\n")
    with pytest.raises(ConfigError, match="must be the path of a folder"):
        load(tmp_path / "gateway.yaml", SECRETS)


@pytest.mark.parametrize("setting", ["mail: {templates: %s}", "portal: {logo: %s/logo.svg}"])
@pytest.mark.parametrize("folder", ["a" * 300, "unreadable"])
def test_files_that_cannot_be_read_are_a_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str, folder: str
) -> None:
    (tmp_path / "unreadable").mkdir()
    for name in ("logo.svg", "payment.failed.txt"):
        (tmp_path / "unreadable" / name).touch()
    (tmp_path / "gateway.yaml").write_text(f"{ROUTES}\n{setting % (tmp_path / folder)}\n")
    opened = io.open

    def refusing(file: object, *arguments: object, **options: object) -> object:
        if "unreadable" in str(file):
            raise PermissionError(13, "Permission denied", str(file))
        return opened(file, *arguments, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(io, "open", refusing)
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "gateway.yaml", SECRETS)


@pytest.mark.parametrize(
    "sender",
    [
        *("Acme, Inc. <noreply@acme.test>", "noreply", "Acme <>", "a@acme.test, b@acme.test"),
        *("Acme: noreply@acme.test;", "Acme: <noreply@acme.test>", "Acme: Billing <noreply@acme.test>;"),
    ],
)
def test_sender_that_is_not_one_address_is_a_mistake(tmp_path: Path, sender: str) -> None:
    with pytest.raises(ConfigError, match=r"mail\.from: must be one address"):
        load(None, SECRETS | {"GATEWAY_MAIL__FROM": sender, "GATEWAY_DATA_DIR": str(tmp_path)}, persist_secrets=False)


@pytest.mark.parametrize("sender", ["gateway@localhost", '"Acme, Inc.: 1;2" <noreply@acme.test>', "Café <n@acme.test>"])
def test_sender_may_have_a_name(tmp_path: Path, sender: str) -> None:
    environ = SECRETS | {"GATEWAY_MAIL__FROM": sender, "GATEWAY_DATA_DIR": str(tmp_path)}
    assert load(None, environ, persist_secrets=False).mail.sender == sender
