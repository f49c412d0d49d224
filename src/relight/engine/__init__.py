"""What runs jobs: an incarnation's lock, gate, recovery, claims, its loop and threads."""
