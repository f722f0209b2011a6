"""How good a ranking is: metrics, and the reference every model must beat."""
