"""Who may do what over HTTP, how much of it, and what is remembered of it; knows nothing of Ray.

Two places. The **door** (`door`, `connections`) stands in the process that accepts connections: it
bounds them, and their headers, bodies and time, before anything is done for them. The **guard**
(`access`) stands in front of the application: hosts and origins, tokens, scopes, rates, and the
audit log. Both are plain ASGI, so that they hold for every route, those of tomorrow included.
"""
