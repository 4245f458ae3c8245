from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from dataclasses import FrozenInstanceError
from decimal import Decimal
from pathlib import Path
from textwrap import dedent

import pytest

from gateway.config import Address, Config, ConfigError, ConfigProblem, load
from gateway.config.operation.records import Bucket
from gateway.config.secrets import COMMAND
from policies.billing.money import CreditValue
from policies.pricing.price import Price

ROOT = Path(__file__).parents[2]
SECRETS = {"GATEWAY_ADMIN_TOKEN": "a" * 32, "GATEWAY_KEY_PEPPER": "p" * 32, "GATEWAY_JWT_SECRET": "j" * 32}
Load = Callable[..., Config]


@pytest.fixture
def load_text(tmp_path: Path) -> Load:
    def load_it(text: str, environ: Mapping[str, str] | None = None, **overrides: object) -> Config:
        file = tmp_path / "gateway.yaml"
        file.write_text(dedent(text), "utf-8")
        return load(file, {**SECRETS, **(environ or {})}, overrides=overrides)

    return load_it


@pytest.fixture
def problems_of(load_text: Load) -> Callable[..., list[ConfigProblem]]:
    def find(text: str, environ: Mapping[str, str] | None = None) -> list[ConfigProblem]:
        with pytest.raises(ConfigError) as caught:
            load_text(text, environ)
        return list(caught.value.problems)

    return find


Problems = Callable[..., list[ConfigProblem]]


def test_empty_file_is_the_defaults_without_routes(load_text: Load) -> None:
    config = load_text("")

    assert config.server.public == Address("0.0.0.0", 8080)
    assert config.redis.partitions == 64
    assert config.routes == ()
    assert [plan.id for plan in config.plans] == ["free", "basic", "pro", "enterprise"]


def test_credits_are_shown_as_money_where_they_are_valued(load_text: Load) -> None:
    config = load_text("credits: {shown_as: {currency: USD, per_unit: 100000}}")

    assert config.credits.money == CreditValue("USD", Decimal(100000))
    assert load_text("").credits.money is None


def test_credits_that_are_worth_nothing_cannot_be_shown(problems_of: Problems) -> None:
    (problem,) = problems_of("credits: {shown_as: {currency: USD, per_unit: 0}}")

    assert (problem.key, problem.message) == (
        "credits.shown_as.per_unit",
        "must be above 0: how many credits one unit of the currency is",
    )


def test_origins_are_spelt_as_browsers_spell_them(load_text: Load) -> None:
    written = "[https://App.Example.com:443, 'http://localhost:3000', 'http://[::1]:80', capacitor://localhost]"
    origins = load_text(f"server: {{cors: {{origins: {written}}}}}").server.cors.origins

    assert origins == ("https://app.example.com", "http://localhost:3000", "http://[::1]", "capacitor://localhost")


@pytest.mark.parametrize(
    "origin", ["*", "null", "app.example.com", "https://app.example.com/", "https://*.example.com"]
)
def test_origin_that_is_not_exact_is_refused(problems_of: Problems, origin: str) -> None:
    (problem,) = problems_of(f"server: {{cors: {{origins: ['{origin}']}}}}")

    assert problem.key == "server.cors.origins"


@pytest.mark.parametrize(
    ("written", "cores"), [("0", (0,)), ("[2, 0, 2]", (0, 2)), ("'0,1'", (0, 1)), ("[]", ())], ids=str
)
def test_cores_are_read_once_each(load_text: Load, written: str, cores: tuple[int, ...]) -> None:
    assert load_text(f"server: {{worker_cores: {written}}}").server.worker_cores == cores


@pytest.mark.parametrize("written", ["[true]", "true", "[-1]", "-1", "[one]", "[1.5]", "{0: 1}", "[[0]]"])
def test_core_that_is_no_number_is_refused(problems_of: Problems, written: str) -> None:
    (problem,) = problems_of(f"server: {{worker_cores: {written}}}")

    assert problem.key == "server.worker_cores"


