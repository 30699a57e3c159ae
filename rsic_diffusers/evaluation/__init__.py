"""Measuring: metrics, standard codecs at equal bytes, and the commands that make the tables of docs/RESULTS.md."""
