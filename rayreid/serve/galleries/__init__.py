"""Enrolled people: a durable store of embeddings, exact search over it, and proof of erasure."""