def test_missing_default_file_is_an_empty_file(tmp_path: Path, load_text: Load) -> None:
    without = load(None, SECRETS, overrides={"data_dir": str(tmp_path)})
    empty = load_text("", data_dir=str(tmp_path))

    assert without.path is None
    assert without.server == empty.server
    assert without.plans == empty.plans


def test_key_without_a_value_means_the_default(load_text: Load) -> None:
    assert load_text("server:\n  workers:\nplans:\n").server.workers == 1


def test_example_in_the_repository_is_valid_and_uses_only_defaults_outside_its_tables() -> None:
    config = load(ROOT / "gateway.yaml", SECRETS, persist_secrets=False)
    defaults = load(None, SECRETS, persist_secrets=False)

    assert [route.name for route in config.routes] == [
        *("analyze", "generate", "chat", "responses", "embeddings", "messages"),
        *("gemini", "gemini_stream", "gemini_v1", "gemini_v1_stream"),
        *("models", "model", "gemini_models", "gemini_model"),
    ]
    assert (config.server, config.database, config.redis) == (defaults.server, defaults.database, defaults.redis)
    assert (config.keys, config.principals, config.billing) == (defaults.keys, defaults.principals, defaults.billing)


def test_quantities_become_plain_numbers_with_their_unit_in_the_name(load_text: Load) -> None:
    config = load_text("""
        server: {max_header_bytes: 1MB, header_timeout: 1.5s, drain_timeout: 0}
        redis: {timeout: 250ms}
        principals: {max_stale: 2h}
        billing: {past_due_grace: 3d}
    """)

    assert config.server.max_header_bytes == 1_000_000
    assert config.server.header_timeout_seconds == 1.5
    assert config.server.drain_timeout_seconds == 0
    assert config.redis.timeout_seconds == 0.25
    assert config.principals.max_stale_seconds == 7200
    assert config.billing.past_due_grace_seconds == 259200


def test_usage_is_kept_for_ever_by_default(load_text: Load) -> None:
    assert load_text("").usage.keep_months is None
    assert load_text("usage: {keep_months: 13}").usage.keep_months == 13
    assert load_text("", {"GATEWAY_USAGE__KEEP_MONTHS": "24"}).usage.keep_months == 24
    with pytest.raises(ConfigError, match=r"usage\.keep_months: must be at least 1, got 0"):
        load_text("usage: {keep_months: 0}")


def test_log_takes_known_fields_once_and_a_share(load_text: Load, problems_of: Problems) -> None:
    log = load_text("log: {level: warning, format: logfmt, fields: [status, client], successes: 0.1}").log
    assert (log.level_number, log.format, log.fields, log.successes) == (
        30,
        "logfmt",
        ("status", "client"),
        Decimal("0.1"),
    )
    assert load_text("").log.is_default_for_requests
    assert load_text("", {"GATEWAY_LOG__FIELDS": "status, path"}).log.fields == ("status", "path")
    for written in (
        "fields: [password]",
        "fields: []",
        "fields: [ms, ms]",
        "successes: 2",
        "level: loud",
        "format: xml",
    ):
        assert problems_of(f"log: {{{written}}}"), written


def test_archive_is_a_folder_for_months_that_are_dropped(load_text: Load, problems_of: Problems) -> None:
    kept = load_text("usage: {keep_months: 13, archive: archive}").usage
    assert kept.archive == Path("archive").absolute()
    assert load_text("usage: {keep_months: 13}").usage.archive is None
    assert "archive needs keep_months" in str(problems_of("usage: {archive: /var/archive}"))


