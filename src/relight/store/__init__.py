"""Durable state: one protocol, one journal, and a store for each database."""
