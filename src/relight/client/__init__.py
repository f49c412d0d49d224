"""Clients: submit, inspect and steer jobs from any process, with no engine of their own."""