def test_archive_is_a_bucket_of_s3_where_its_url_says_so(load_text: Load, problems_of: Problems) -> None:
    def written(url: str) -> str:
        return f"usage: {{keep_months: 13, archive: '{url}'}}"

    assert load_text(written("s3://usage/gateway/eu/")).usage.archive == Bucket("usage", "gateway/eu")
    assert [str(Bucket("usage", prefix)) for prefix in ("", "a/b")] == ["s3://usage", "s3://usage/a/b"]
    assert [Bucket("usage", prefix).key("x") for prefix in ("", "a/b")] == ["x", "a/b/x"]
    for url, problem in {
        "s3://": "names no bucket",
        "s3:///prefix": "names no bucket",
        "gs://usage/prefix": "must be the path of a folder, or s3://bucket/prefix",
        "s3://key:secret@usage/prefix": "credentials, region and endpoint are taken from AWS_* variables",
        "s3://usage/prefix?endpoint=http://127.0.0.1": "taken from AWS_* variables",
        "s3://usage//prefix": "must be s3://bucket/prefix",
        "s3://u": "must be s3://bucket/prefix",
    }.items():
        (found,) = problems_of(written(url))
        assert problem in str(found), url
        assert "secret" not in str(found)


@pytest.mark.parametrize("role", ["proxy", "admin", "worker"])
def test_only_workers_need_the_extra_of_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, role: str) -> None:
    monkeypatch.setattr("gateway.config.operation.records.find_spec", lambda name: None)  # noqa: ARG005 - as it is called
    file = tmp_path / "gateway.yaml"
    file.write_text("usage: {keep_months: 13, archive: 's3://usage'}")
    if role != "worker":
        assert load(file, SECRETS, roles=(role,)).usage.archive == Bucket("usage", "")
        return
    with pytest.raises(ConfigError, match="extra `s3`"):
        load(file, SECRETS, roles=(role,))


def test_parquet_archives_need_their_extra(
    load_text: Load, problems_of: Problems, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = "usage: {keep_months: 13, archive: archive, archive_format: parquet}"
    assert load_text(written).usage.archive_format == "parquet"
    assert "must be" in str(problems_of("usage: {archive_format: orc}"))
    assert "archive_format needs archive" in str(problems_of("usage: {keep_months: 13, archive_format: parquet}"))
    monkeypatch.setattr("gateway.config.operation.records.find_spec", lambda name: None)  # noqa: ARG005 - as it is called
    for setting, text in (("archive_format", written), ("sink", "usage: {sink: usage}")):
        (problem,) = problems_of(text)
        assert f"gateway.yaml:1: usage.{setting}: needs the extra `parquet`" in str(problem)


@pytest.mark.parametrize("role", ["proxy", "admin", "portal", COMMAND])
def test_only_workers_need_the_extra_of_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, role: str) -> None:
    monkeypatch.setattr("gateway.config.operation.records.find_spec", lambda name: None)  # noqa: ARG005 - as it is called
    file = tmp_path / "gateway.yaml"
    file.write_text("usage: {sink: usage}")
    assert load(file, SECRETS, roles=(role,)).usage.sink is not None
    with pytest.raises(ConfigError, match="extra `parquet`"):
        load(file, SECRETS, roles=("worker",))


def test_sink_of_usage_is_a_folder_and_off_by_default(load_text: Load, problems_of: Problems) -> None:
    assert load_text("").usage.sink is None
    assert load_text("usage: {sink: usage}").usage.sink == Path("usage").absolute()
    assert "mount a bucket" in str(problems_of("usage: {sink: 's3://bucket/usage'}"))


def test_both_listeners_may_leave_the_port_to_the_kernel(load_text: Load) -> None:
    server = load_text("server: {public: '127.0.0.1:0', admin: '127.0.0.1:0'}").server

    assert server.public == server.admin == Address("127.0.0.1", 0)


def test_config_is_frozen_and_can_be_pickled(load_text: Load) -> None:
    config = load_text("")

    assert pickle.loads(pickle.dumps(config)) == config  # noqa: S301 - our own bytes
    with pytest.raises(FrozenInstanceError):
        config.server.workers = 2  # type: ignore[misc]  # that it cannot be set is the point


