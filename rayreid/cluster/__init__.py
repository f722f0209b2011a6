"""From a laptop to a cluster: submit a verb as a job, follow it, fetch its results."""
