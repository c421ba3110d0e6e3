"""Caches to and from the layouts that other tools write and read."""
