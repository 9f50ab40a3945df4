"""The checks, by topic: plain functions of a BlockCase that raise AssertionError, or NotApplicable."""
