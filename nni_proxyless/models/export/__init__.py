"""Derived nets as files that run elsewhere: ``export`` in :mod:`.export`."""
