"""Domain-generalising person re-identification, trained, tuned and served on Ray."""
