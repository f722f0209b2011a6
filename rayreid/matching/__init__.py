"""Exact scoring of every query against every gallery crop, in bounded memory."""
