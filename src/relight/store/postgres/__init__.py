"""The store on PostgreSQL, through psycopg 3. Needs ``pip install relight[postgres]``. Read next: ``store.py``."""

from relight.store.postgres.store import PostgresStore as PostgresStore
