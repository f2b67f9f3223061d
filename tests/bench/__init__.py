"""Benchmarks: a generated corpus, the peers that gapwatch is compared with, and how both are measured."""
