"""Latency estimators, one file each: this device, nn-Meter, and counts that stand in for latency."""
