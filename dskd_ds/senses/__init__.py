"""Sense dictionaries: built, opened, searched, chosen from, looked at, measured."""
