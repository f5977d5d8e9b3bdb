"""Export derived networks: ``export`` in :mod:`.export`."""
