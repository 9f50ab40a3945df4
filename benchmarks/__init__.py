"""Measurements that a reader can repeat; none of them is asserted in a test."""
