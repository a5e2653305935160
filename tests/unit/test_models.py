"""The models and the schema that the migrations make agree."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest
from peewee import BooleanField, FloatField, ForeignKeyField, IntegrityError
from playhouse.migrations import Runner

from anymind_lite.database import (
    MIGRATIONS_DIR,
    ServerDatabase,
    open_database,
    write_transaction,
)
from anymind_lite.models import (
    MODELS,
    Agent,
    AgentStatus,
    AgentVersion,
    ApiKey,
    ErrorCode,
    Execution,
    ExecutionStatus,
    IdempotencyKey,
    User,
    VersionStatus,
)
from anymind_lite.sandbox.policy import Tier
from tests.unit.conftest import Rows

STATES: list[tuple[Any, str, type[StrEnum]]] = [
    (Agent, "status", AgentStatus),
    (AgentVersion, "status", VersionStatus),
    (Execution, "status", ExecutionStatus),
    (Execution, "error_code", ErrorCode),
    (Execution, "tier", Tier),
]


@contextmanager
def closing_all(opened: ServerDatabase) -> Iterator[ServerDatabase]:
    try:
        yield opened
    finally:
        opened.close_all()


def table_of(model: Any) -> str:
    return str(model._meta.table_name)


def name_of(model: Any) -> str:
    return str(model.__name__)


def fields_of(model: Any) -> dict[str, Any]:
    return {field.column_name: field for field in model._meta.sorted_fields}


def type_in_sql(field: Any) -> str:
    if isinstance(field, BooleanField):
        return "INTEGER"  # SQLite has no other
    if isinstance(field, FloatField):
        return "REAL"
    return "TEXT" if field.field_type == "TEXT" else "INTEGER"


def test_every_table_has_a_model(database: ServerDatabase) -> None:
    tables = {name for name in database.get_tables() if not name.startswith("sqlite_")}
    assert tables == {table_of(model) for model in MODELS} | {"schema_migration"}


@pytest.mark.parametrize("model", MODELS, ids=name_of)
class TestSchema:
    def test_columns_types_and_nullability_agree(
        self, database: ServerDatabase, model: Any
    ) -> None:
        rows = database.execute_sql(f"PRAGMA table_info({table_of(model)})").fetchall()
        stored = {name: (kind, not not_null) for _, name, kind, not_null, _, key in rows if not key}
        declared = {
            name: (type_in_sql(field), field.null)
            for name, field in fields_of(model).items()
            if not field.primary_key
        }
        assert stored == declared
        assert [name for _, name, _, _, _, key in rows if key] == ["id"]

    def test_unique_columns_agree(self, database: ServerDatabase, model: Any) -> None:
        stored = {
            tuple(index.columns) for index in database.get_indexes(table_of(model)) if index.unique
        }
        declared: set[tuple[str, ...]] = {
            (name,) for name, field in fields_of(model).items() if field.unique
        }
        if model is AgentVersion:
            declared.add(("agent_id", "number"))
        if model is IdempotencyKey:
            declared.add(("user_id", "key"))
        assert stored == declared

    def test_foreign_keys_agree_and_cascade(self, database: ServerDatabase, model: Any) -> None:
        rows = database.execute_sql(f"PRAGMA foreign_key_list({table_of(model)})").fetchall()
        stored = {(row[3], row[2], row[4], row[6]) for row in rows}
        declared = {
            (name, table_of(field.rel_model), "id", field.on_delete)
            for name, field in fields_of(model).items()
            if isinstance(field, ForeignKeyField)
        }
        assert stored == declared
        assert {row[3] for row in stored} <= {"CASCADE"}

    def test_every_foreign_key_starts_an_index(self, database: ServerDatabase, model: Any) -> None:
        # Without one a delete of a parent reads the whole table (SQLite manual, "Foreign Keys").
        starts = {index.columns[0] for index in database.get_indexes(table_of(model))}
        keys = {n for n, field in fields_of(model).items() if isinstance(field, ForeignKeyField)}
        assert keys <= starts

    def test_ids_are_autoincrement(self, database: ServerDatabase, model: Any) -> None:
        sql = sql_of(database, table_of(model))
        assert "id INTEGER PRIMARY KEY AUTOINCREMENT" in sql


def sql_of(database: ServerDatabase, table: str) -> str:
    row = database.execute_sql("SELECT sql FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    return str(row[0])


@pytest.mark.parametrize(("model", "column", "states"), STATES)
def test_the_states_are_those_that_the_schema_allows(
    database: ServerDatabase, model: Any, column: str, states: type[StrEnum]
) -> None:
    found = re.search(rf"{column} IN \(([^)]*)\)", sql_of(database, table_of(model)))
    assert found is not None
    assert {word.strip(" '\n") for word in found[1].split(",")} == set(states)


@pytest.mark.parametrize(("model", "column", "states"), STATES)
def test_any_other_state_is_refused(
    rows: Rows, model: Any, column: str, states: type[StrEnum]
) -> None:
    rows.execution(rows.version(rows.agent()))
    for state in states:
        with write_transaction():
            assert model.update({column: state}).execute() == 1
    nothing = [] if getattr(model, column).null else [None]
    for wrong in ("Ready", "", "unknown", *nothing):
        with pytest.raises(IntegrityError), write_transaction():
            model.update({column: wrong}).execute()


def test_rows_from_before_limits_and_codes_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "old.sqlite3"
    old = ServerDatabase(path)
    runner = Runner(old, directory=str(MIGRATIONS_DIR))
    runner.up("0001_initial")
    old.execute_sql("INSERT INTO user VALUES (1, 'a@b.c', 'a', NULL, '-', 1, 'now')")
    old.execute_sql("INSERT INTO agent VALUES (1, 1, 'a', NULL, 'ready', 1, 'now', 'now')")
    old.execute_sql(
        "INSERT INTO agent_version VALUES (1, 1, 1, 'ready', NULL, 'p', 's', 1, 'main:handle', "
        "'name: a', NULL, 1, 'now', 'now')"
    )
    old.execute_sql(
        "INSERT INTO execution VALUES (1, 1, 1, 1, 'failed', '{}', NULL, 'no', NULL, 'now', "
        "NULL, NULL, 'now')"
    )
    old.close_all()
    with closing_all(open_database(path)) as opened:
        wishes = "SELECT limits, allows_processes, concurrency FROM agent_version"
        assert opened.execute_sql(wishes).fetchall() == [(None, 0, None)]
        execution = opened.execute_sql("SELECT error_message, error_code, tier FROM execution")
        assert execution.fetchall() == [("no", None, None)]


@pytest.mark.parametrize("column", ["email", "username"])
def test_people_are_unique_whatever_the_case(rows: Rows, column: str) -> None:
    user, other = rows.user(), rows.user()
    taken = getattr(user, column).upper()
    with pytest.raises(IntegrityError), write_transaction():
        User.update({column: taken}).where(User.id == other.id).execute()


def test_the_id_of_a_deleted_newest_row_is_never_handed_out_again(rows: Rows) -> None:
    kept = rows.execution(rows.version(rows.agent()))
    gone = rows.execution(rows.version(rows.agent()))
    with write_transaction():
        User.delete().where(User.id == gone.user_id).execute()
    new = rows.execution(rows.version(rows.agent()))
    for name in ("id", "agent_id", "agent_version_id", "user_id"):
        before, deleted, after = (getattr(row, name) for row in (kept, gone, new))
        assert before < deleted < after


def test_deleting_a_person_takes_all_that_is_theirs(rows: Rows) -> None:
    agent = rows.agent()
    version = rows.version(agent)
    execution = rows.execution(version)
    other = rows.execution(rows.version(rows.agent()))
    with write_transaction():
        ApiKey.create(user=agent.user, name="k", key_prefix="k", key_hash="h", created_at="now")
        for column, row_id in (("execution", execution.id), ("agent_version", version.id)):
            IdempotencyKey.create(
                user=agent.user, key=column, fingerprint="-", created_at="now", **{column: row_id}
            )
        User.delete().where(User.id == agent.user_id).execute()
    assert [row.id for row in Execution.select()] == [other.id]
    assert [model.select().count() for model in MODELS] == [1, 0, 1, 1, 1, 0]


def test_instants_come_back_as_they_were_written_to_the_millisecond(rows: Rows) -> None:
    agent = rows.agent()
    again = Agent.get_by_id(agent.id)
    written = agent.created_at
    assert again.created_at == written.replace(microsecond=written.microsecond // 1000 * 1000)
    assert again.created_at.utcoffset() == written.utcoffset()