def test_environment_outranks_the_file_and_arguments_outrank_both(load_text: Load) -> None:
    text = "server: {public: 127.0.0.1:1, admin: 127.0.0.1:2, workers: 3}"
    environ = {"GATEWAY_SERVER__PUBLIC": "[::1]:80", "GATEWAY_SERVER__ADMIN": "127.0.0.1:4"}

    server = load_text(text, environ, **{"server.admin": "127.0.0.1:5"}).server

    assert (str(server.public), str(server.admin), server.workers) == ("[::1]:80", "127.0.0.1:5", 3)


def test_every_kind_of_setting_can_come_from_the_environment(load_text: Load) -> None:
    text = """
        upstreams: {my-ai: {targets: [http://one], headers: {x-token: old}}}
        routes:
          - {name: chat-v1, match: {path: /chat}, upstream: my-ai, price: {credits: 1}}
        billing: {packs: [{id: big, name: Big, credits: 100, price: 5}]}
    """
    environ = {
        "GATEWAY_DATA_DIR": "/somewhere",
        "GATEWAY_SERVER__TRUSTED_PROXIES": '[10.0.0.0/8, "::1"]',
        "GATEWAY_UPSTREAMS__MY_AI__TARGETS": '["http://two:81", "https://three"]',
        "GATEWAY_UPSTREAMS__MY_AI__HEADERS__X_TOKEN": "new",
        "GATEWAY_ROUTES__CHAT_V1__PRICE__CREDITS": "0.5",
        "GATEWAY_ROUTES__0__MAX_BODY_BYTES": "1KiB",
        "GATEWAY_BILLING__PACKS__BIG__PRICE": "4.50",
    }

    config = load_text(text, environ)

    assert config.data_dir == Path("/somewhere")
    assert [str(network) for network in config.server.trusted_proxies] == ["10.0.0.0/8", "::1/128"]
    assert config.upstreams[0].targets == ("http://two:81", "https://three")
    assert config.upstreams[0].headers == {"x-token": "new"}
    assert config.routes[0].price == Price(Decimal("0.5"))
    assert config.routes[0].max_body_bytes == 1024
    assert config.billing.packs[0].price == Decimal("4.50")


def test_list_in_a_variable_may_be_parts_between_commas(load_text: Load) -> None:
    environ = {
        "GATEWAY_SERVER__TRUSTED_PROXIES": "10.0.0.0/8, ::1",
        "GATEWAY_SERVER__CORS__ORIGINS": "https://a.example.com, https://b.example.com",
        "GATEWAY_SERVER__ADMIN_HOSTS": "a.example.com,b.example.com",
        "GATEWAY_UPSTREAMS__AI__TARGETS": "http://one,http://two",
    }

    config = load_text("", environ)

    assert [str(network) for network in config.server.trusted_proxies] == ["10.0.0.0/8", "::1/128"]
    assert config.server.cors.origins == ("https://a.example.com", "https://b.example.com")
    assert config.server.admin_hosts == ("a.example.com", "b.example.com")
    assert config.upstreams[0].targets == ("http://one", "http://two")


def test_variables_of_a_platform_are_not_settings(load_text: Load) -> None:
    environ = {"GATEWAY_PORT": "tcp://10.0.0.1:80", "GATEWAY_SERVICE_HOST": "10.0.0.1", "GATEWAY_SERVER__WORKERS": ""}

    assert load_text("server: {workers: 2}", environ).server.workers == 2


def test_misspelt_variable_is_an_error_that_names_it(problems_of: Problems) -> None:
    (problem,) = problems_of("", {"GATEWAY_SERVER__PUBLIK": "127.0.0.1:1"})

    assert str(problem).startswith("GATEWAY_SERVER__PUBLIK: server.publik: unknown key 'publik'; did you mean public?")


