from __future__ import annotations

import re
import string
from pathlib import Path
from urllib.parse import quote

import pytest

from search.config.secrecy import concealed, require_no_password
from search.errors import ConfigError, MachineError
from search.storage.opening import open_storage
from search.storage.places import Place, find_place, places
from search.storage.studies import searched
from tests.processes import study_file


def test_flag_before_environment_before_file_before_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STUDY_STORAGE", "sqlite:///environment.db")
    assert find_place("sqlite:///flag.db", "sqlite:///file.db", "x").secret == "sqlite:///flag.db"
    assert find_place(None, "sqlite:///file.db", "x").secret == "sqlite:///environment.db"
    monkeypatch.delenv("STUDY_STORAGE")
    assert find_place(None, "sqlite:///file.db", "x").secret == "sqlite:///file.db"
    assert find_place(None, None, "x").secret == "sqlite:///studies/x.db"


@pytest.mark.parametrize(
    ("here", "file", "database"),
    [
        (".", None, "studies/x.db"),
        (".", "studies/x.toml", "studies/x.db"),
        (".", "x.toml", "studies/x.db"),
        ("studies", "x.toml", "x.db"),
        ("studies", None, "x.db"),
        ("other", "../studies/x.toml", "../studies/x.db"),
        ("other", "../x.toml", "../studies/x.db"),
        ("other", "/tmp/x.toml", "/tmp/studies/x.db"),
        (".", "bundle/study.toml", "studies/x.db"),  # what is proved stays as it is
        ("bundle", "study.toml", "studies/x.db"),
    ],
)
def test_a_database_lies_beside_the_study_file(
    here: str, file: str | None, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("studies", "other", "bundle"):
        (tmp_path / name).mkdir()
    (tmp_path / "bundle" / "metrics.json").write_text("{}")
    monkeypatch.chdir(tmp_path / here)
    monkeypatch.delenv("STUDY_STORAGE", raising=False)
    place = find_place(None, None, "x", Path(file) if file else None)
    assert place.file == Path(database)
    assert Place.of(place.secret) == place


def test_names_that_urls_give_a_meaning_are_names_in_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = tmp_path / "b%20c#d"
    odd.mkdir()
    monkeypatch.delenv("STUDY_STORAGE", raising=False)
    place = find_place(None, None, "x", odd / "x.toml")
    assert place.file == odd / "studies" / "x.db"
    assert Place.of(place.secret).file == place.file


@pytest.mark.parametrize("rest", ["me:s3cret@host/db", "me@host/db?password=s3cret"])
def test_a_password_on_the_command_line_is_refused_and_not_repeated(rest: str) -> None:
    with pytest.raises(ConfigError, match="STUDY_STORAGE") as caught:
        find_place(f"postgresql://{rest}", None, "x")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "given_url",
    [
        "postgresql://me:s3cret@127.0.0.1:1/db",
        "postgresql://me:s3cret{@127.0.0.1:1/db",
        "postgresql://me@127.0.0.1:1/db?password=s3cret",
        "mysql://me:s3cret@127.0.0.1:1/db",
        "oracle://me:s3cret@host/db",
        "s3cret",
        "postgresql://me:s3cret@host:port/db",
        "postgresql://me:{s3cret}@127.0.0.1:1/db",
        "postgresql://me:p@s3cret@127.0.0.1:1/db",
        "postgresql://me:p@a/s3cret@127.0.0.1:1/db",
        "postgresql://me:p@a?b=s3cret@127.0.0.1:1/db",
        "postgresql://me:p@a?s3cret@127.0.0.1:1/db",
        "postgresql://me:p@a:s3cret@127.0.0.1:1/db",
        "postgresql://me/x:s3cret@127.0.0.1:1/db",
        "postgresql:///me:s3cret@127.0.0.1:1/db",
        "postgresql://me:%73%33cret@[::1]:1/db",
        "postgresql://me:s3cret%0A%25%7B@[::1]:1/db",
        "postgresql://me@127.0.0.1:1/db?options=-c%20s3cret",
        "postgresql://me@127.0.0.1:1/db?bogus=s3cret",
        "postgresql://me@127.0.0.1:1/db?password=a&s3cret",
        "postgresql://me@127.0.0.1:1/db?pass%77ord=s3cret",
        "postgresql://127.0.0.1:1/db?service=s3cret",
        "postgresql://127.0.0.1:1/db?sslkey=s3cret&sslkey=s3cret2",
        "mysql://me:s3cret@127.0.0.1:1/db?passwd=s3cret",
        "mysql://me@127.0.0.1:1/db?connect_timeout=1&init_command=s3cret",
        "sqlite://me:s3cret@host/db",
        "sqlite:////no/such/folder/a.db?key=s3cret",
    ],
)
def test_no_error_repeats_a_password(
    given_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with (
        pytest.raises((ConfigError, MachineError)) as caught,
        open_storage(Place.of(given_url)),
    ):
        pass
    assert "s3cret" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None  # a traceback would print that
    assert not list(tmp_path.iterdir()), "nothing is made of what is refused"


@pytest.mark.parametrize("sign", string.punctuation)
def test_a_password_of_any_punctuation_arrives_and_is_not_shown(sign: str) -> None:
    words = f"s3c{sign}r3t"
    for written in {quote(words, safe=""), words} if sign != "@" else {quote(words, safe="")}:
        given = f"postgresql://me:{written}@127.0.0.1:1/db?application_name=x"
        assert Place.of(given).url.password == words
        assert str(Place.of(given)) == (
            "postgresql+psycopg://me:***@127.0.0.1:1/db?application_name=x"
        )
        assert concealed(given) == "postgresql://me:***@127.0.0.1:1/db?application_name=x"
        with pytest.raises(ConfigError, match="STUDY_STORAGE") as refused:
            require_no_password(f"study={{storage='{given}'}}")
        with (
            pytest.raises(MachineError, match="refused") as caught,
            open_storage(Place.of(given)),
        ):
            pass
        assert not re.search("s3c|r3t", f"{caught.value} {refused.value}")


def test_what_is_harmless_is_shown_and_the_rest_is_not() -> None:
    given = "postgresql://me@[::1]:5432/db?host=/run&bogus=1&SSLMODE=require&options=-c x"
    assert str(Place.of(given)).startswith("postgresql+psycopg://me@[::1]:5432/db?")


def test_redacted_and_representation(url: str) -> None:
    assert str(Place.of("postgresql://me:s3cret@host/db")) == "postgresql+psycopg://me:***@host/db"
    with open_storage(place := Place.of(url)) as storage:
        assert repr(storage) == f"StudyStorage({place})"


def test_the_storage_of_a_study_file_is_in_nothing_that_is_kept() -> None:
    config = study_file(storage="postgresql://me:s3cret@host/db")
    assert config.study.storage == "postgresql://me:s3cret@host/db"
    assert "s3cret" not in f"{config!r} {config.to_toml()} {config.model_dump_json()}"
    assert searched(config) == searched(study_file())


def test_runs_lie_beside_the_database() -> None:
    assert Place.of("sqlite:////data/x.db").run_directory("toy") == Path("/data/runs/toy")
    assert Place.of("postgresql://host/db").run_directory("toy") == Path("studies/runs/toy")


def test_a_folder_of_studies_that_cannot_be_read_is_not_taken_for_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STUDY_STORAGE", raising=False)
    assert places(None) == []
    (tmp_path / "studies").symlink_to("studies")  # it leads to itself
    with pytest.raises(MachineError, match="studies: Too many levels of symbolic links; name"):
        places(None)
