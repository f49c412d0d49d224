"""This package's version, as engines record it."""

VERSION = "0.1.0"
