from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest

from gateway.config import Config, ConfigError, load
from gateway.config.secrets import COMMAND

SECRETS = {"GATEWAY_ADMIN_TOKEN": "a" * 32, "GATEWAY_KEY_PEPPER": "p" * 32, "GATEWAY_JWT_SECRET": "j" * 32}
MINE, KEPT, NEW = "mine" * 4, "kept" * 8, "new" * 6
PRODUCTION = {"GATEWAY_DATABASE__URL": "postgresql://h/x", "GATEWAY_REDIS__URL": "redis://h"}


def load_with(data_dir: Path, environ: dict[str, str], *, persist_secrets: bool = True) -> Config:
    return load(None, environ, overrides={"data_dir": str(data_dir)}, persist_secrets=persist_secrets)


def test_embedded_stores_generate_missing_secrets_once(tmp_path: Path) -> None:
    first = load_with(tmp_path / "new" / "dir", {})
    second = load_with(tmp_path / "new" / "dir", {})

    assert first.secrets == second.secrets
    values = [first.secrets.admin_token, first.secrets.key_peppers[1], first.secrets.jwt_secret]
    assert len(set(values)) == 3
    assert min(len(value) for value in values) >= 32


def test_secrets_file_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    load_with(tmp_path / "data", {})

    assert stat.S_IMODE((tmp_path / "data" / "secrets.json").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700


def test_environment_outranks_stored_secrets_without_replacing_them(tmp_path: Path) -> None:
    kept = load_with(tmp_path, {}).secrets

    given = load_with(tmp_path, {"GATEWAY_ADMIN_TOKEN": MINE}).secrets

    assert given.admin_token == MINE
    assert given.jwt_secret == kept.jwt_secret
    assert load_with(tmp_path, {}).secrets == kept


def test_secrets_combine_given_stored_and_new_ones(tmp_path: Path) -> None:
    (tmp_path / "secrets.json").write_text(json.dumps({"GATEWAY_ADMIN_TOKEN": "kept" * 4, "GATEWAY_JWT_SECRET": KEPT}))

    found = load_with(tmp_path, {"GATEWAY_ADMIN_TOKEN": MINE}).secrets

    assert (found.admin_token, found.jwt_secret) == (MINE, KEPT)
    written = json.loads((tmp_path / "secrets.json").read_text())
    assert written == {
        "GATEWAY_ADMIN_TOKEN": "kept" * 4,
        "GATEWAY_JWT_SECRET": KEPT,
        "GATEWAY_KEY_PEPPER": found.key_peppers[1],
    }


def test_given_secrets_are_not_stored(tmp_path: Path) -> None:
    load_with(tmp_path, {"GATEWAY_ADMIN_TOKEN": MINE})

    assert set(json.loads((tmp_path / "secrets.json").read_text())) == {"GATEWAY_KEY_PEPPER", "GATEWAY_JWT_SECRET"}


# Many rounds, because one may by chance not be close: with the lock none can differ, without it some do.
RACER = """
import sys
from pathlib import Path
from gateway.config import load
print("ready", flush=True)
sys.stdin.read()
for number in range(30):
    data_dir = Path(sys.argv[1]) / str(number)
    print(load(None, {}, overrides={"data_dir": str(data_dir)}).secrets.key_peppers[1])
"""


def test_processes_that_start_together_agree_on_one_set(tmp_path: Path) -> None:
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.close()
    answers = []
    for racer in racers:
        assert racer.stdout is not None
        with racer.stdout:
            answers.append(racer.stdout.read().split())
        assert racer.wait(30) == 0

    assert len(answers[0]) == len(set(answers[0])) == 30
    assert answers[0] == answers[1] == answers[2]


def test_secrets_without_persist_leave_no_file(tmp_path: Path) -> None:
    load_with(tmp_path / "data", {}, persist_secrets=False)

    assert not (tmp_path / "data").exists()


def test_invalid_configuration_stores_no_secrets(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        load_with(tmp_path / "data", {"GATEWAY_UPSTREAMS__AI__RETRIES": "1"})

    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("content", ["{", "[]", '{"GATEWAY_ADMIN_TOKEN": 5}', '{"GATEWAY_ADMIN_TOKEN": ""}'])
def test_damaged_secrets_file_is_an_error_and_never_replaced(tmp_path: Path, content: str) -> None:
    file = tmp_path / "secrets.json"
    file.write_text(content)

    with pytest.raises(ConfigError, match=r"secrets\.json"):
        load_with(tmp_path, {})

    assert file.read_text() == content


def test_data_dir_that_cannot_be_made_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    for data_dir in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nowhere")):
        with pytest.raises(ConfigError, match=str(data_dir)):
            load_with(data_dir, {})


def test_configured_stores_need_every_secret_and_generate_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_with(tmp_path / "data", {**PRODUCTION, "GATEWAY_JWT_SECRET": " "})

    assert {problem.key for problem in caught.value.problems} == set(SECRETS)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("role", "used"),
    [
        ("proxy", {"GATEWAY_KEY_PEPPER", "GATEWAY_JWT_SECRET"}),
        ("admin", {"GATEWAY_ADMIN_TOKEN", "GATEWAY_KEY_PEPPER"}),
        ("worker", {"GATEWAY_KEY_PEPPER", "GATEWAY_JWT_SECRET"}),
        (COMMAND, {"GATEWAY_KEY_PEPPER"}),
    ],
)
def test_role_asks_for_the_secrets_that_it_uses_and_has_no_other(tmp_path: Path, role: str, used: set[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(None, PRODUCTION, roles=(role,))
    assert {problem.key for problem in caught.value.problems} == used

    given = {name: value for name, value in SECRETS.items() if name in used}
    unread = {f"{name}_FILE": str(tmp_path / "none") for name in set(SECRETS) - used}
    assert load(None, PRODUCTION | given | unread, roles=(role,)).secrets.required == given
    assert load(None, PRODUCTION | SECRETS, roles=(role,)).secrets.required == given


def test_schema_is_migrated_without_a_secret() -> None:
    assert load(None, PRODUCTION, roles=()).secrets.required == {}


def test_only_proxies_need_the_credentials_of_upstreams(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text("upstreams: {ai: {targets: ['http://h'], headers: {authorization: 'Bearer ${AI_KEY}'}}}")
    with pytest.raises(ConfigError, match="AI_KEY"):
        load(file, PRODUCTION | SECRETS, roles=("proxy",))
    for role in ("admin", "worker", COMMAND):
        assert load(file, PRODUCTION | SECRETS, roles=(role,)).upstreams[0].name == "ai"


def test_payment_providers_are_optional(tmp_path: Path) -> None:
    found = load_with(tmp_path, {**PRODUCTION, **SECRETS}).secrets

    assert {provider.api_key for provider in found.providers.values()} == {None}
    assert {provider.webhook_secrets for provider in found.providers.values()} == {()}


def test_comma_separates_webhook_secrets_during_rotation(tmp_path: Path) -> None:
    environ = {**SECRETS, "STRIPE_WEBHOOK_SECRET": "new, old", "LEMON_SQUEEZY_WEBHOOK_SECRET": "one"}

    found = load_with(tmp_path, environ).secrets

    assert found.providers["stripe"].webhook_secrets == ("new", "old")
    assert found.providers["lemon_squeezy"].webhook_secrets == ("one",)


@pytest.mark.parametrize(
    ("written", "peppers", "current"),
    [
        (NEW, {1: NEW}, 1),
        (f"with:{NEW}", {1: f"with:{NEW}"}, 1),
        (f"2:{NEW},1:old", {2: NEW, 1: "old"}, 2),
        (f"1:old, 10:{NEW}", {1: "old", 10: NEW}, 10),
    ],
)
def test_peppers_have_versions_of_which_the_highest_is_current(
    tmp_path: Path, written: str, peppers: dict[int, str], current: int
) -> None:
    found = load_with(tmp_path, {**SECRETS, "GATEWAY_KEY_PEPPER": written}).secrets

    assert found.key_peppers == peppers
    assert found.pepper_version == current


@pytest.mark.parametrize("written", ["2:new,old", "1:one,1:two", "two,parts", ","])
def test_peppers_with_unclear_versions_are_refused(tmp_path: Path, written: str) -> None:
    with pytest.raises(ConfigError, match=r"GATEWAY_KEY_PEPPER: must give each secret a version"):
        load_with(tmp_path, {**SECRETS, "GATEWAY_KEY_PEPPER": written})


@pytest.mark.parametrize("written", ["whsec_", "whsec_!!!", "whsec_ü", f"whsec_{'bmV3' * 8},whsec_"])
def test_webhook_secret_without_a_key_is_refused(tmp_path: Path, written: str) -> None:
    with pytest.raises(ConfigError, match=r"GATEWAY_WEBHOOK_SECRET: must have base64 after `whsec_`"):
        load_with(tmp_path, {**SECRETS, "GATEWAY_WEBHOOK_SECRET": written})


def test_short_secrets_are_refused_by_name(tmp_path: Path) -> None:
    short = {"GATEWAY_ADMIN_TOKEN": "a" * 15, "GATEWAY_KEY_PEPPER": f"2:short,1:{NEW}", "GATEWAY_JWT_SECRET": "j" * 31}
    for given in (PRODUCTION | short, short):
        with pytest.raises(ConfigError) as caught:
            load_with(tmp_path, given)
        assert {problem.key for problem in caught.value.problems} == set(SECRETS)
        assert not any(secret in str(caught.value) for secret in short.values())
    load_with(
        tmp_path, {"GATEWAY_ADMIN_TOKEN": "a" * 16, "GATEWAY_KEY_PEPPER": "p" * 16, "GATEWAY_JWT_SECRET": "j" * 32}
    )


def test_secrets_and_passwords_may_be_in_files(tmp_path: Path) -> None:
    files = {"GATEWAY_KEY_PEPPER": "f" * 32, "GATEWAY_DATABASE__PASSWORD": "ab/cd+e=", "GATEWAY_REDIS__PASSWORD": "a#b"}
    environ = SECRETS | {"GATEWAY_DATABASE__URL": "postgresql://ada@h/x", "GATEWAY_REDIS__URL": "redis://h:6379/0"}
    del environ["GATEWAY_KEY_PEPPER"]
    for name, content in files.items():
        (tmp_path / name).write_text(f"{content}\n")
        environ[f"{name}_FILE"] = str(tmp_path / name)

    found = load_with(tmp_path, environ)

    assert found.secrets.key_peppers == {1: "f" * 32}
    assert found.database.url == "postgresql://ada:ab%2Fcd%2Be%3D@h/x"
    assert found.redis.url == "redis://:a%23b@h:6379/0"
    assert "ab/cd" not in repr(found)
    assert load_with(tmp_path, environ | {"GATEWAY_KEY_PEPPER": "v" * 32}).secrets.key_peppers == {1: "v" * 32}


def test_byte_order_mark_is_no_part_of_what_a_file_holds(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{MINE}\r\n", "utf-8-sig")
    (tmp_path / "secrets.json").write_text(json.dumps({"GATEWAY_JWT_SECRET": KEPT}), "utf-8-sig")

    found = load_with(tmp_path, {"GATEWAY_ADMIN_TOKEN_FILE": str(tmp_path / "token")}).secrets

    assert (found.admin_token, found.jwt_secret) == (MINE, KEPT)


def test_secret_whose_file_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"GATEWAY_ADMIN_TOKEN_FILE.*cannot be read"):
        load_with(tmp_path, {"GATEWAY_ADMIN_TOKEN_FILE": str(tmp_path / "none")})


@pytest.mark.parametrize("password", ["+123456", "~", "null", "true", "1.50", "{abc}", "[abc]", " a b "])
def test_password_of_a_store_is_taken_as_it_is_written(tmp_path: Path, password: str) -> None:
    environ = SECRETS | {"GATEWAY_DATABASE__URL": "postgresql://ada@h/x", "GATEWAY_DATABASE__PASSWORD": password}
    found = load_with(tmp_path, environ)
    assert found.database.url == f"postgresql://ada:{quote(password, safe='')}@h/x"