def test_variable_below_a_value_or_past_a_list_is_an_error(problems_of: Problems) -> None:
    text = "server: {public: 127.0.0.1:1}\nplans: [{id: a, name: a, price: 0}]"
    variables = ("GATEWAY_PLANS__1__NAME", "GATEWAY_PLANS__B__NAME", "GATEWAY_SERVER__PUBLIC__PORT")

    found = problems_of(text, dict.fromkeys(variables, "1"))

    assert [(problem.origin.source, problem.message) for problem in found] == [
        ("GATEWAY_PLANS__1__NAME", "has no entry '1'"),
        ("GATEWAY_PLANS__B__NAME", "has no entry 'b'"),
        ("GATEWAY_SERVER__PUBLIC__PORT", "'port' stands under a value, not a section"),
    ]


def test_null_in_a_variable_restores_the_default(load_text: Load) -> None:
    text = "server: {workers: 2}\nplans: [{id: a, name: a, price: 0, max_api_calls_per_day: 5}]"

    config = load_text(text, {"GATEWAY_SERVER__WORKERS": "null", "GATEWAY_PLANS__A__MAX_API_CALLS_PER_DAY": "null"})

    assert config.server.workers == 1
    assert config.plans[0].max_api_calls_per_day is None


def test_problems_are_reported_together_each_with_its_line(problems_of: Problems) -> None:
    found = problems_of("""\
        server:
          publik: 127.0.0.1:80
          workers: 0
        upstreams:
          ai: {targets: [ftp://x]}
        routes:
          - name: one
            match: {path: /a/../b}
            upstream: nowhere
            price: {credits: 1}
          - name: two
            match: {path: /x}
            upstream: nowhere
            price: {credits: 1}
        colour: red
    """)

    assert [(problem.origin.line, problem.key) for problem in found] == [
        (2, "server.publik"),
        (3, "server.workers"),
        (5, "upstreams.ai.targets[0]"),
        (8, "routes[0].match.path"),
        (9, "routes[0].upstream"),
        (13, "routes[1].upstream"),
        (15, "colour"),
    ]
    assert "known upstreams: ai" in found[5].message


def test_mistake_in_an_entry_hides_none_beside_it(problems_of: Problems) -> None:
    found = problems_of("""\
        upstreams: {ai: {retires: 2, headers: {x: "${NO_SUCH}"}}}
        routes: [{name: chat, upstream: a1, match: {path: v1}, price: {credits: -1}}]
    """)

    assert {problem.key for problem in found} == {
        "upstreams.ai.retires",
        "upstreams.ai.targets",
        "upstreams.ai.headers.x",
        "routes[0].upstream",
        "routes[0].match.path",
        "routes[0].price.credits",
    }


