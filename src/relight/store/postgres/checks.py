"""What ``doctor`` and ``verify`` ask a server about a store's schema: indexes, and the triggers that guard the log.

Must not repair anything. Read next: ``relight/recorder/verify.py``.
"""

from __future__ import annotations

from typing import Any

import psycopg

GUARDS = ("events_no_delete", "events_no_update")
"""The triggers that keep events from being changed."""

_INDEXES = """
SELECT c.relname, i.indisvalid AND i.indisready FROM pg_catalog.pg_index AS i
  JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
 WHERE n.nspname = %s ORDER BY 1"""

_TRIGGERS = """
SELECT t.tgname FROM pg_catalog.pg_trigger AS t
  JOIN pg_catalog.pg_class AS c ON c.oid = t.tgrelid JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
 WHERE n.nspname = %s AND c.relname = 'events' AND t.tgenabled IN ('O', 'A')"""

_TREES = """
SELECT c.oid FROM pg_catalog.pg_index AS i JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid
  JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace JOIN pg_catalog.pg_am AS a ON a.oid = c.relam
 WHERE n.nspname = %s AND a.amname = 'btree' AND i.indisvalid"""


def damage_in(db: psycopg.Connection[Any], schema: str) -> list[str]:
    """Return what is wrong, one sentence each; empty when nothing is."""
    found = [f"index {name} is not valid: REINDEX it" for name, valid in db.execute(_INDEXES, (schema,)) if not valid]
    there = {name for (name,) in db.execute(_TRIGGERS, (schema,))}
    found += [
        f"trigger {name} on events is missing or disabled: the log can be changed"
        for name in GUARDS
        if name not in there
    ]
    if db.execute("SELECT 1 FROM pg_catalog.pg_extension WHERE extname = 'amcheck'").fetchone():
        for (tree,) in db.execute(_TREES, (schema,)).fetchall():
            try:
                db.execute("SELECT bt_index_check(%s::oid::regclass)", (tree,))
            except psycopg.errors.InsufficientPrivilege:
                break
            except psycopg.DatabaseError as error:
                if not (error.sqlstate or "").startswith("XX"):
                    raise
                found.append(str(error.diag.message_primary))
    return found
