"""The service's routes, a router a topic; each is made of a `rayreid.serve.service.Service`."""
