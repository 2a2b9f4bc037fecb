"""Checkpoints of the real classes with random weights, a few hundred kilobytes each, saved as their
libraries save them.

With them any graph can be tried on any machine, offline and in seconds: what comes of it is noise,
but it takes the way that the true checkpoint takes.
"""