@pytest.mark.parametrize(
    ("text", "line", "key", "message"),
    [
        ("sever: {}", 1, "sever", "did you mean server?"),
        ("redis:\n  time_out: 1s", 2, "redis.time_out", "did you mean timeout?"),
        (
            "billing:\n  packs:\n    - {id: a, name: b, price: 1, credits: 1,\n      curency: b}",
            4,
            "billing.packs[0].curency",
            "did you mean currency?",
        ),
        ("server: {workers: true}", 1, "server.workers", "must be a whole number, got True"),
        ("server: {workers: 1.5}", 1, "server.workers", "must be a whole number, got 1.5"),
        ("billing: {tax_rate: 0.0000000000001}", 1, "billing.tax_rate", "may have 12 digits before the point and 12"),
        ("server: {workers: two}", 1, "server.workers", "must be a whole number, got 'two'"),
        ("server: [1]", 1, "server", "must be a mapping"),
        ("redis: {partitions: 0}", 1, "redis.partitions", "must be at least 1, got 0"),
        (
            "redis: {on_outage: panic}",
            1,
            "redis.on_outage",
            "must be refuse, or {float: N} with N credits, got 'panic'",
        ),
        ("redis: {timeout: 0}", 1, "redis.timeout", "longer than 0"),
        ("redis: {url: memcached://x}", 1, "redis.url", "rediss://"),
        ("redis: {url: 'redis+cluster://a:1,'}", 1, "redis.url", "host:port, separated by commas"),
        ("redis: {url: 'redis+cluster://:secret@/0'}", 1, "redis.url", "host:port, separated by commas"),
        ("redis: {url: 'rediss+cluster://a:1,b:2/3'}", 1, "redis.url", "no database but 0"),
        ("redis: {url: 'redis+sentinel://a:1,b:2'}", 1, "redis.url", "must name the primary"),
        ("redis: {url: 'redis+sentinel://a:1,/main'}", 1, "redis.url", "some sentinels as host:port"),
        ("redis: {url: 'redis+sentinel://a/main?ssl_ca_certs=f'}", 1, "redis.url", "needs rediss+sentinel://"),
        ("redis: {url: 'redis://a?sentinel_password=x'}", 1, "redis.url", "sentinel_password is not supported"),
        ("database: {url: mysql://u:p@h/x}", 1, "database.url", "postgresql://user:password@host:5432/name"),
        ("database: {url: 'postgresql://u:s/cret@h/x'}", 1, "database.url", "a password with / #"),
        ("database: {url: 'postgresql://h/x?pgbouncer=true'}", 1, "database.url", "pgbouncer is not supported"),
        ("database: {password: x}", 1, "database.password", "embedded ones have passwords by themselves"),
        ("redis: {url: 'redis://:s/cret@h:6379'}", 1, "redis.url", "a password with / #"),
        ("redis: {url: 'redis://h/x'}", 1, "redis.url", "database by a number"),
        ("redis: {url: 'rediss://h?socket_timeout=5'}", 1, "redis.url", "socket_timeout is not supported"),
        ("redis: {url: 'redis://h?ssl_ca_certs=f'}", 1, "redis.url", "ssl_ca_certs needs rediss://"),
        ("keys: {prefix: Gw_}", 1, "keys.prefix", "lower-case"),
        ("server: {public: 127.0.0.1:9, admin: 127.0.0.1:9}", 1, "server.admin", "must differ from server.public"),
        ("server: {admin: 127.0.0.1:9, health: 127.0.0.1:9}", 1, "server.health", "must differ from server.admin"),
        ("server:\n  workers: 1\n  workers: 2", 3, "server.workers", "is written twice, first on line 2"),
        ("plans: [{id: p, name: P, price: 9,99}]", 1, "plans[0].99", "decimals have a point"),
        ("prices: {p: {reader: openai, models: {m: {input: 2,5 }}}}", 1, "prices.p.models.m.5", "without a colon"),
        ("server:\n  ? workers\n", 2, "server.workers", "without a colon"),
        ("data_dir: ~nobody-we-know/x", 1, "data_dir", "cannot be found"),
        ("upstreams: {a b: {targets: [http://a]}}", 1, "upstreams.a b.name", "letters, digits"),
        ("routes: 5", 1, "routes", "must be a list"),
        ("- a", 1, "", "must be a mapping of sections"),
        ("server: {public: [", 1, "", "not YAML"),
        ("a: \x00", None, "", "not YAML"),
        ("server: &a [*a]", 1, "server", "nested too deeply"),
        ("routes: " + "[" * 3000, None, "", "nested too deeply"),
        ("upstreams: {ai: {name: x, targets: [http://a]}}", 1, "upstreams.ai.name", "is the key above"),
        ("upstreams: {ai: {}}", 1, "upstreams.ai.targets", "is required"),
        ("upstreams: {ai: {targets: []}}", 1, "upstreams.ai.targets", "at least one"),
        (
            "upstreams: {ai: {targets: [http://a/b%20]}}",
            1,
            "upstreams.ai.targets[0]",
            "perhaps a plain path",
        ),
        ("upstreams: {ai: {targets: ['http://u:p@a']}}", 1, "upstreams.ai.targets[0]", "must not hold a user"),
        ("billing: {packs: [{id: a, name: b, credits: 0, price: 1}]}", 1, "billing.packs[0].credits", "at least 1"),
        ("billing: {success_url: paid.html}", 1, "billing.success_url", "must be a URL"),
    ],
)
def test_error_says_where_it_is_and_what_is_allowed(
    problems_of: Problems, text: str, line: int | None, key: str, message: str
) -> None:
    problem = problems_of(text)[0]

    assert (problem.origin.line, problem.key) == (line, key)
    assert message in problem.message


