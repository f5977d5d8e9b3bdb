"""The final training of a derived network: ``train`` in :mod:`.loop`, and its parts, one per file."""
