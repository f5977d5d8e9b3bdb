"""The final training of a derived network: ``train`` in :mod:`.loop`, and what it is made of, a concept per file."""
