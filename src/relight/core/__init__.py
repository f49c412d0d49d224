"""Pure logic: no I/O, no threads, no clock reads, no randomness. Checked by import-linter."""
