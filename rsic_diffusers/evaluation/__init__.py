"""Measuring: metrics, standard codecs at equal bytes, and the commands that make the README's tables."""
