"""Lookup tables of measured operations: building, checking, predicting rows, measuring on another machine."""
