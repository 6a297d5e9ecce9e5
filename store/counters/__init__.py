"""Counters: what was taken of each limit. In process here; one atomic step over many limits."""
