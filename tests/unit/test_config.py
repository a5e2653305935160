"""Settings: precedence, sources, what is accepted, and that code, config.toml and docs agree."""

import logging
import os
import random
import re
import string
import subprocess
import sys
import tomllib
import typing
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from anymind_lite.config import (
    SETTINGS,
    LoadedSettings,
    Settings,
    SettingsError,
    load_settings,
)
from anymind_lite.errors import StartupError
from anymind_lite.setting_kinds import mask_database_url

PROJECT = Path(__file__).parents[2]
KEY = "k3y-" * 16  # 64 bytes

Load = Callable[..., LoadedSettings]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Write the files given and load the settings of their folder."""

    def load_files(
        *,
        toml: str | bytes | None = None,
        dotenv: str | bytes | None = None,
        environ: Mapping[str, str] | None = None,
        overrides: Mapping[str, object] | None = None,
    ) -> LoadedSettings:
        for name, content in (("config.toml", toml), (".env", dotenv)):
            if content is not None:
                raw = content.encode() if isinstance(content, str) else content
                (tmp_path / name).write_bytes(raw)
        return load_settings(tmp_path, environ=environ or {}, overrides=overrides)

    return load_files


def problems_of(load: Load, **files: object) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        load(**files)
    return caught.value.problems


# Precedence and sources


@pytest.mark.parametrize(
    ("places", "port", "source"),
    [
        ("", 8000, "default"),
        ("toml", 8001, "config.toml, [server]"),
        ("toml dotenv", 8002, ".env, line 2"),
        ("toml dotenv environ", 8003, "environment"),
        ("toml dotenv environ overrides", 8004, "command line"),
        ("toml overrides", 8004, "command line"),
        ("dotenv", 8002, ".env, line 2"),
    ],
)
def test_first_place_in_order_counts(load: Load, places: str, port: int, source: str) -> None:
    everything: dict[str, object] = {
        "toml": "[server]\nserver_port = 8001\n",
        "dotenv": "# the port\nSERVER_PORT=8002\n",
        "environ": {"SERVER_PORT": "8003"},
        "overrides": {"SERVER_PORT": 8004},
    }
    loaded = load(**{place: everything[place] for place in places.split()})
    assert loaded.settings.server_port == port
    assert str(loaded.sources["SERVER_PORT"]) == source


@pytest.mark.parametrize("empty", ["", " ", "\t"])
def test_empty_variable_is_unset(load: Load, empty: str) -> None:
    loaded = load(
        environ={"SERVER_PORT": empty, "SECRET_KEY": empty, "DEBUG": empty, "CORS_ORIGINS": empty},
        dotenv="SERVER_PORT=8002\nDEBUG=\n",
    )
    assert loaded.settings.server_port == 8002
    assert loaded.settings.secret_key is None
    assert loaded.settings.debug is False
    assert len(loaded.settings.cors_origins) == 2
    assert str(loaded.sources["DEBUG"]) == "default"


def test_flag_that_was_not_given_is_no_value(load: Load) -> None:
    loaded = load(overrides={"SERVER_PORT": None, "SERVER_HOST": "::1"})
    assert (loaded.settings.server_port, loaded.settings.server_host) == (8000, "::1")


def test_override_of_no_setting_is_a_mistake_in_the_program(load: Load) -> None:
    with pytest.raises(KeyError, match="PORT"):
        load(overrides={"PORT": 1})


def test_reading_leaves_the_process_alone(
    load: Load, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("APP_NAME", raising=False)
    with caplog.at_level(logging.DEBUG):
        load(dotenv="APP_NAME=other\n")
        problems_of(load, dotenv="no equals sign\n")
    assert "APP_NAME" not in os.environ
    assert not caplog.records


def test_dotenv_lines_are_taken_as_they_stand(load: Load) -> None:
    loaded = load(
        dotenv='\ufeff\r\n\r\nexport APP_NAME="a # b"\r\nAPP_VERSION=${HOME}$X # note\r\n'
        "SERVER_PORT=1\nSERVER_PORT=2\n"
    )
    assert loaded.settings.app_name == "a # b"
    assert loaded.settings.app_version == "${HOME}$X"
    assert loaded.settings.server_port == 2
    assert str(loaded.sources["APP_NAME"]) == ".env, line 3"
    assert str(loaded.sources["SERVER_PORT"]) == ".env, line 6"


# Values


ACCEPTED: list[tuple[str, str, object]] = [
    *[("DEBUG", word, True) for word in ("true", "True", "TRUE", "1", "yes", "on", " on ")],
    *[("DEBUG", word, False) for word in ("false", "False", "0", "no", "OFF")],
    ("SERVER_PORT", "0", 0),
    ("SERVER_PORT", "65535", 65535),
    ("SERVER_HOST", "0.0.0.0", "0.0.0.0"),
    ("SERVER_HOST", "::", "::"),
    ("SERVER_HOST", "my-host.local", "my-host.local"),
    ("ALGORITHM", "hs256", "HS256"),
    ("LOG_LEVEL", "debug", "DEBUG"),
    ("SECRET_KEY", "x" * 32, "x" * 32),
    ("SECRET_KEY", "é" * 16, "é" * 16),
    ("EXECUTION_TIMEOUT_SECONDS", "0.5", 0.5),
    ("MAX_TIMEOUT_SECONDS", "3600", 3600.0),
    ("MIN_TIER", "a", "A"),
    ("EXECUTION_QUEUE_SIZE", "0", 0),
    ("LOGIN_RATE_LIMIT", "5/Hour", "5/hour"),
    ("LOGIN_RATE_LIMIT", "off", None),
    ("CORS_ORIGINS", "*", ("*",)),
    ("CORS_ORIGINS", "none", ()),
    ("CORS_ORIGINS", "HTTPS://Example.COM:443, http://a:80", ("https://example.com", "http://a")),
    ("CORS_ORIGINS", "http://a:443,http://a:443", ("http://a:443",)),
    ("CORS_ORIGINS", "http://[::1]:3000", ("http://[::1]:3000",)),
    ("CORS_ORIGINS", "capacitor://localhost", ("capacitor://localhost",)),
]


@pytest.mark.parametrize(("name", "text", "value"), ACCEPTED)
def test_value_is_accepted(load: Load, name: str, text: str, value: object) -> None:
    attribute = {setting.name: setting.attribute for setting in SETTINGS}[name]
    assert getattr(load(environ={name: text}).settings, attribute) == value
    assert getattr(load(overrides={name: text}).settings, attribute) == value


REFUSED = [
    *[("DEBUG", text) for text in ("2", "app:*", "truee", "ja")],
    *[("SERVER_PORT", text) for text in ("-1", "65536", "80a", "8_0", "8.0", "1e3", "+8", "0x50")],
    *[("SERVER_PORT", text) for text in ("\u0661", "\uff18", "9" * 5000, "None", "8 0", "tcp")],
    *[("EXECUTION_TIMEOUT_SECONDS", text) for text in ("0", "nan", "inf", "-1", "1e2", "3601")],
    *[("EXECUTION_TIMEOUT_SECONDS", text) for text in ("1_0", "30s", ".", "1.", "\u0661")],
    *[("SERVER_HOST", text) for text in ("localhost:80", "http://a", "1.2.3", "999.1.1.1", "a b")],
    *[("LOGIN_RATE_LIMIT", text) for text in ("10", "0/minute", "10/week", "-1/day", "10 / day")],
    *[
        ("CORS_ORIGINS", text)
        for text in ("example.com", "http://a/", "http://a/b", "http://", ",")
    ],
    *[
        ("CORS_ORIGINS", text)
        for text in ("http://a:0", "http://a:65536", "http://*.a", "*,http://a")
    ],
    *[
        ("CORS_ORIGINS", text)
        for text in ("http://u:p@a", "null", "http://a http://b", "http://a,")
    ],
    *[("ALGORITHM", text) for text in ("none", "RS256", "HS1")],
    *[("MIN_TIER", text) for text in ("D", "AB", "0")],
    *[("LOG_LEVEL", text) for text in ("TRACE", "10")],
    *[("SECRET_KEY", text) for text in ("short", "x" * 31, "your-secret-key-change-in-production")],
    *[("APP_NAME", text) for text in ("x" * 101, "a\nb", "a\x00b", "\udcff", "a\u2028b")],
    *[("DATA_DIR", text) for text in ("~/data", "a\x00b", "a\nb")],
    *[
        ("DATABASE_URL", text)
        for text in ("postgresql://u:p@h/d", "anymind.db", "sqlite", "sqlite:")
    ],
    *[("DATABASE_URL", text) for text in ("sqlite://", "sqlite:///", "sqlite:///:memory:")],
    *[
        ("DATABASE_URL", text)
        for text in ("sqlite://host/a", "sqlite:///a?mode=ro", "sqlite:///a/")
    ],
    *[
        ("DATABASE_URL", text)
        for text in ("sqlite:///..", "sqlite:///.", "sqlite:///~/a", "mysql:x")
    ],
    ("WORKER_CONCURRENCY", "0"),
    ("WORKER_CONCURRENCY", "257"),
    ("PASSWORD_HASH_ROUNDS", "3"),
    ("PASSWORD_HASH_ROUNDS", "17"),
    ("UPLOAD_MAX_SIZE", "0"),
    ("ACCESS_TOKEN_EXPIRE_MINUTES", "525601"),
]


@pytest.mark.parametrize(("name", "text"), REFUSED)
def test_value_is_refused_with_name_and_source(load: Load, name: str, text: str) -> None:
    for place, source in (("environ", "environment"), ("overrides", "command line")):
        (problem,) = problems_of(load, **{place: {name: text}})
        assert problem.startswith(f"{name} ({source}) is ")
        assert "accepted is " in problem
        assert problem.isprintable()
        assert len(problem) < 350


TOML_ACCEPTED: list[tuple[str, str, object]] = [
    ("[server]\nserver_port = 8_001", "server_port", 8001),
    ("[execution]\nexecution_timeout_seconds = 2", "execution_timeout_seconds", 2.0),
    ("[execution]\nexecution_timeout_seconds = 2.5", "execution_timeout_seconds", 2.5),
    ("[app]\ndebug = true", "debug", True),
    ("[cors]\ncors_origins = []", "cors_origins", ()),
    ("[cors]\ncors_origins = 'http://a, http://b'", "cors_origins", ("http://a", "http://b")),
    ("[cors]\ncors_origins = ['*']", "cors_origins", ("*",)),
    ("[security]\nsecret_key = ''", "secret_key", None),
    ("\ufeff[app]\napp_name = 'é'", "app_name", "é"),
]


@pytest.mark.parametrize(("toml", "attribute", "value"), TOML_ACCEPTED)
def test_toml_value_is_accepted(load: Load, toml: str, attribute: str, value: object) -> None:
    assert getattr(load(toml=toml).settings, attribute) == value


TOML_REFUSED = [
    ("[server]\nserver_port = '8000'", 'is "8000": it stands in quotes'),
    ("[server]\nserver_port = true", "is true: accepted is a whole number"),
    ("[server]\nserver_port = 80.0", "is 80.0: accepted is a whole number"),
    ("[server]\nserver_port = 0x" + "f" * 9999, "is a huge number: accepted"),
    ("[server]\nserver_port = 2026-01-01", "is a date: accepted"),
    ("[server]\nserver_port = [1]", "is a list: accepted"),
    ("[server]\nserver_port.a = 1", "is a table: accepted"),
    ("[server]\nserver_host = ''", "it is empty"),
    ("[server]\nserver_host = 5", "is 5: accepted is a host name"),
    ("[app]\ndebug = 1", "is 1: accepted is true or false"),
    ("[app]\ndebug = 'true'", "it stands in quotes"),
    ("[execution]\nexecution_timeout_seconds = nan", "is nan: accepted"),
    ("[execution]\nexecution_timeout_seconds = inf", "is inf: accepted"),
    ("[execution]\nexecution_timeout_seconds = true", "is true: accepted"),
    ("[cors]\ncors_origins = ['http://a', 5]", "each is scheme://host"),
    ("[cors]\ncors_origins = ''", "it is empty"),
    ("[security]\nsecret_key = 1234567890", "is ****: accepted"),
    ("[server]\nserver_prot = 1", 'no setting "server_prot"; did you mean server_port?'),
    ("[server]\nSERVER_PORT = 1", "did you mean server_port?"),
    ("[server]\n'a\\nb' = 1", "no setting"),
    ("[app]\nserver_port = 1", "[app]: server_port belongs under [server]"),
    ("server_port = 1", "server_port belongs under [server]"),
    ("[servr]\nserver_port = 1", 'no table "servr"; did you mean server?'),
    ("server = 1", "server is a table and is written [server]"),
    ("[[server]]\nserver_port = 1", "server is a table and is written [server]"),
    ("[server\n", "config.toml is not valid TOML: "),
    ("[server]\nserver_port = 1\nserver_port = 2\n", "config.toml is not valid TOML: "),
    ("[server]\nserver_port = " + "9" * 9999, "config.toml is not valid TOML: "),
    ("a = " + "[" * 50000, "config.toml is not valid TOML: "),
]


@pytest.mark.parametrize(
    ("toml", "expected"), TOML_REFUSED, ids=[expected for _, expected in TOML_REFUSED]
)
def test_mistake_in_toml_is_told(load: Load, toml: str, expected: str) -> None:
    (problem,) = problems_of(load, toml=toml)
    assert expected in problem
    assert "config.toml" in problem
    assert "\n" not in problem


DOTENV_REFUSED = [
    ("SERVER_PROT=1", '.env, line 1: there is no setting "SERVER_PROT"; did you mean SERVER_PORT?'),
    ("\n\nserver_port=1", ".env, line 3: "),
    ("FOO_BAR_BAZ=1", '.env, line 1: there is no setting "FOO_BAR_BAZ"'),
    ("ANYMIND_API_KYE=1", "did you mean ANYMIND_API_KEY?"),
    ("\nSERVER_PORT", ".env, line 2: this is not NAME=value"),
    ("=8000", ".env, line 1: this is not NAME=value"),
    ("SERVER_PORT='1", ".env, line 1: this is not NAME=value"),
    ("SERVER_PORT=x", 'SERVER_PORT (.env, line 1) is "x"'),
]


@pytest.mark.parametrize(("dotenv", "expected"), DOTENV_REFUSED)
def test_mistake_in_dotenv_is_told(load: Load, dotenv: str, expected: str) -> None:
    (problem,) = problems_of(load, dotenv=dotenv)
    assert expected in problem


@pytest.mark.parametrize("name", [".env", "config.toml"])
def test_file_that_cannot_be_read_as_text_is_told(tmp_path: Path, load: Load, name: str) -> None:
    file = tmp_path / name
    file.write_bytes(b"# one\n# two \xff\n")
    assert problems_of(load) == (f"{file} is not UTF-8 text: see line 2",)
    file.write_bytes(b"#" * (1024 * 1024 + 1))
    assert problems_of(load) == (f"{file} is larger than 1048576 bytes",)
    file.unlink()
    file.mkdir()
    assert problems_of(load) == (f"{file} cannot be read: Is a directory",)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
@pytest.mark.parametrize("name", [".env", "config.toml"])
def test_file_without_permission_is_told(tmp_path: Path, load: Load, name: str) -> None:
    (tmp_path / name).touch(mode=0)
    assert problems_of(load) == (f"{tmp_path / name} cannot be read: Permission denied",)


def test_every_wrong_value_is_listed_at_once(load: Load) -> None:
    problems = problems_of(
        load,
        toml="[server]\nserver_port = 'x'\n[nowhere]\n",
        dotenv="SERVER_PROT=1\nDEBUG=maybe\njunk\n",
        environ={"WORKER_CONCURRENCY": "0", "BUILD_WORKERS": "99"},
        overrides={"LOG_LEVEL": "loud"},
    )
    assert len(problems) == 8


def test_error_is_a_startup_error_with_a_line_for_each_problem(load: Load) -> None:
    with pytest.raises(StartupError) as caught:
        load(environ={"SERVER_PORT": "x", "DEBUG": "x"})
    lines = str(caught.value).splitlines()
    assert lines[0] == "2 settings are wrong:"
    assert [line[:10] for line in lines[1:]] == ["  DEBUG (e", "  SERVER_P"]


def test_hidden_value_is_checked_in_a_file_but_not_in_the_environment(load: Load) -> None:
    assert load(environ={"DEBUG": "app:*"}, overrides={"DEBUG": True}).settings.debug is True
    (problem,) = problems_of(load, dotenv="DEBUG=app:*", environ={"DEBUG": "1"})
    assert ".env" in problem


def test_problem_for_a_hidden_value_does_not_repeat_as_a_relation(load: Load) -> None:
    problems = problems_of(
        load, environ={"EXECUTION_MEMORY_MB": "x", "EXECUTION_ADDRESS_SPACE_MB": "64"}
    )
    assert len(problems) == 1


RELATIONS = [
    ({"EXECUTION_MEMORY_MB": "2048"}, "at least EXECUTION_MEMORY_MB, which is 2048"),
    ({"MAX_MEMORY_MB": "255"}, "must be at least EXECUTION_MEMORY_MB, which is 256"),
    ({"EXECUTION_MEMORY_MB": "1025", "EXECUTION_ADDRESS_SPACE_MB": "2048"}, "MAX_MEMORY_MB"),
    ({"EXECUTION_TIMEOUT_SECONDS": "300.5"}, "EXECUTION_TIMEOUT_SECONDS, which is 300.5"),
    ({"EXECUTION_ADDRESS_SPACE_MB": "4097"}, "at least EXECUTION_ADDRESS_SPACE_MB, which is 4097"),
    ({"MAX_MEMORY_MB": "4097"}, "at least MAX_MEMORY_MB, which is 4097"),
    ({"MAX_FILE_MB": "31"}, "at least EXECUTION_FILE_MB, which is 32"),
    ({"MAX_SCRATCH_MB": "63"}, "at least EXECUTION_SCRATCH_MB, which is 64"),
    ({"MAX_SCRATCH_FILES": "4095"}, "at least EXECUTION_SCRATCH_FILES, which is 4096"),
    ({"MAX_OPEN_FILES": "63"}, "at least EXECUTION_OPEN_FILES, which is 64"),
    ({"MAX_PROCESSES": "63"}, "at least EXECUTION_PROCESSES, which is 64"),
    ({"EXECUTION_LOG_KB": "2048", "EXECUTION_LOG_WRITTEN_MB": "1"}, "EXECUTION_LOG_WRITTEN_MB"),
    ({"SECRET_KEY": "x" * 40, "ALGORITHM": "HS512"}, "it has 40 bytes; HS512 needs 64"),
    ({"STORAGE_PATH": "./data"}, "a folder of its own"),
    ({"STORAGE_PATH": "data/x/.."}, "a folder of its own"),
    ({"STORAGE_PATH": "."}, "a folder of its own"),
    ({"STORAGE_PATH": "/"}, "a folder of its own"),
    ({"STORAGE_PATH": "data/code"}, "must not lie in code"),
    ({"STORAGE_PATH": "data/run/a"}, "must not lie in run"),
    ({"DATABASE_URL": "sqlite:///data/code/a.db"}, "must not lie in code"),
    ({"DATABASE_URL": "sqlite:///data/artifacts/a.db"}, "among the artifacts"),
    ({"DATABASE_URL": "sqlite:///data/queue.sqlite3"}, "for something else"),
    ({"DATABASE_URL": "sqlite:///data/secret.key"}, "for something else"),
]


@pytest.mark.parametrize(("environ", "expected"), RELATIONS)
def test_settings_that_do_not_fit_are_told(
    load: Load, environ: dict[str, str], expected: str
) -> None:
    problems = problems_of(load, environ=environ)
    assert any(expected in problem and "environment" in problem for problem in problems)


def test_settings_that_just_fit_are_accepted(load: Load) -> None:
    load(
        environ={
            "EXECUTION_MEMORY_MB": "1024",
            "EXECUTION_TIMEOUT_SECONDS": "300",
            "MAX_PROCESSES": "64",
            "EXECUTION_LOG_KB": "1024",
            "EXECUTION_LOG_WRITTEN_MB": "1",
            "SECRET_KEY": KEY,
            "ALGORITHM": "HS512",
        }
    )


# Paths


def test_paths_follow_the_data_folder(tmp_path: Path, load: Load) -> None:
    settings = load(environ={"DATA_DIR": "other"}).settings
    assert settings.data_dir == tmp_path / "other"
    assert settings.database_path == tmp_path / "other/anymind.sqlite3"
    assert settings.storage_path == tmp_path / "other/artifacts"
    assert settings.secret_key_path == tmp_path / "other/secret.key"
    assert settings.queue_path == tmp_path / "other/queue.sqlite3"


@pytest.mark.parametrize(
    ("name", "text", "attribute", "expected"),
    [
        ("DATABASE_URL", "sqlite:///db/a.sqlite3", "database_path", "{project}/db/a.sqlite3"),
        ("DATABASE_URL", "sqlite:////srv/a.sqlite3", "database_path", "/srv/a.sqlite3"),
        ("DATABASE_URL", "SQLite:////srv/A%20b c.db", "database_path", "/srv/A%20b c.db"),
        ("STORAGE_PATH", "./storage", "storage_path", "{project}/storage"),
        ("STORAGE_PATH", "/srv/storage", "storage_path", "/srv/storage"),
        ("DATA_DIR", "/srv/data", "data_dir", "/srv/data"),
    ],
)
def test_relative_paths_start_at_the_project(
    tmp_path: Path, load: Load, name: str, text: str, attribute: str, expected: str
) -> None:
    settings = load(environ={name: text}).settings
    assert getattr(settings, attribute) == Path(expected.format(project=tmp_path))


def test_paths_are_absolute_for_a_relative_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load_settings(Path(), environ={}, overrides={"DATA_DIR": Path("d")}).settings
    assert settings.data_dir == tmp_path / "d"
    assert settings.database_path.is_absolute()


# Secrets


@pytest.mark.parametrize("key", ["hush-hush", "hush-hush" * 10])
def test_secret_key_is_never_shown(load: Load, key: str) -> None:
    for files in (
        {"environ": {"SECRET_KEY": key, "ALGORITHM": "HS1"}},
        {"dotenv": f"SECRET_KEY={key}\nALGORITHM=HS1\nhush-hush\n"},
        {"toml": f"[security]\nsecret_key = ['{key}']\n"},
    ):
        assert "hush" not in "".join(problems_of(load, **files))


def test_secret_key_is_masked_when_it_is_right(load: Load) -> None:
    loaded = load(environ={"SECRET_KEY": KEY})
    shown = {setting.name: setting for setting in loaded.shown()}
    assert shown["SECRET_KEY"].value == "**** (set)"
    assert shown["SECRET_KEY"].source == "environment"
    assert KEY not in repr(loaded)


def test_shown_settings_are_those_in_force(tmp_path: Path, load: Load) -> None:
    loaded = load(dotenv="DEBUG=on\nCORS_ORIGINS=none\nLOGIN_RATE_LIMIT=off\n")
    shown = {setting.name: setting.value for setting in loaded.shown()}
    assert list(shown) == [setting.name for setting in SETTINGS]
    assert shown["DEBUG"] == "true"
    assert shown["CORS_ORIGINS"] == "none"
    assert shown["LOGIN_RATE_LIMIT"] == "off"
    assert shown["SECRET_KEY"] == "not set"
    assert shown["EXECUTION_TIMEOUT_SECONDS"] == "30"
    assert shown["DATABASE_URL"] == f"sqlite:///{tmp_path}/data/anymind.sqlite3"


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("sqlite:////srv/a.sqlite3", "sqlite:////srv/a.sqlite3"),
        ("sqlite://u:hush@h/a", "sqlite://****@h/a"),
        ("sqlite:///a?key=hush", "sqlite:///a?****"),
        ("postgresql://u:hush@h:5432/d", "postgresql://****"),
        ("postgresql://u:hu@sh/@h/d?password=hush", "postgresql://****"),
        ("postgresql+psycopg://h/d?password=hush", "postgresql+psycopg://****"),
        ("host=h password=hush", "****"),
        ("hush", "****"),
        ("", "****"),
    ],
)
def test_database_url_is_masked(load: Load, url: str, masked: str) -> None:
    assert mask_database_url(url) == masked
    if "hush" in url:
        assert "hush" not in "".join(problems_of(load, environ={"DATABASE_URL": url}))


def test_password_in_another_url_is_masked(load: Load) -> None:
    (problem,) = problems_of(load, environ={"CORS_ORIGINS": "https://u:hush@h"})
    assert "hush" not in problem


# Warnings


def test_unknown_variable_of_our_own_earns_a_warning(load: Load) -> None:
    loaded = load(
        environ={"ANYMIND_SERVER_PORT": "1", "ANYMIND_API_URL": "http://a", "SERVER_PROT": "1"},
        dotenv="ANYMIND_API_KEY=k\n",
    )
    assert loaded.warnings == (
        '"ANYMIND_SERVER_PORT" in the environment has no effect; did you mean SERVER_PORT?',
        "ANYMIND_API_KEY in .env has no effect: it is read from the environment only",
    )


# A random value


def test_random_value_gives_settings_or_a_settings_error(load: Load) -> None:
    rng = random.Random(20260131)  # the same values every time
    alphabet = string.printable + "\x00\x1b\u0661\u2028é\udcff\ufeff"
    stems = ["", "sqlite:///", "http://a:", "*", "10/", "~", "1.", "-", "[", "=", "0x", "'"]
    for _ in range(400):
        text = rng.choice(stems) + "".join(rng.choices(alphabet, k=rng.randrange(9)))
        setting = rng.choice(SETTINGS)
        typed: object = rng.choice(
            [text, rng.randrange(-(10**30), 10**30), rng.random(), None, [text], {}]
        )
        dotenv = f"{setting.name}={text}\n".encode(errors="surrogateescape")
        toml = f"[{setting.table}]\n{setting.key} = {text}\n".encode(errors="surrogateescape")
        for files in (
            {"environ": {setting.name: text}},
            {"overrides": {setting.name: typed}},
            {"dotenv": dotenv, "toml": b""},
            {"dotenv": b"", "toml": toml},
        ):
            try:
                loaded = load(**files)
            except SettingsError as error:
                told = error.problems
            else:
                told = tuple(shown.value for shown in loaded.shown())
            assert all(line.isprintable() for line in told)


# One list: config.py, config.toml, docs/configuration.md


@pytest.fixture(scope="module")
def defaults(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return load_settings(tmp_path_factory.mktemp("empty"), environ={}).settings


def test_every_default_is_accepted_and_of_its_type(defaults: Settings) -> None:
    for setting in SETTINGS:
        hint = typing.get_type_hints(Settings)[setting.attribute]
        plain = tuple if hint == tuple[str, ...] else hint
        value = getattr(defaults, setting.attribute)
        assert isinstance(value, plain)


def test_config_toml_holds_every_setting_with_its_default(load: Load, defaults: Settings) -> None:
    text = (PROJECT / "config.toml").read_text(encoding="utf-8")
    written = {(table, key) for table, content in tomllib.loads(text).items() for key in content}
    assert written == {(setting.table, setting.key) for setting in SETTINGS}
    loaded = load(toml=text)
    project = loaded.settings.data_dir.parent
    assert repr(loaded.settings).replace(str(project), "") == repr(defaults).replace(
        str(defaults.data_dir.parent), ""
    )


def test_config_toml_explains_every_setting() -> None:
    lines = (PROJECT / "config.toml").read_text(encoding="utf-8").splitlines()
    for setting in SETTINGS:
        (index,) = [i for i, line in enumerate(lines) if line.startswith(f"{setting.key} = ")]
        comment = ""
        while lines[index - 1].startswith("# "):
            index -= 1
            comment = f"{lines[index][2:]} {comment}"
        assert setting.doc in comment


def test_docs_hold_every_setting_with_its_default() -> None:
    text = (PROJECT / "docs/configuration.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `[A-Z_]+` \|.*$", text, re.MULTILINE)
    assert rows == [
        f"| `{setting.name}` | "
        f"{f'`{setting.default_text}`' if setting.default_text else 'unset'} | "
        f"{setting.kind.accepts} | {setting.doc} |"
        for setting in SETTINGS
    ]


def test_docs_show_the_messages_as_they_are(load: Load) -> None:
    text = (PROJECT / "docs/configuration.md").read_text(encoding="utf-8")
    with pytest.raises(SettingsError) as caught:
        load(
            dotenv="# database\n\n\nDATABASE_URL=postgresql://user:password@localhost:5432/anymind\n"
            "SECRET_KEY=short\nWORKER_CONCURENCY=8\n",
            toml='[server]\nserver_port = "8000"\n[app]\nbuild_workers = 3\n',
            environ={"SERVER_PORT": "80a", "ALGORITHM": "none"},
        )
    assert f"```\n{caught.value}\n```" in text


def test_sample_of_the_specification_needs_two_changes_only(load: Load) -> None:
    problems = problems_of(
        load,
        dotenv="""
            APP_NAME=Agent Management API
            APP_VERSION=1.0.0
            DEBUG=False
            DATABASE_URL=postgresql://user:password@localhost:5432/anymind
            SECRET_KEY=your-secret-key-change-in-production
            ALGORITHM=HS256
            ACCESS_TOKEN_EXPIRE_MINUTES=30
            CORS_ORIGINS=http://localhost:3000,http://localhost:8000
            STORAGE_PATH=./storage
            UPLOAD_MAX_SIZE=104857600
            WORKER_CONCURRENCY=4
        """,
    )
    assert [problem.split()[0] for problem in problems] == ["DATABASE_URL", "SECRET_KEY"]


def test_importing_reads_nothing_and_loads_no_parser() -> None:
    code = (
        "import sys, anymind_lite.config; "
        "print(sorted({'dotenv', 'tomllib', 'difflib'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
