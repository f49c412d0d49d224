"""``make demo STORE=postgresql``: ``relight demo`` on a server of its own, which is gone at the end."""

from __future__ import annotations

import subprocess
import sys

from tests.postgres import own_database, own_server

if __name__ == "__main__":
    address = own_server().address(own_database())
    done = subprocess.run([sys.executable, "-m", "relight", "demo", "--store", address, *sys.argv[1:]], check=False)
    sys.exit(done.returncode)