def test_missing_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: does not exist"):
        load(tmp_path / "nowhere.yaml", SECRETS)


@pytest.mark.parametrize("content", [b"\xff", None])
def test_file_that_cannot_be_read_is_an_error_that_names_it(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "gateway.yaml"
    file.mkdir() if content is None else file.write_bytes(content)

    with pytest.raises(ConfigError, match=r"gateway\.yaml: cannot be read"):
        load(file, SECRETS)


def test_yaml_words_that_once_were_booleans_and_octals_are_text(load_text: Load) -> None:
    config = load_text("""
        upstreams: {no: {targets: [http://a], headers: {x-a: on, x-b: 010, x-c: 1:30}}}
        routes: [{name: off, match: {path: /}, upstream: no, price: {credits: 0.10}}]
    """)

    assert config.upstreams[0].headers == {"x-a": "on", "x-b": "010", "x-c": "1:30"}
    assert config.routes[0].name == "off"
    assert config.routes[0].price == Price(Decimal("0.10"))


def test_header_values_take_variables_and_a_missing_one_is_named(load_text: Load, problems_of: Problems) -> None:
    text = 'upstreams: {ai: {targets: [http://a], headers: {Authorization: "Bearer ${TOKEN} $$5"}}}'

    assert load_text(text, {"TOKEN": "t-1"}).upstreams[0].headers == {"authorization": "Bearer t-1 $5"}
    (problem,) = problems_of(text)
    assert problem.key == "upstreams.ai.headers.Authorization"
    assert "needs the environment variable TOKEN, which is not set" in problem.message


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("{Content-Length: 5}", "is set by the gateway itself"),
        ("{X-Gateway-User: me}", "is set by the gateway itself"),
        ("{a b: c}", "must be a header field"),
        ('{x: "a\\r\\nb: c"}', "must be a header field"),
        ("{x: 1, X: 2}", "is written twice"),
        ('{x: "${unclosed"}', "without a name"),
    ],
)
def test_headers_that_would_break_a_request_are_refused(problems_of: Problems, header: str, message: str) -> None:
    (problem,) = problems_of(f"upstreams: {{ai: {{targets: [http://a], headers: {header}}}}}")

    assert message in problem.message


def test_secrets_of_urls_and_headers_are_in_no_repr_and_no_error(load_text: Load, problems_of: Problems) -> None:
    text = """
        database: {url: "postgresql://u:hunter2@h/x"}
        redis: {url: "rediss://:hunter2@h"}
        upstreams: {ai: {targets: [http://a], headers: {x: hunter2}}}
    """

    assert "hunter2" not in repr(load_text(text, dict.fromkeys(SECRETS, "hunter2" * 5)))
    errors = problems_of("database: {url: 'mysql://hunter2'}\nupstreams: {a: {targets: ['http://u:hunter2@h']}}")
    assert len(errors) == 2
    assert not any("hunter2" in str(problem) for problem in errors)


def test_store_urls_have_a_canonical_scheme(load_text: Load) -> None:
    config = load_text("""
        database: {url: "postgres://u@h/x?sslmode=require"}
        redis: {url: "rediss://h:7000"}
    """)

    assert config.database.url == "postgresql://u@h/x?sslmode=require"
    assert config.redis.url == "rediss://h:7000"


def test_cluster_is_named_by_some_of_its_servers(load_text: Load) -> None:
    url = "rediss+cluster://u:p@a:7000,b,[::1]:7002/0?ssl_cert_reqs=none"

    assert load_text(f"redis: {{url: '{url}'}}").redis.url == url
