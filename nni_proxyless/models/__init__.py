"""Derived networks: the file, the timm model, its record, drawings, export. Most of it needs no NNI."""
